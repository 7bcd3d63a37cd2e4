"""Integer network: layers over matrices, independent of board and design."""
