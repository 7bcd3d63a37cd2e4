"""Training with quantization."""
