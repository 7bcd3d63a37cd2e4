"""Open-source synthesis, and the resource formulas fitted to it."""
