"""What the command line and the Python face do: one function per verb, same name, same options.

Importing this module needs numpy alone; hardware, simulator and model files are imported when a verb
needs them.
"""

import io
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign import board as _boards
from codesign import bundle as _bundle
from codesign import models as _models
from codesign.archive import read_network
from codesign.board import Board
from codesign.designspace import CHOICES, OBJECTIVES, DesignSpace
from codesign.doctor import Doctor, examine
from codesign.errors import InputError
from codesign.front import Front
from codesign.network import Network, outputs
from codesign.network import run as golden
from codesign.partition import parse_budget
from codesign.plots import Picture
from codesign.report import Report
from codesign.samples import load_arrays, random_samples, samples_of
from codesign.workload import Workload

if TYPE_CHECKING:
    from codesign.assembly import Contents
    from codesign.bench import Bench
    from codesign.sim.check import Sample, Verification
    from codesign.sim.simulator import Library
    from codesign.sweeps import Sweep

SYNTHESES = ("none", "engines", "top")
"""What `verify` may have synthesized."""
TARGETS = ("golden", "sim")
"""Where `run` computes: the golden model in numpy, or the simulated Verilog."""

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[^A-Za-z0-9_.+-]+")


# Values that the verbs return --------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """A built accelerator: the folder that `build` leaves behind, checked against its hashes.

    Attributes:
        stored: its files.
    """

    stored: _bundle.Bundle

    @property
    def path(self) -> Path:
        """The folder."""
        return self.stored.path

    @cached_property
    def report(self) -> Report:
        """Figures of the design and how each came about."""
        return Report.from_json(self.stored.json("report.json"))

    @cached_property
    def network(self) -> Network:
        """The model in integers."""
        return read_network(self.stored.data("network.npz"))

    @cached_property
    def contents(self) -> "Contents":
        """Network, design, program and Verilog, checked against each other."""
        from codesign.assembly import contents

        return contents(self.stored)

    def verify(self, *, kernel: str | None = None, waves: bool = False, seed: int = 0, images: int = 3) -> "Checked":
        """Compares golden model, cycle model and simulated Verilog; see `verify`."""
        return verify(self.path, kernel=kernel, waves=waves, seed=seed, images=images)

    def run(self, x: NDArray[Any] | Mapping[str, NDArray[Any]], *, target: str = "golden") -> "Ran":
        """Runs samples: an array for a model of one input, else one per input name; samples first."""
        arrays = dict(x) if isinstance(x, Mapping) else {"": np.asarray(x)}
        return _run(self, samples_of(self.network, arrays), target)

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True)
class Checked:
    """The result of `verify`.

    Attributes:
        path: the bundle's folder.
        report: the report, with the result in it if the whole model was verified.
        results: what was compared, by layer if a kernel was verified, else one named after the model.
        kernel: its name if only its layers were run.
        skipped: layers that the design has no room to run alone.
        synthesized: what open synthesis counted, by part and resource; None if it was not asked.
    """

    path: Path
    report: Report
    results: Mapping[str, "Verification"]
    kernel: str | None = None
    skipped: tuple[str, ...] = ()
    synthesized: Mapping[str, Mapping[str, float]] | None = None

    @property
    def result(self) -> "Verification":
        """What was compared first."""
        return next(iter(self.results.values()))

    @property
    def passed(self) -> bool:
        """Whether something was run and everything agreed."""
        return bool(self.results) and all(result.passed for result in self.results.values())

    @property
    def problems(self) -> list[str]:
        """What did not agree, one sentence each."""
        found = [f"no room to run alone: {name}" for name in self.skipped]
        for name, result in self.results.items():
            found += [*map(str, result.mismatches), *result.faults]
            if not result.cycle_exact:
                found.append(f"{name}: cycles {sorted(set(result.cycles))}, the model says {result.modelled}")
        return found

    def waveform(self, signals: Sequence[str], first: int = 0, cycles: int = 24, column: int = 34) -> Picture:
        """A timing diagram from the waves of `verify`; ``column`` pixels per cycle, from cycle ``first`` on.

        Raises:
            InputError: it was verified without waves.
            ValueError: no such signal.
        """
        from codesign.sim.waves import draw, read

        if self.result.waves is None:
            raise InputError("verified without waves; legal: verify(waves=True)")
        return Picture(draw(read(self.result.waves, signals, first=first, cycles=cycles), column=column))

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True, eq=False)
class Ran:
    """The result of `run`.

    Attributes:
        target: where it was computed.
        outputs: floats by output name, samples first.
        cycles: per sample, simulated; empty for the golden model.
        labels: the right class per sample; None if unknown.
        report: of the bundle.
    """

    target: str
    outputs: Mapping[str, NDArray[np.float64]]
    cycles: tuple[int, ...]
    labels: NDArray[np.int64] | None
    report: Report

    @property
    def samples(self) -> int:
        """How many samples were run."""
        return len(next(iter(self.outputs.values())))

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class with the largest value of the first output, per sample."""
        classes: NDArray[np.int64] = next(iter(self.outputs.values())).reshape(self.samples, -1).argmax(axis=1)
        return classes

    @property
    def accuracy(self) -> float | None:
        """Share of samples whose prediction is the label; None without labels."""
        return None if self.labels is None else float((self.predictions == self.labels).mean())


