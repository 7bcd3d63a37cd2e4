"""Simulation and checking of generated designs, and open-source synthesis of their parts."""

if __name__ != "codesign.sim":
    raise ImportError(f"import this package as codesign.sim, not {__name__}")
