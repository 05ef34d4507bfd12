"""The models that are measured: one causal video transformer, its configurations, and adapters around them."""
