"""Blind studies of the clips of a run: made, served or exported, answered by people, and tallied."""
