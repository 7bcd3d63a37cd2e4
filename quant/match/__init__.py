"""Pattern matching in float graphs: the role of each node."""