# Verbs ---------------------------------------------------------------------------------


def boards() -> tuple[Board, ...]:
    """Every board that ships, sorted by name.

    >>> [board.name for board in boards() if board.part.startswith("xczu9eg")]
    ['zcu102']
    """
    return tuple(Board.load(name) for name in _boards.boards())


def doctor() -> Doctor:
    """The tools of this machine: what is there, what is missing and how to get it."""
    return examine()


def load(model: str | Path) -> Workload | Network:
    """A model by name, by path or as ``gemm:MxKxN``; a matrix product is a network from the start.

    Raises:
        InputError: nothing of this name, or a file that cannot be used.
    """
    if Path(model).suffix == ".pt2":
        from codesign.assembly import read_model

        return read_model(model)
    return _models.load(model)


def heldout(model: str) -> tuple[Mapping[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Samples of a model that ships, which training never saw: an array per input, and the right classes.

    Raises:
        InputError: an unknown name.
    """
    return _models.heldout(model)


def models(name: str | None = None, export: str | Path | None = None) -> tuple[_models.Model, ...]:
    """The models that ship, or one of them; with a folder its file and held-out samples are written there.

    Raises:
        InputError: an unknown name, no name for an export, or a folder that cannot be written.
    """
    if name is None:
        if export is not None:
            raise InputError("--export without a model; legal: models NAME --export DIR")
        return _models.models()
    if export is not None:
        for path in _models.export(name, export):
            _LOG.info("wrote %s", path)
    return (_models.model(name),)


def kernels(name: str | None = None) -> Mapping[str, type]:
    """Kernel classes by name, or one of them.

    Raises:
        InputError: an unknown name.
    """
    from codesign.hw.accelerator import KERNELS

    if name is not None and name not in KERNELS:
        raise InputError(f"kernel {name!r} is not known; legal: {', '.join(KERNELS)}")
    return KERNELS if name is None else {name: KERNELS[name]}


def build(
    model: str | Path,
    board: str | Path,
    out: str | Path | None = None,
    clock_mhz: float | None = None,
    budget: str | None = None,
    set: Sequence[str] = (),
    calibrate: str | Path | None = None,
    objective: str | None = None,
) -> Bundle:
    """Builds an accelerator for a model and writes it as a bundle.

    Args:
        model: a name, a path to an ONNX file, or ``gemm:MxKxN``.
        board: a name or a path to a ``.toml``.
        out: the bundle's folder, ``build/MODEL-BOARD`` if not given; a bundle there is replaced.
        clock_mhz: instead of the board's clock; marked as assumed.
        budget: ``dsp=N,bram36=N,...``, less than the board has.
        set: ``KEY=VALUE`` figures of the board; marked as assumed.
        calibrate: ``.npz`` of samples for models without quantizers.
        objective: ``latency`` or ``area``: an exact search of all designs, the fewest DSPs within 2 % of the
            shortest latency, or the fewest DSPs of all; without it a plain choice.

    Raises:
        InputError: a model, board, option or folder that cannot be used.
        NothingFits: no design fits; the message says what binds.
        ToolError: a tool that writes Verilog failed.
    """
    target = Board.load(board).with_overrides([*set, *_clock(clock_mhz)])
    limits = parse_budget(budget)
    if objective is not None and objective not in CHOICES:
        raise InputError(f"--objective {objective!r}; legal: {', '.join(CHOICES)}")
    path = Path(out) if out is not None else Path("build") / f"{_short(model)}-{target.name}"
    _bundle.check_target(path)
    calibration = load_arrays(calibrate) if calibrate is not None else None
    from codesign.assembly import files, plan

    _bundle.write_bundle(path, files(plan(model, target, budget=limits, calibration=calibration, objective=objective)))
    return open(path)


def search(
    model: str | Path,
    board: str | Path,
    objectives: Sequence[str] = ("latency_us", "dsp"),
    clock_mhz: float | None = None,
    budget: str | None = None,
    set: Sequence[str] = (),
    calibrate: str | Path | None = None,
) -> Front:
    """All designs for a model of which none is better in every objective, proven by bounds.

    Args:
        model: see `build`, like all that follow.
        board: where it shall run.
        objectives: one to three of latency_us, dsp, bram36, uram, lut and ff; all are minimised.
        clock_mhz: instead of the board's clock.
        budget: less than the board has.
        set: figures of the board.
        calibrate: samples for a model without quantizers.

    Raises:
        InputError: a model, board or option that cannot be used.
        NothingFits: a layer for which there is no kernel.
    """
    if not 0 < len({*objectives}) == len(objectives) <= 3 or not {*objectives} <= {*OBJECTIVES}:
        raise InputError(f"objectives {', '.join(objectives)}; legal: one to three of {', '.join(OBJECTIVES)}")
    target = Board.load(board).with_overrides([*set, *_clock(clock_mhz)])
    limits = parse_budget(budget)
    calibration = load_arrays(calibrate) if calibrate is not None else None
    from codesign.assembly import integers, tools

    network = integers(model, calibration)
    return DesignSpace(network, target, tools(), budget=limits).search(tuple(objectives))


def sweep(
    model: str | Path | Sequence[str],
    board: str | Path | Sequence[str],
    out: str | Path,
    clock_mhz: str | float | Sequence[float] | None = None,
    budget: str | Sequence[str] = (),
    limit: int | None = None,
    exact: bool = False,
    resume: bool = False,
) -> "Sweep":
    """All designs of models on boards at clocks within budgets as rows of Parquet files; see `codesign.sweeps`.

    Args:
        model: names, paths or ``gemm:MxKxN``: several as a sequence, or in one text with commas between.
        board: names or paths, likewise.
        out: the folder of the files, new or empty.
        clock_mhz: instead of the boards' own, likewise.
        budget: ``dsp=N,bram36=N,...`` or ``all``; several as a sequence.
        limit: designs per combination at most, 262144 if not given; axes are thinned.
        exact: score the front of latency and DSPs of every combination exactly.
        resume: keep the finished files of a sweep of the same arguments.

    Raises:
        InputError: a model, board, option or folder that cannot be used.
        NothingFits: a network with a layer that no kernel runs.
        ToolError: polars is missing.
    """
    from codesign import sweeps

    request = sweeps.Request(
        sweeps.names(model), sweeps.names(board), sweeps.clocks(clock_mhz), sweeps.budgets(budget),
        sweeps.LIMIT if limit is None else limit, exact,
    )  # fmt: skip
    return sweeps.sweep(request, Path(out), resume=resume)


@dataclass(frozen=True)
class Quantized:
    """The result of `quantize`.

    Attributes:
        path: the file.
        layers: layers in integers.
        macs: multiply-accumulates of one inference.
    """

    path: Path
    layers: int
    macs: int


def quantize(model: str | Path, calibrate: str | Path, out: str | Path) -> Quantized:
    """Quantizes a float model and writes it as QONNX, which `build` takes without calibration.

    Args:
        model: a name or a path to an ONNX file.
        calibrate: ``.npz`` of 32 to 256 typical samples, an array per model input.
        out: the new ``.onnx`` file.

    Raises:
        InputError: a model, samples or a file that cannot be used.
    """
    target = Path(out)
    if target.suffix != ".onnx" or not target.resolve().parent.is_dir():
        raise InputError(f"--out {out}; legal: a file ending in .onnx in a folder that exists")
    found = _models.load(model)
    if isinstance(found, Network):
        raise InputError(f"{model} is integers already; legal: a float model")
    from codesign.quant.ptq import calibrate as quantized

    _LOG.info("%s: trying ways to quantize it", model)
    folder = Path(model).parent if Path(model).is_file() else None
    data = quantized(_models.original(model), load_arrays(calibrate), name=str(model), folder=folder)
    _written(target, data)
    from codesign.assembly import integers

    network = integers(target)
    return Quantized(target, len(network.layers), network.macs)


def open(dir: str | Path) -> Bundle:
    """A bundle that `build` wrote.

    Raises:
        BundleError: missing, damaged or of another version.
    """
    return Bundle(_bundle.read_bundle(Path(dir)))


def verify(
    dir: str | Path, kernel: str | None = None, waves: bool = False, seed: int = 0, images: int = 3, synth: str = "none"
) -> "Checked":
    """Compares golden model, cycle model and simulated Verilog of a bundle, and writes the result into its report.

    Args:
        dir: the bundle.
        kernel: run the layers of this kernel alone, one after the other, with random data; the report stays.
        waves: write the waves of the whole run, or of the kernel's first layer, to a ``.vcd`` file beside the
            bundle's folder.
        seed: of the samples; those of a model that ships are held-out ones, others are random.
        images: samples, run back to back without reset.
        synth: what open synthesis counts beside: ``engines``, the whole ``top``, or ``none``; minutes, unless it is in
            the cache.

    Raises:
        BundleError: not a bundle, or its parts do not belong together.
        InputError: an unknown kernel, or more samples than there are.
        CheckError: the hardware reports an error or breaks a protocol.
        ToolError: the simulator or the compiler is missing or fails.
    """
    if images < 1:
        raise InputError(f"--images {images}; legal: at least 1")
    if synth not in SYNTHESES:
        raise InputError(f"--synth {synth!r}; legal: {', '.join(SYNTHESES)}")
    held = open(dir)
    counts = _synthesized(held, synth) if synth != "none" else None
    options = f"--waves --seed {seed} --images {images}"
    file = held.path.resolve().with_name(f"{held.path.resolve().name}.vcd") if waves else None
    if kernel is not None:
        return replace(_verified_kernel(held, kernel, images, seed, file), synthesized=counts)
    return replace(_verified(held, images, seed, file, f"codesign verify {dir} {options}"), synthesized=counts)


def run(
    dir: str | Path,
    input: str | Path,
    labels: str | Path | None = None,
    target: str = "golden",
    output: str | Path | None = None,
) -> Ran:
    """Runs samples from a file on a bundle.

    Args:
        dir: the bundle.
        input: ``.npy`` for a model of one input, or ``.npz`` with an array per input name; samples first.
        labels: ``.npy`` with the right class of each sample.
        target: one of `TARGETS`.
        output: ``.npy`` to write the first output to.

    Raises:
        BundleError: not a bundle, or its parts do not belong together.
        InputError: arrays that do not fit the model, or a file that cannot be written.
    """
    held = open(dir)
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise InputError(f"cannot write {output}: {Path(output).resolve().parent} is not a folder")
    samples = samples_of(held.network, load_arrays(input))
    right = _labels(labels, len(samples)) if labels is not None else None
    found = replace(_run(held, samples, target), labels=right)
    if output is not None:
        _save(Path(output), next(iter(found.outputs.values())))
    return found


def report(dir: str | Path) -> Report:
    """The report of a bundle.

    Raises:
        BundleError: not a bundle.
    """
    return open(dir).report


def bench(name: str) -> "Bench":
    """Runs a bench: figures that this project promises, beside their goals.

    Raises:
        InputError: an unknown name.
        CheckError: golden, cycle model and hardware disagree.
        ToolError: a tool is missing or fails.
    """
    from codesign import bench as benches

    return benches.bench(name)


# Steps ----------------------------------------------------------------------------------


def _clock(clock_mhz: float | None) -> list[str]:
    if clock_mhz is None:
        return []
    if not 0 < clock_mhz < 1e6:
        raise InputError(f"--clock-mhz {clock_mhz:g}; legal: above 0 and below 1000000")
    return [f"clock_hz={round(clock_mhz * 1e6)}"]


def _short(model: str | Path) -> str:
    """A model's name as part of a folder's name."""
    text = str(model)
    stem = text.replace(":", "-") if text.startswith("gemm:") else Path(text).stem
    return _NAME.sub("-", stem).strip("-.") or "model"


def _verified(held: Bundle, images: int, seed: int, waves: Path | None, rerun: str) -> "Checked":
    """The whole model on the whole accelerator."""
    from codesign.assembly import model_faults
    from codesign.sim import check

    chosen = _chosen(held.contents, images, seed)
    faults = model_faults(held.stored, held.contents, chosen)
    library = _library(held, waves is not None)
    result = check.verify(held.contents.subject, library, chosen, rerun=rerun, waves=waves)
    result = replace(result, faults=(*result.faults, *faults))
    return Checked(held.path, _noted(held, result), {held.contents.model: result})


def _synthesized(held: Bundle, what: str) -> dict[str, Mapping[str, float]]:
    """Resources that open synthesis counts in the bundle's Verilog, by part."""
    from codesign.hw.accelerator import TOP
    from codesign.sim.synth import synthesize, synthesize_engines

    sources = {
        name.removeprefix("rtl/"): data.decode() for name, data in held.stored.files.items() if name.startswith("rtl/")
    }
    _LOG.info("synthesizing with Yosys; minutes, unless it is in the cache")
    found = synthesize(sources, TOP).engines if what == "top" else synthesize_engines(sources)
    return {name: counts.to_json() for name, counts in sorted(found.items())}


def _verified_kernel(held: Bundle, kernel: str, images: int, seed: int, waves: Path | None) -> Checked:
    """Every layer of a kernel alone on the whole accelerator."""
    from codesign.program import compile_network
    from codesign.sim import check
    from codesign.sim.isolate import isolated

    engines = held.contents.design.engines
    if kernel not in engines:
        raise InputError(f"--kernel {kernel!r}; legal: {', '.join(engines)}, the kernels of {held.path}")
    library = _library(held, waves is not None)
    results: dict[str, Verification] = {}
    skipped = []
    for layer, network in isolated(held.network, kernel, held.contents.design, seed):
        if network is None:
            skipped.append(layer.name)
            continue
        program = compile_network(network, held.contents.design)
        subject = replace(held.contents.subject, network=network, program=program)
        rerun = f"codesign verify {held.path} --kernel {kernel} --waves --seed {seed} --images {images}"
        first = waves if not results else None
        samples = random_samples(network, images, seed)
        results[layer.name] = check.verify(subject, library, samples, rerun=rerun, waves=first)
    return Checked(held.path, held.report, results, kernel, tuple(skipped))


def _library(held: Bundle, waves: bool = False) -> "Library":
    """The bundle's Verilog, compiled for simulation or from the cache."""
    from codesign.sim.check import compiled

    _LOG.info("compiling the Verilog for simulation; a minute, unless it is in the cache")
    return compiled(held.contents.verilog, held.contents.design.board.memory, waves=waves)


def _chosen(inside: "Contents", count: int, seed: int) -> "list[Sample]":
    """Held-out samples of a model that ships, in an order that the seed gives; random ones of any other."""
    if inside.model not in {model.name for model in _models.models()}:
        return list(random_samples(inside.network, count, seed))
    arrays, _ = _models.heldout(inside.model)
    every = samples_of(inside.network, arrays)
    order = range(len(every)) if seed == 0 else np.random.default_rng(seed).permutation(len(every))
    if count > len(every):
        raise InputError(f"--images {count}; legal: 1 to {len(every)}, the held-out samples of {inside.model}")
    return [every[i] for i in order[:count]]


def _noted(held: Bundle, result: "Verification") -> Report:
    """The report with a verification's result; written into the bundle if the folder allows it."""
    from codesign.assembly import report_files

    slowest = max(result.cycles)
    noted = held.report.verified(
        bit_exact=result.bit_exact, simulated=slowest, images=result.images, faults=result.faults
    )
    try:
        _bundle.write_bundle(held.path, {**held.stored.files, **report_files(noted)})
    except InputError as error:
        _LOG.warning("the report keeps its old state: %s", error)
    return noted


def _run(held: Bundle, samples: "Sequence[Sample]", target: str) -> Ran:
    if target not in TARGETS:
        raise InputError(f"--target {target!r}; legal: {', '.join(TARGETS)}")
    network = held.network
    results, cycles = _simulated(held, samples) if target == "sim" else ([golden(network, s) for s in samples], [])
    each = [outputs(network, values) for values in results]
    stacked = {item.name: np.stack([values[item.name] for values in each]) for item in network.outputs}
    return Ran(target, stacked, tuple(cycles), None, held.report)


def _simulated(held: Bundle, samples: "Sequence[Sample]") -> tuple[list[Mapping[str, NDArray[np.int64]]], list[int]]:
    from codesign.host import image_of, matrices
    from codesign.sim.check import SimulatedAccelerator

    inside, library = held.contents, _library(held)
    results: list[Mapping[str, NDArray[np.int64]]] = []
    cycles = []
    with SimulatedAccelerator(library, image_of(inside.program), inside.subject.identity) as accelerator:
        for number, sample in enumerate(samples, start=1):
            inference = accelerator.infer(matrices(inside.network, sample))
            results.append(inference.outputs)
            cycles.append(inference.cycles)
            if number % 20 == 0:
                _LOG.info("simulated %d of %d samples", number, len(samples))
    return results, cycles


def _labels(path: str | Path, count: int) -> NDArray[np.int64]:
    arrays = load_arrays(path)
    array = next(iter(arrays.values())) if len(arrays) == 1 else np.zeros(0)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(f"labels {path}: {array.dtype} {array.shape}; legal: one whole number per sample, ({count},)")
    return array.astype(np.int64)


def _save(path: Path, array: NDArray[np.float64]) -> None:
    """Writes an array whole or not at all."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    _written(path, file.getvalue())


def _written(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}") from error
