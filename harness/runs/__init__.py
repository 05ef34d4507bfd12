"""What a run folder is: plan, keys, records and clips."""
