"""From a float model to integers: calibration, training with quantization, lowering, fidelity."""

if __name__ != "codesign.quant":
    raise ImportError(f"import this package as codesign.quant, not {__name__}")
