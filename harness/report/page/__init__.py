"""A folder to look at runs in a browser: tables, plots, verdicts, and clips side by side."""
