"""What the subcommands of `harness` do. They return text; `harness.cli` prints it."""
