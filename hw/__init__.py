"""The kernels and the generated hardware around them: contract, golden, formulas and RTL."""

if __name__ != "codesign.hw":
    raise ImportError(f"import this package as codesign.hw, not {__name__}")
