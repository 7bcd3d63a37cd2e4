"""Exact search of any problem made of tabulated terms: axes, bounds of boxes, branching, the front."""
