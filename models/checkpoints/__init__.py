"""Weights: where they lie, how they are named, loading, conversion and spectra."""
