"""Building blocks of the engines: multipliers, memories, FIFOs, and the area model of parts."""
