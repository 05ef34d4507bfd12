"""Metrics of a clip; heavy imports happen inside `setup`."""
