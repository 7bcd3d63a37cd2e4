"""What the operators of a model file compute, in floats."""
