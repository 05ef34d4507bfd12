"""A procedural world of moving shapes, the metrics that judge it, and tiny models trained on it."""
