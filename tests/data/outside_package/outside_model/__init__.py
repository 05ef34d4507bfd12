"""A model and a metric that are not part of videomla-bench."""
