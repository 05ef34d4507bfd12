"""Weights that metrics need: what they are, where they come from, and whether they are here."""
