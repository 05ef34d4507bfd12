"""The program that runs inside a metric environment, and its parent's side."""
