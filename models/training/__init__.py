"""Training stages of the transformer."""
