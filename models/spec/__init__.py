"""What can be said of a model without torch: sizes, windows, costs, published models."""
