"""A YAML file becomes a checked suite or recipe."""
