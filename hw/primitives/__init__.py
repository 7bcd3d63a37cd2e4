"""Pieces that every engine is made of: multipliers, memories, queues, and what parts cost."""
