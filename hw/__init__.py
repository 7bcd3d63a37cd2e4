"""Kernels (contract, golden model, formulas, RTL) and the accelerator generated around them."""

if __name__ != "codesign.hw":
    raise ImportError(f"import this package as codesign.hw, not {__name__}")
