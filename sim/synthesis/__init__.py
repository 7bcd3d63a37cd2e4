"""Open synthesis, and the resource formulas fitted to it."""
