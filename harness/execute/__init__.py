"""Run planned units: clips and scores in this process, measurements in another."""
