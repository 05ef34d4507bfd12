"""What runs inside the vbench environment: imports torch, numpy and that environment's packages, never the core's."""
