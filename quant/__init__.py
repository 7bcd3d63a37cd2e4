"""From a float model to integers: calibration, quantization-aware training, lowering, fidelity."""

if __name__ != "codesign.quant":
    raise ImportError(f"import this package as codesign.quant, not {__name__}")
