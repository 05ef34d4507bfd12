"""The kernels probe: every form of attention timed against its ceiling."""
