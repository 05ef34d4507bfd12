"""The video transformer, its attention layers and its streaming cache."""
