"""Board data (one TOML each), the flows that target a board, and the drivers that run on it."""

if __name__ != "codesign.boards":
    raise ImportError(f"import this package as codesign.boards, not {__name__}")
