"""videomla-bench: run suites over streaming video models, keep records, make tables."""
