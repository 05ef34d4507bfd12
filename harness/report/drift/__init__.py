"""How a value holds along a clip: every published definition of drift from one set of recorded samples."""
