"""Self-attention layers of the transformer, and the slow reference they are tested against."""
