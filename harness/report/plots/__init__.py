"""Plots of a run, from its records alone."""
