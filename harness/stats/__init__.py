"""Estimates, intervals and tests over clustered samples."""
