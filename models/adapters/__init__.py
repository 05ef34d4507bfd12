"""Adapters: a name, a window policy and a checkpoint layout each; importing one imports no torch."""
