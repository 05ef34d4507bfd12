"""Jobs: files that a worker loads by path inside a metric environment; none imports the core's packages."""
