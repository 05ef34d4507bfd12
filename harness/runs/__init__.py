"""A run folder: plan, keys, records and clips."""
