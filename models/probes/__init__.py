"""Probes that need the network's code: complexity, rank, kernels, training."""
