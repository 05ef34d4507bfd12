"""Locked environments for metrics whose packages cannot be installed beside each other."""
