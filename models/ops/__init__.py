"""GPU kernels for attention over a latent cache, and the choice between its two forms."""
