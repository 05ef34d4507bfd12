"""Running planned units: one unit, all units in this process, or over many devices."""
