"""The machine: files, digests, devices, video. No word of suites, runs or models."""
