"""The integer network: layers between matrices, without a board and without a design."""
