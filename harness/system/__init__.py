"""The machine: files, digests, devices, video. This package knows no suite, run or model."""
