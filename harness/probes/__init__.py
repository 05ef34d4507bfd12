"""Probes: measurements of a live model, alone on its device."""
