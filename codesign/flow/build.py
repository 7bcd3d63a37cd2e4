"""Building a bundle's files from a model.

A bundle is self-contained: it holds the integer network, the design, the program and the Verilog;
`codesign.flow.open` reads it back.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from codesign.bundle import serialize
from codesign.compiler.program import Program, compile_network, program_traffic
from codesign.dse import strategies
from codesign.dse.design_space import CHOICES, DesignSpace, choose
from codesign.dse.energy_terms import ENERGY
from codesign.dse.planner import HardwareQueries, available, plain
from codesign.errors import InputError, NothingFits
from codesign.flow.calibrate import Calibration, calibrated, is_float
from codesign.flow.deviation import BOUND, Deviation, data_faults, measured, worst_layer
from codesign.flow.hls4ml import BACKENDS, CrossCheck, crosscheck
from codesign.flow.minilm import encoder_file
from codesign.flow.open import COMPARED_TO_FLOAT, ORIGINAL, QUANTIZED, VERSION
from codesign.flow.report_update import report_files
from codesign.flow.verify import typical
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, parse_onnx
from codesign.hw.system import accelerator
from codesign.hw.system.energies import engine_joules
from codesign.ir.network import Network
from codesign.quant.calibrate import minilm
from codesign.quant.calibrate.observe import Sample
from codesign.quant.interop.pt2 import read_pt2
from codesign.quant.lower.lowering import each_sample, lower
from codesign.report.design_report import report
from codesign.report.report import Report
from codesign.report.search_section import neighbours
from codesign.solver.front import Front
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import kernel_of, kernels
from codesign.target.kernel import Resources
from codesign.timing.cycles import Timing, exact
from codesign.timing.energy import run_energy
from codesign.timing.stalls import busy

_LOG = logging.getLogger(__name__)
_MEGA = 1_000_000
_EVERY_S = 5.0
"""Seconds between progress lines."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Pareto front, the point chosen for an objective, and the scores of that point's neighbours."""

    front: Front
    objective: str
    chosen: int
    neighbours: Sequence[Mapping[str, object]]
    strategy: str = strategies.DEFAULT
    within: float = 0.0

    def to_json(self) -> dict[str, object]:
        """JSON for ``report.json``, without times so that equal input and seed give equal bytes."""
        proof = self.front.proof
        return {
            "strategy": self.strategy, "objective": self.objective, "within": self.within,
            "objectives": list(self.front.objectives),
            "points": proof.points, "evaluated": proof.evaluated, "scored": proof.scored,
            "proven": proof.exact, "proof": str(proof).rpartition("; ")[0], "chosen": self.chosen,
            "front": self.front.rows, "neighbours": list(self.neighbours),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """A model mapped to a board, before any hardware is generated.

    Attributes:
        model: model as named by the user.
        network: the integer network.
        design: parameters and board.
        program: commands and memory plan.
        limit: resources that the design may use.
        macs: multiply-accumulates of one inference, counted from the model itself.
        original: bytes of the model's file; None for a model without one.
        calibrated: whether lowering took scales from calibration data for operands without a quantizer in the file.
        found: search that chose the design; None without a search.
        calibration: how a float model was quantized; None for other models.
        crosschecked: hls4ml's project of the model; None if not requested.
        command: command line without objective and budget; None if not called from one.
        source: the model that was lowered, with its quantizers; None for a matrix product.
        samples: calibration data, if given.
    """

    model: str
    network: Network
    design: Design
    program: Program
    limit: Resources
    macs: int
    original: bytes | None = None
    calibrated: bool = False
    found: SearchResult | None = None
    calibration: Calibration | None = None
    crosschecked: CrossCheck | None = None
    command: str | None = None
    source: Workload | None = None
    samples: Arrays | None = None

    @cached_property
    def deviation(self) -> Deviation | None:
        """Error of the outputs against the model, whose warnings are logged; None for a matrix product."""
        if self.source is None:
            return None
        return _deviation(self.model, self.source, self.network, self.samples, self.calibration)

    @cached_property
    def timing(self) -> Timing:
        """Modelled cycles of one inference."""
        return exact(self.program, self.design, accelerator.formulas(self.design.engines))

    def report(self) -> Report:
        """Report of the plan, before simulation."""
        moved = sum(program_traffic(self.program, self.design.word_bytes))
        found = report(
            self.model,
            self.design,
            macs=self.macs,
            peak_macs=peak_macs(self.design),
            timing=self.timing,
            parts=accelerator.resources(self.design),
            available=self.limit,
            traffic_bytes=moved,
            notes=self.network.notes,
            commands=self.program.commands,
            search=self.found.to_json() if self.found is not None else None,
            energy=self._energy(moved),
            command=self.command,
        )
        return replace(
            found,
            calibration=self.calibration.to_json() if self.calibration is not None else None,
            crosscheck=self.crosschecked.to_json() if self.crosschecked is not None else None,
            deviation=self.deviation.to_json() if self.deviation is not None else None,
        )

    def _energy(self, moved: int) -> dict[str, object] | None:
        """Modelled energy of one inference as JSON; None for a board without coefficients."""
        if self.design.board.energy is None:
            return None
        found = run_energy(
            self.program,
            self.design,
            cycles=self.timing.total,
            busy=busy(self.timing.activities),
            parts=accelerator.resources(self.design),
            engines=engine_joules(self.design),
            traffic_bytes=moved,
        )
        return dict(found.to_json())


def peak_macs(design: Design) -> int:
    """Multiply-accumulates per cycle of all multipliers of all engines."""
    return int(sum(kernel_of(name).peak_macs(params) for name, params in design.engines.items()))


def tools() -> HardwareQueries:
    """Hardware queries used in choosing a design."""
    return HardwareQueries(kernels(), accelerator.resources, accelerator.formulas, engine_joules)


def plan(
    model: str | Path,
    board: Board,
    *,
    budget: Mapping[str, int] | None = None,
    calibration: Arrays | None = None,
    objective: str | None = None,
    backend: str = "rtl",
    strategy: str = strategies.DEFAULT,
    parameters: Mapping[str, int] | None = None,
    within: float = 0.0,
) -> Plan:
    """Reads a model, lowers it to integers, chooses a design and compiles the program.

    Args:
        model: see `codesign.frontend.zoo.load`.
        board: target board.
        budget: limits by resource name.
        calibration: samples for a model without quantizers.
        objective: one of `codesign.dse.design_space.CHOICES`; None to choose without a search, unless that finds no
            design that fits.
        backend: one of `codesign.flow.hls4ml.BACKENDS`.
        strategy: search strategy, one of `codesign.dse.strategies.names`.
        parameters: parameters of a given design; see `codesign.dse.design_space.DesignSpace.named`.
        within: share by which a design may miss the best of the objective, see `codesign.dse.design_space.choose`.

    Raises:
        InputError: a model, a board or parameters that cannot be used.
        NothingFits: no design fits the budget.
        ToolError: the backend is missing or fails.
        CheckError: the backend's integers differ.
    """
    if backend not in BACKENDS:
        raise InputError(f"--backend {backend!r}; legal: {', '.join(BACKENDS)}")
    found, data = _read(model)
    check_board(board, board.name)
    network, made = _lowered(model, found, data, calibration)
    source = made.workload if made is not None else found
    checked = _crosschecked(model, source, network, board, backend)
    _LOG.info("%s: %d layers, %d multiply-accumulates", model, len(network.layers), found.macs)
    searched = None
    space = DesignSpace(network, board, tools(), budget=budget)
    if parameters is not None:
        design = space.named(parameters)
    elif objective is None:
        design, searched = _plain(space, budget)
    else:
        design, searched = _searched(space, objective, strategy, within)
    program = compile_network(network, design)
    limit = available(board, budget or {})
    original = _standing_alone(data, found) if data is not None else None
    loose = calibration is not None and made is None
    return Plan(
        str(model), network, design, program, limit, found.macs, original, loose, searched, made, checked,
        source=None if isinstance(source, Network) else source, samples=calibration,
    )  # fmt: skip


def read_model(model: str | Path) -> Workload | Network:
    """Like `codesign.frontend.zoo.load`, plus torch ``.pt2`` files and the sentence encoder if installed.

    Raises:
        InputError: a model that cannot be used.
        ToolError: an extra is missing.
    """
    return _read(model)[0]


def _read(model: str | Path) -> tuple[Workload | Network, bytes | None]:
    """A model and the bytes of its ONNX file; None for a matrix product, which has no file."""
    if Path(model).suffix == ".pt2":
        data = read_pt2(model)
        return parse_onnx(data, Path(model).stem), data
    if str(model) == minilm.NAME:
        data = encoder_file()
        return parse_onnx(data, minilm.NAME), data
    found = zoo.load(model)
    return found, None if isinstance(found, Network) else zoo.original(model)


def integers(model: str | Path, calibration: Arrays | None = None) -> Network:
    """Integer network of a model; see `plan`."""
    return _lowered(model, *_read(model), calibration)[0]


def _lowered(
    model: str | Path, found: Network | Workload, data: bytes | None, calibration: Arrays | None
) -> tuple[Network, Calibration | None]:
    """Integer network of a loaded model; one without quantizers is first calibrated with the samples, if given."""
    if isinstance(found, Network):
        return found, None
    if calibration is None or data is None or not is_float(found):
        return lower(found, calibration=calibration), None
    made = calibrated(data, found.name, calibration, _folder(model))
    return lower(made.workload), made


def quantized(model: str | Path, calibration: Arrays) -> tuple[Network, Calibration]:
    """Integer network of a model, and the calibration that added missing quantizers; existing ones are kept.

    Raises:
        InputError: a model or samples that cannot be used.
        ToolError: torch is missing.
    """
    found, data = _read(model)
    if isinstance(found, Network) or data is None:
        raise InputError(f"{model} is integers already; legal: a float model")
    made = calibrated(data, found.name, calibration, _folder(model))
    return lower(made.workload), made


def _deviation(
    name: str, source: Workload, network: Network, given: Arrays | None, made: Calibration | None
) -> Deviation:
    """Error of the outputs: of calibration if there was one, else measured on given, held-out or random samples.

    Warnings are logged.
    """
    if made is not None:
        found = made.deviation
    else:
        each, which = _samples(name, source, network, given)
        found = measured(source, network, each, f"{len(each)} {which} samples")
        if given is not None:
            found = replace(found, warnings=data_faults(given))
        if found.error > BOUND:
            found = found.judged(f"{worst_layer(source, each[0], given)}: give it finer quantizers or more bits")
    for warning in found.warnings:
        _LOG.warning("%s: %s", name, warning)
    return found


def _samples(name: str, source: Workload, network: Network, given: Arrays | None) -> tuple[Sequence[Sample], str]:
    """A few samples to measure with, and which they are."""
    if given is not None:
        return each_sample(source, given)[:COMPARED_TO_FLOAT], "calibration"
    return typical(name, network, COMPARED_TO_FLOAT, 0)


def _folder(model: str | Path) -> Path | None:
    """Folder of external data; None if there is no file."""
    return Path(model).parent if Path(model).suffix == ".onnx" else None


def _crosschecked(
    model: str | Path, found: Network | Workload, network: Network, board: Board, backend: str
) -> CrossCheck | None:
    if backend != "hls4ml":
        return None
    if isinstance(found, Network):
        raise InputError(f"--backend hls4ml: {model} is no file; legal: an ONNX file or a model that ships as one")
    return crosscheck(str(model), found, network, board)


def _plain(space: DesignSpace, budget: Mapping[str, int] | None) -> tuple[Design, SearchResult | None]:
    """The plain choice; where its rules find nothing, the fastest of all designs.

    Raises:
        NothingFits: no design fits.
    """
    try:
        return plain(space.network, space.board, space.tools, budget=budget), None
    except NothingFits as error:
        _LOG.info("%s; searching all designs", error)
        return _searched(space, "latency", strategies.DEFAULT, 0.0)


def _searched(space: DesignSpace, objective: str, strategy: str, within: float) -> tuple[Design, SearchResult]:
    """The best design of a search, with its front.

    Raises:
        NothingFits: no design fits, which is proven, or none was found.
    """
    names = CHOICES[objective] if ENERGY in CHOICES[objective] else ("latency_us", "dsp")
    front = strategies.searched(space, strategy, names, progress=_SearchProgress())
    if not len(front):
        raise space.refusal()
    chosen = choose(front, objective, within)
    _LOG.info("%s", front.proof)
    point = {name: int(values[chosen]) for name, values in front.parameters.items()}
    around = neighbours(point, space.axes, space.evaluate)
    return space.design(point), SearchResult(front, objective, chosen, around, strategy, within)


class _SearchProgress:
    """Logs the progress of a search every few seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, settled: int, points: int, front: int) -> None:
        if time.monotonic() - self.last > _EVERY_S:
            self.last = time.monotonic()
            _LOG.info("search: %.1f %% of %d points settled, %d on the front", 100 * settled / points, points, front)

    def timed(self, designs: int) -> None:
        """Logs the number of exactly timed designs."""
        if time.monotonic() - self.last > _EVERY_S:
            self.last = time.monotonic()
            _LOG.info("search: timed %d designs", designs)


def check_board(board: Board, name: str) -> None:
    """Checks that a bus can be built for a board's memory.

    Raises:
        InputError: it cannot; the message names the board as given.
    """
    try:
        accelerator.bus_of(board.memory)
    except ValueError as error:
        raise InputError(f"board {name}: {error}") from error


def files(made: Plan) -> dict[str, bytes]:
    """Contents of a plan's bundle by file name."""
    _LOG.info("generating Verilog for %d multipliers", made.design.multipliers)
    hardware = accelerator.sources(made.design)
    value = made.report()
    found = {
        "design.json": serialize.json_bytes(_design_document(made)),
        "network.npz": serialize.write_network(made.network),
        "program.bin": made.program.encode(),
        "weights.bin": made.program.constants,
        "registers.json": serialize.json_bytes(accelerator.registers(made.design)),
        "constraints/clock.xdc": _constraints(made.design.board).encode(),
        "README.txt": _readme(made).encode(),
        **report_files(value),
        **{f"rtl/{name}": text.encode() for name, text in hardware.sources.files.items()},
        **{f"sim/{name}": text.encode() for name, text in hardware.models.items()},
    }
    if made.original is not None:
        found[ORIGINAL] = made.original
    if made.calibration is not None:
        found[QUANTIZED] = made.calibration.data
    if made.crosschecked is not None:
        found |= {f"hls/{name}": data for name, data in made.crosschecked.files.items()}
    return dict(sorted(found.items()))


def _design_document(made: Plan) -> dict[str, object]:
    return {
        "version": VERSION,
        "model": made.model,
        "calibrated": made.calibrated,
        "identity": accelerator.identity(made.design).hex(),
        "design": serialize.design_document(made.design),
        "program": serialize.program_document(made.program),
    }


def _constraints(board: Board) -> str:
    clock, period = f"{board.clock_hz / _MEGA:g} MHz", 1e9 / board.clock_hz
    return (
        f"# {clock} is assumed: no open tool times {board.part}, so this is a wish, not a result.\n"
        f"create_clock -name clk -period {period:.3f} [get_ports clk]\n"
    )


def _readme(made: Plan) -> str:
    extra = "model.onnx       the model as given\n" if made.original is not None else ""
    if made.calibration is not None:
        extra += "quantized.onnx   the same with the quantizers that calibration gave it\n"
    if made.crosschecked is not None:
        checked = made.crosschecked
        extra += (
            f"hls/             project of hls4ml {checked.version}; its C++, compiled with g++, gives the golden\n"
            f"                 model's integers, all {checked.values} of {checked.samples} samples\n"
        )
    return (
        f"{made.model} for {made.design.board.name}, made by codesign.\n\n"
        "bundle.json      hash of every file\n"
        f"{extra}"
        "network.npz      the model in integers; numpy reads it without pickle\n"
        "design.json      parameters, board, places of matrices in DRAM\n"
        "program.bin      command list, 64 bytes each\n"
        "weights.bin      weights, tables and constants as they lie in DRAM\n"
        "registers.json   register map\n"
        "rtl/             Verilog for the device; the top module is top\n"
        "sim/             behavioural stand-ins for files of rtl/ that instantiate DSP48E2\n"
        "constraints/     the assumed clock\n"
        "report.html      figures and how each came about; report.json holds the same\n\n"
        "codesign verify DIR    compares golden model, cycle model and simulated Verilog\n"
        "codesign run DIR --input FILE.npy --target golden|sim\n"
    )


def _standing_alone(data: bytes, found: Workload | Network) -> bytes | None:
    """The model file's bytes; None if the model also needs other files."""
    try:
        alone = parse_onnx(data)
    except InputError:
        return None
    return data if alone.macs == found.macs else None
