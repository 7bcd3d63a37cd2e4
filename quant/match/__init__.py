"""Structure in a float graph: what its nodes are for."""
