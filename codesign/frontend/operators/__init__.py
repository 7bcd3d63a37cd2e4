"""Float reference implementations of the ONNX operators."""
