"""Python API behind the command line: one function per verb, with the same name and options.

Importing this module requires only numpy; hardware, simulator and model readers are imported on
use.
"""

import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.bundle import files as _bundle
from codesign.dse import strategies as _strategies
from codesign.dse.design_space import CHOICES, OBJECTIVES, DesignSpace, parse_design
from codesign.dse.planner import parse_budget
from codesign.errors import InputError
from codesign.flow.bundle import Bundle, Quantized
from codesign.flow.doctor import Doctor, examine
from codesign.flow.report_update import recorded
from codesign.flow.run import RunResult
from codesign.flow.samples import load_arrays, load_labels, samples_of, save_array, write_file
from codesign.flow.verify import VerifyRequest, VerifyResult, checked
from codesign.frontend import zoo as _models
from codesign.frontend.workload import Workload
from codesign.ir.network import Network
from codesign.report.report import Report
from codesign.solver.front import Front
from codesign.target.board import Board, Key, file_format
from codesign.target.board_catalog import board_catalog, board_folders, load_board, missing_folders

if TYPE_CHECKING:
    from codesign.benchmarks.bench import Bench
    from codesign.sweeps.sweep import Sweep

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[^A-Za-z0-9_.+-]+")


# Verbs ---------------------------------------------------------------------------------


def boards(format: bool = False) -> tuple[Board, ...] | tuple[Key, ...]:
    """Every usable board, sorted by name; broken ones and missing folders of ``CODESIGN_BOARDS`` are logged.

    Args:
        format: return the keys of a board file instead.
    """
    if format:
        return file_format()
    for folder in missing_folders(os.environ):
        _LOG.warning("CODESIGN_BOARDS names %s, which is no folder", folder)
    return tuple(board_catalog(_folders()).loaded().values())


def doctor() -> Doctor:
    """External tools found on this machine, missing ones, and how to install them."""
    return examine()


def load(model: str | Path) -> Workload | Network:
    """Loads a model by name, by path or as ``gemm:MxKxN``; the latter is returned as an integer `Network`.

    Raises:
        InputError: unknown name, or an unusable file.
        ToolError: the model needs an extra that is not installed.
    """
    if Path(model).suffix == ".pt2" or str(model) in {found.name for found in _models.models() if not found.file}:
        from codesign.flow.build import read_model

        return read_model(model)
    return _models.load(model)


