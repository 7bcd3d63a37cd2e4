"""Lower bound of the cycles of any program of a network, for arrays of designs."""
