"""A lower bound of the cycles of every program of a network, for arrays of designs."""