def heldout(model: str) -> tuple[Mapping[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Held-out samples of a built-in model: an array per input, and the labels.

    Raises:
        InputError: an unknown name.
    """
    return _models.heldout(model)


def models(name: str | None = None, export: str | Path | None = None) -> tuple[_models.Model, ...]:
    """Built-in models, or one of them; ``export`` is a folder to write its file and held-out samples to.

    Raises:
        InputError: an unknown name, no name for an export, or a folder that cannot be written.
        ToolError: the model needs an extra that is not installed.
    """
    if name is None:
        if export is not None:
            raise InputError("--export without a model; legal: models NAME --export DIR")
        return _models.models()
    if export is not None:
        for path in _models.export(name, export) if _models.model(name).file else _export_encoder(export):
            _LOG.info("wrote %s", path)
    return (_models.model(name),)


def _export_encoder(folder: str | Path) -> tuple[Path, ...]:
    from codesign.flow.minilm import export_encoder

    return export_encoder(folder)


def kernels(name: str | None = None) -> Mapping[str, type]:
    """Kernel classes by name, optionally only one.

    Raises:
        InputError: an unknown name.
    """
    from codesign.target.engines import found

    kernels, refused = found()
    if name is not None and name in refused:
        raise InputError(refused[name])
    if name is not None and name not in kernels:
        raise InputError(f"kernel {name!r} is not known; legal: {', '.join(kernels)}")
    return kernels if name is None else {name: kernels[name]}


def build(
    model: str | Path,
    board: str | Path,
    out: str | Path | None = None,
    clock_mhz: float | None = None,
    budget: str | None = None,
    set: Sequence[str] = (),
    calibrate: str | Path | None = None,
    objective: str | None = None,
    backend: str = "rtl",
    strategy: str | None = None,
    design: str | Mapping[str, int] | None = None,
    within: str | float = 0.0,
) -> Bundle:
    """Builds an accelerator for a model and writes it as a bundle.

    Args:
        model: a name, a path to an ONNX or torch ``.pt2`` file, or ``gemm:MxKxN``.
        board: a name or a path to a ``.toml``.
        out: the bundle's folder, ``build/MODEL-BOARD`` if not given; a bundle there is replaced.
        clock_mhz: replaces the board's clock; marked as assumed.
        budget: ``dsp=N,bram36=N,...``, limits below the board's resources.
        set: ``KEY=VALUE`` figures of the board to replace; marked as assumed.
        calibrate: ``.npz`` of samples for models without quantizers.
        objective: search all designs for ``latency`` (shortest; of equal ones the fewest DSPs), ``area`` (fewest DSPs,
            then the shortest latency) or ``energy`` (least, then the shortest latency; takes far longer). Without it, a
            design is chosen without a search, unless that finds none that fits.
        backend: ``rtl`` for Verilog alone; ``hls4ml`` adds hls4ml's project, whose C++ is compiled and compared with
            the golden model.
        strategy: search strategy, one of `codesign.dse.strategies.names`, by default ``exact``; strategies without
            a proof evaluate 1000 designs.
        design: exact design to build, ``t_in=16,t_out=32,...`` or a mapping, as listed in a front.
        within: how far from the best of the objective a design still counts as equal to it: ``2%``, or 0.02.

    Raises:
        InputError: a model, board, option or folder that cannot be used.
        NothingFits: no design fits; the message names the binding resource.
        ToolError: a tool that writes Verilog failed, or the backend is missing or fails.
        CheckError: the backend's integers differ.
    """
    target = load_board(board, _folders()).with_overrides([*set, *_clock(clock_mhz)])
    limits = parse_budget(budget)
    _check_search(objective, strategy)
    tolerance = _tolerance(within, objective)
    named = parse_design(design) if design is None or isinstance(design, str) else dict(design)
    if named is not None and objective is not None:
        raise InputError(f"--design with --objective {objective}; legal: one of them")
    path = Path(out) if out is not None else Path("build") / f"{_short(model)}-{target.name}"
    _bundle.check_target(path)
    calibration = load_arrays(calibrate) if calibrate is not None else None
    from codesign.flow.build import files, plan

    made = plan(
        model, target, budget=limits, calibration=calibration, objective=objective, backend=backend,
        strategy=strategy or _strategies.DEFAULT, parameters=named, within=tolerance,
    )  # fmt: skip
    command = _call(model, board, clock_mhz, set, calibrate, backend)
    _bundle.write_bundle(path, files(replace(made, command=command)))
    return open(path)


def search(
    model: str | Path,
    board: str | Path,
    objectives: Sequence[str] = ("latency_us", "dsp"),
    clock_mhz: float | None = None,
    budget: str | None = None,
    set: Sequence[str] = (),
    calibrate: str | Path | None = None,
    strategy: str = _strategies.DEFAULT,
) -> Front:
    """Pareto front of all designs for a model, proven complete by lower bounds.

    Args:
        model: see `build`, also for the arguments below.
        board: target board.
        objectives: one to three of latency_us, energy_uj, dsp, bram36, uram, lut and ff; all are minimised.
        clock_mhz: replaces the board's clock.
        budget: limits below the board's resources.
        set: figures of the board to replace.
        calibrate: samples for a model without quantizers.
        strategy: one of `codesign.dse.strategies.names`; those without a proof return the best of 1000 designs.

    Raises:
        InputError: a model, board or option that cannot be used.
        NothingFits: a layer without a kernel, or a strategy without a proof found no design that fits.
        ToolError: the strategy, or a library that it needs, is missing or fails.
    """
    if not 0 < len({*objectives}) == len(objectives) <= 3 or not {*objectives} <= {*OBJECTIVES}:
        raise InputError(f"objectives {', '.join(objectives)}; legal: one to three of {', '.join(OBJECTIVES)}")
    _strategies.find(strategy)
    target = load_board(board, _folders()).with_overrides([*set, *_clock(clock_mhz)])
    limits = parse_budget(budget)
    calibration = load_arrays(calibrate) if calibrate is not None else None
    from codesign.flow.build import integers, tools

    network = integers(model, calibration)
    return _strategies.searched(DesignSpace(network, target, tools(), budget=limits), strategy, tuple(objectives))


def sweep(
    model: str | Path | Sequence[str],
    board: str | Path | Sequence[str],
    out: str | Path,
    clock_mhz: str | float | Sequence[float] | None = None,
    budget: str | Sequence[str] = (),
    axis: str | Sequence[str] = (),
    limit: int | None = None,
    exact: bool = False,
    resume: bool = False,
) -> "Sweep":
    """Writes all designs of models, boards, clocks and budgets as Parquet files; see `codesign.sweeps.sweep`.

    Args:
        model: names, paths or ``gemm:MxKxN``, as a sequence or a comma-separated text.
        board: names or paths, as a sequence or a comma-separated text.
        out: output folder, new or empty.
        clock_mhz: replaces the boards' clocks; a number, a sequence or a comma-separated text.
        budget: ``dsp=N,bram36=N,...`` or ``all``; several as a sequence.
        axis: ``n_l=1,2,4``, restricts a parameter to these values; several as a sequence.
        limit: maximum designs per combination, by default 262144; axes are thinned to it.
        exact: score the latency-DSP front of every combination exactly.
        resume: keep the finished files of a sweep with the same arguments.

    Raises:
        InputError: a model, board, option or folder that cannot be used.
        NothingFits: a network with a layer that no kernel runs.
        ToolError: polars is missing.
    """
    from codesign.sweeps import request as given
    from codesign.sweeps import sweep as sweeps

    request = given.SweepRequest(
        given.names(model), given.names(board), given.clocks(clock_mhz), given.texts(budget),
        given.LIMIT if limit is None else limit, exact, axes=given.texts(axis), folders=_folders(),
    )  # fmt: skip
    return sweeps.sweep(request, Path(out), resume=resume)


def quantize(model: str | Path, calibrate: str | Path, out: str | Path) -> Quantized:
    """Quantizes a float model and writes it as QONNX, which `build` takes without calibration.

    Args:
        model: a name, or a path to an ONNX or torch ``.pt2`` file.
        calibrate: ``.npz`` of 32 to 256 typical samples, an array per model input.
        out: the new ``.onnx`` file.

    Raises:
        InputError: a model, samples or a file that cannot be used.
    """
    target = Path(out)
    if target.suffix != ".onnx" or not target.resolve().parent.is_dir():
        raise InputError(f"--out {out}; legal: a file ending in .onnx in a folder that exists")
    arrays = load_arrays(calibrate)
    from codesign.flow.build import quantized

    network, made = quantized(model, arrays)
    for warning in made.deviation.warnings:
        _LOG.warning("%s: %s", model, warning)
    write_file(target, made.data)
    return Quantized(target, len(network.layers), network.macs, made.text)


def open(dir: str | Path) -> Bundle:
    """Opens a bundle that `build` wrote.

    Raises:
        BundleError: missing, damaged or of another version.
    """
    return Bundle(_bundle.read_bundle(Path(dir)))


def verify(
    dir: str | Path, kernel: str | None = None, waves: bool = False, seed: int = 0, images: int = 3, synth: str = "none"
) -> VerifyResult:
    """Compares golden model, cycle model and simulated Verilog of a bundle, and writes the result into its report.

    Args:
        dir: the bundle.
        kernel: run only this kernel's layers, one by one, with random data; the report is left unchanged.
        waves: write the waves of the whole run, or of the kernel's first layer, to a ``.vcd`` file next to the
            bundle's folder.
        seed: seed of the samples, which are held-out ones of a built-in model and random for others.
        images: number of samples, run back to back without reset.
        synth: also run open synthesis on ``engines``, the whole ``top``, or ``none``; takes minutes unless cached.

    Raises:
        BundleError: not a bundle, or its parts are inconsistent.
        InputError: an unknown kernel, or more samples than available.
        CheckError: the hardware reports an error or breaks a protocol.
        ToolError: the simulator or the compiler is missing or fails.
    """
    request = VerifyRequest(str(dir), kernel, waves, seed, images, synth)
    held = open(dir)
    return checked(held.stored, held.contents, request)


def run(
    dir: str | Path,
    input: str | Path,
    labels: str | Path | None = None,
    target: str = "golden",
    output: str | Path | None = None,
) -> RunResult:
    """Runs samples from a file on a bundle.

    Args:
        dir: the bundle.
        input: ``.npy`` for a model with one input, or ``.npz`` with an array per input name; samples on axis 0.
        labels: ``.npy`` with the label of each sample.
        target: one of `codesign.flow.run.TARGETS`.
        output: ``.npy`` to write the first output to.

    Raises:
        BundleError: not a bundle, or its parts are inconsistent.
        InputError: arrays that do not fit the model, or a file that cannot be written.
    """
    held = open(dir)
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise InputError(f"cannot write {output}: {Path(output).resolve().parent} is not a folder")
    arrays = load_arrays(input)
    right = load_labels(labels, len(samples_of(held.network, arrays))) if labels is not None else None
    found = held.run(arrays, target=target)
    if right is not None:
        found = _graded(held, replace(found, labels=right))
    if output is not None:
        save_array(Path(output), next(iter(found.outputs.values())))
    return found


def report(dir: str | Path) -> Report:
    """The report of a bundle.

    Raises:
        BundleError: not a bundle.
    """
    return open(dir).report


def bench(name: str, strategy: str | None = None, finn: str | Path | None = None) -> "Bench":
    """Runs a benchmark and compares its figures with the project's goals.

    Args:
        name: of a file in `codesign.benchmarks.benches`.
        strategy: heuristic that bench search compares with the exact front, ``exact`` for none; by default all.
        finn: Python interpreter of an environment with finn-plus for bench finn; by default recorded estimates.

    Raises:
        InputError: an unknown name, or an option of another bench.
        CheckError: golden, cycle model and hardware disagree.
        ToolError: a tool is missing or fails.
    """
    from codesign.benchmarks import bench as benches
    from codesign.benchmarks.benches import Options

    return benches.bench(name, Options(strategy, Path(finn) if finn is not None else None))


# Steps ----------------------------------------------------------------------------------


def _folders() -> tuple[Path, ...]:
    """Folders searched for user boards."""
    return board_folders(os.environ)


def _clock(clock_mhz: float | None) -> list[str]:
    if clock_mhz is None:
        return []
    if not 0 < clock_mhz < 1e6:
        raise InputError(f"--clock-mhz {clock_mhz:g}; legal: above 0 and below 1000000")
    return [f"clock_hz={round(clock_mhz * 1e6)}"]


def _check_search(objective: str | None, strategy: str | None) -> None:
    if objective is not None and objective not in CHOICES:
        raise InputError(f"--objective {objective!r}; legal: {', '.join(CHOICES)}")
    if strategy is not None and objective is None:
        raise InputError(f"--strategy {strategy} without --objective; legal: both")
    if strategy is not None:
        _strategies.find(strategy)


def _tolerance(text: str | float, objective: str | None) -> float:
    """A share from ``2%``, ``0.02`` or a number.

    Raises:
        InputError: anything else, or not from 0 to 1; or above 0 without an objective.
    """
    try:
        share = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"--within {text}; legal: 0% to 100%")
    if share and objective is None:
        raise InputError(f"--within {text} without --objective; legal: both")
    return share


def _call(
    model: str | Path,
    board: str | Path,
    clock_mhz: float | None,
    figures: Sequence[str],
    calibrate: str | Path | None,
    backend: str,
) -> str:
    """Command line that builds the same, without objective and budget."""
    words = ["codesign", "build", str(model), "--board", str(board)]
    words += ["--clock-mhz", f"{clock_mhz:.10g}"] if clock_mhz is not None else []
    words += [word for figure in figures for word in ("--set", figure)]
    words += ["--calibrate", str(calibrate)] if calibrate is not None else []
    return shlex.join([*words, "--backend", backend] if backend != "rtl" else words)


def _short(model: str | Path) -> str:
    """Model name made safe as part of a folder name."""
    text = str(model)
    stem = text.replace(":", "-") if text.startswith("gemm:") else Path(text).stem
    return _NAME.sub("-", stem).strip("-.") or "model"


def _graded(held: Bundle, found: RunResult) -> RunResult:
    """The run result with its accuracy added to the report, also in the bundle's folder."""

    def noted(report: Report) -> Report:
        return report.with_accuracy(found.accuracy or 0.0, found.samples, found.evidence)

    return replace(found, report=recorded(held.stored, noted))
