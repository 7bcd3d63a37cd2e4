"""FINN's own estimates for a model, exchanged as files, since its environment is incompatible with this one.

`write_request` makes a folder with the model as QONNX, the request, and the script that answers it; the user
runs the script with the Python of an environment that has finn-plus (BSD); `read_estimates` reads the answer,
and `table` lists it with our designs. ``codesign bench finn`` does all of this for one small model, from a
recorded answer or, with ``--finn PYTHON``, anew. FINN builds one engine per layer, all working on different
samples, with weights on chip; ours runs layer by layer, with weights from off-chip memory. So a table has the
interval between samples, the latency of one, and the resources of both. FINN's figures are its analytic
estimates, not synthesized. Its thresholds round ties up where QONNX and this package round to even, so
integers are not compared.
"""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from codesign.errors import InputError, ToolError
from codesign.quant.interop.chain import to_qonnx
from codesign.quant.interop.hls4ml_backend import PART, Model, load_workload

MODEL = "digits-mlp"
"""Model with recorded estimates."""
TARGETS = (2000, 500, 200, 100, 40)
"""Target cycles per sample requested from FINN."""
SCRIPT = "estimate.py"
"""Script that the user runs in FINN's environment, in the request's folder."""
_REQUEST, _MODEL, _RESULT = "request.json", "model.onnx", "result.json"
_RECORDED = f"finn-{MODEL}.json"
_LONGEST_S = 1200


@dataclass(frozen=True, slots=True)
class LayerEstimate:
    """Cycles per sample and resources of one of FINN's layers."""

    name: str
    cycles: int
    dsp: int
    bram18: int
    lut: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimate for one folding of all layers.

    Attributes:
        target_cycles: requested cycles per sample.
        interval_cycles: between samples; that of the slowest layer.
        latency_cycles: of one sample.
        layers: in order.
    """

    target_cycles: int
    interval_cycles: int
    latency_cycles: int
    layers: tuple[LayerEstimate, ...]

    @property
    def row(self) -> "EstimateRow":
        """Sums over all layers, as a row of `table`."""
        dsp, bram18, lut = (sum(getattr(layer, name) for layer in self.layers) for name in ("dsp", "bram18", "lut"))
        name = f"FINN, {self.target_cycles} cycles asked"
        return EstimateRow(name, self.interval_cycles, self.latency_cycles, dsp, bram18, lut)


@dataclass(frozen=True, slots=True)
class Estimates:
    """FINN's answer: its version, the part, and one estimate per target."""

    version: str
    part: str
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """A row of `table`; block RAM in halves of 18 Kbit."""

    name: str
    interval_cycles: int
    latency_cycles: int
    dsp: int
    bram18: int
    lut: int


def write_request(model: Model, folder: Path, target_cycles: Sequence[int], part: str = PART) -> Path:
    """Writes the model, the request and the script that answers it; returns the script.

    Args:
        model: a chain, see `codesign.quant.interop.chain.to_qonnx`.
        folder: created if missing; an earlier answer in it is deleted.
        target_cycles: targets for folding, in cycles per sample, at least one.
        part: device, as Vivado names it.

    Raises:
        InputError: the model is no such chain, or a target is below 1 or missing.
    """
    if not target_cycles or min(target_cycles) < 1:
        raise InputError(f"target cycles {list(target_cycles)}; legal: at least one number, each at least 1")
    converted = to_qonnx(load_workload(model))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _RESULT).unlink(missing_ok=True)
    (folder / _MODEL).write_bytes(converted.SerializeToString())
    request = {"part": part, "target_cycles": [int(cycles) for cycles in target_cycles]}
    (folder / _REQUEST).write_text(json.dumps(request, indent=1) + "\n", encoding="utf-8")
    script = folder / SCRIPT
    script.write_bytes((resources.files("codesign.quant.interop") / "finn_script.py").read_bytes())
    return script


def recorded() -> Estimates:
    """Recorded finn-plus estimates of `MODEL`; the file, ``codesign/data/finn-digits-mlp.json``, states the request."""
    with resources.as_file(resources.files("codesign") / "data" / _RECORDED) as file:
        return _read(file)


def computed(python: Path, folder: Path, targets: Sequence[int] = TARGETS) -> Estimates:
    """Estimates of `MODEL` by an installed finn-plus.

    Args:
        python: interpreter of an environment that has finn-plus.
        folder: folder for the request.
        targets: cycles per sample.

    Raises:
        InputError: no such interpreter.
        ToolError: the script fails, for example without finn-plus.
    """
    if not python.is_file():
        raise InputError(f"{python} is not a file; legal: the Python of an environment that has finn-plus")
    command = (str(python), str(write_request(MODEL, folder, targets)))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"finn-plus did not answer: {error}", command, folder) from error
    if done.returncode != 0:
        raise ToolError("finn-plus failed", command, folder, done.stderr)
    return read_estimates(folder)


def read_estimates(folder: Path) -> Estimates:
    """Reads the answer in a request's folder.

    Raises:
        InputError: there is no answer yet, or it is malformed.
    """
    return _read(folder / _RESULT)


def _read(file: Path) -> Estimates:
    folder = file.parent
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return Estimates(
            str(document["finn"]), str(document["part"]), tuple(_estimate(item) for item in document["estimates"])
        )
    except FileNotFoundError:
        command = f"run {folder / SCRIPT} with the Python of an environment that has finn-plus"
        raise InputError(f"no estimates in {folder}; {command}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} holds no estimates ({' '.join(str(error).split())}); legal: what {SCRIPT} writes"
        ) from error


def _estimate(item: dict[str, object]) -> Estimate:
    layers = item["layers"]
    if not isinstance(layers, list):
        raise TypeError("layers are no list")
    target, interval, latency = (_count(item, f"{name}_cycles") for name in ("target", "interval", "latency"))
    parts = ("cycles", "dsp", "bram18", "lut")
    each = (LayerEstimate(str(layer["name"]), *(_count(layer, name) for name in parts)) for layer in layers)
    return Estimate(target, interval, latency, tuple(each))


def _count(item: dict[str, object], name: str) -> int:
    value = item[name]
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}")
    return value


def table(found: Estimates, ours: Sequence[EstimateRow] = ()) -> str:
    """Formats our rows and FINN's as text, the shortest interval first.

    Args:
        found: FINN's answer.
        ours: our designs; their names should state how the figures were obtained.
    """
    rows = sorted((*ours, *(e.row for e in found.estimates)), key=lambda row: row.interval_cycles)
    heads = ("design", "interval", "latency", "DSP", "BRAM18", "LUT")
    cells = [heads, *((r.name, *map(str, (r.interval_cycles, r.latency_cycles, r.dsp, r.bram18, r.lut))) for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return "\n".join([*lines, f"FINN: estimates of finn-plus {found.version} for {found.part}, not synthesized"])
