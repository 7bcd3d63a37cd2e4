"""Model files: reading them, what their operators compute in floats, and the models that ship."""
