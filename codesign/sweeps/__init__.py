"""Sweeps over models, boards, clocks and budgets, written as Parquet files with one row per design."""
