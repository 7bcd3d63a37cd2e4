"""Every design of many models, boards, clocks and budgets, as rows of Parquet files."""
