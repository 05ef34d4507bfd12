"""A toolbox for authors of probes: clocks, repetition, memory, telemetry, audits."""
