"""Random weights of the metrics, drawn for rehearsals and tests inside the environments that load them."""
