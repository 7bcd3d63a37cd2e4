"""A request of every kind of combination, and what a folder holds."""

from pathlib import Path

from codesign.sweeps.request import SweepRequest

REQUEST = SweepRequest(
    ("gemm:8x16x16", "gemm:9x70x33"), ("zcu102", "kv260"), (200.0, 300.0), ("all", "dsp=300"), 50, True, 16
)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
