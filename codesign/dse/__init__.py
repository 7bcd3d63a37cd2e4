"""Design-space exploration: the designs for a network on a board as one problem, and ways to search it."""
