"""From a model to the files of a bundle, and from a bundle back to what it holds.

Everything that a bundle needs to be verified and run lies in it: the integer network, the design,
the program and the Verilog. Reading one compiles the program again and refuses a bundle whose bytes
are not those of its own network and design.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from codesign import archive, models
from codesign.board import Board
from codesign.bundle import Bundle
from codesign.cycles import Timing, exact
from codesign.design import Design
from codesign.designspace import DesignSpace, choose
from codesign.energy import run_energy
from codesign.errors import BundleError, CodesignError, InputError
from codesign.front import Front
from codesign.hw import accelerator
from codesign.hw.energies import engine_joules
from codesign.kernel import Resources
from codesign.network import Attention, Layer, Linear, Network, layer_macs
from codesign.pareto import neighbours
from codesign.partition import Tools, available, plain
from codesign.program import Program, compile_network
from codesign.quant.fidelity import cosines
from codesign.quant.lower import lower, lower_traced
from codesign.quant.pt2 import read_pt2
from codesign.report import Report, report
from codesign.sim.check import Sample, Subject, traffic
from codesign.workload import Workload, load_onnx

VERSION = 1
"""Of what lies in a bundle, beside the format of the bundle itself."""

COMPARED_TO_FLOAT = 3
"""Images on which a verification compares with the float model."""

LEAST_COSINE = 0.99
"""Between a layer's integers and the float values that they stand for."""

_LOG = logging.getLogger(__name__)
_MEGA = 1_000_000
_EVERY_S = 5.0
"""Between two lines of progress."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Found:
    """A front, the point of it that was chosen for an objective, and what the designs around that one are worth."""

    front: Front
    objective: str
    chosen: int
    neighbours: Sequence[Mapping[str, object]]

    def to_json(self) -> dict[str, object]:
        """As `report.json` has it; the same input and seed give the same bytes, so no time is in it."""
        proof = self.front.proof
        return {
            "strategy": "exact", "objective": self.objective, "objectives": list(self.front.objectives),
            "points": proof.points, "evaluated": proof.evaluated, "scored": proof.scored,
            "proof": str(proof).rpartition("; ")[0], "chosen": self.chosen,
            "front": self.front.rows, "neighbours": list(self.neighbours),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """A model mapped to a board, before any hardware is generated.

    Attributes:
        model: what the user named.
        network: the model in integers.
        design: parameters and board.
        program: commands and memory plan.
        limit: resources that the design may use.
        macs: multiply-accumulates of one inference, counted from the model itself.
        original: bytes of the model's file; None for a model without one.
        calibrated: whether scales came from calibration data.
        found: the search that chose the design; None for the plain choice.
    """

    model: str
    network: Network
    design: Design
    program: Program
    limit: Resources
    macs: int
    original: bytes | None = None
    calibrated: bool = False
    found: Found | None = None

    @cached_property
    def timing(self) -> Timing:
        """Modelled cycles of one inference."""
        return exact(self.program, self.design, accelerator.engine_times(self.design))

    def report(self) -> Report:
        """What is known before simulation."""
        moved = sum(traffic(self.program, self.design.word_bytes))
        return report(
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
        )

    def _energy(self, moved: int) -> dict[str, object] | None:
        """Modelled energy of one inference; None for a board without coefficients."""
        if self.design.board.energy is None:
            return None
        found = run_energy(
            self.program,
            self.design,
            self.timing,
            parts=accelerator.resources(self.design),
            engines=engine_joules(self.design),
            traffic_bytes=moved,
        )
        return dict(found.to_json())


def peak_macs(design: Design) -> int:
    """Multiply-accumulates per cycle of all multipliers of all engines."""
    attention = design.engines.get("attention", {"t_a": 0, "n_a": 0})
    return design.multipliers + 2 * attention["t_a"] * attention["n_a"]


def tools() -> Tools:
    """What the choice of a design asks the hardware."""
    return Tools(accelerator.KERNELS, accelerator.resources, accelerator.engine_times, accelerator.formulas)


def plan(
    model: str | Path,
    board: Board,
    *,
    budget: Mapping[str, int] | None = None,
    calibration: Arrays | None = None,
    objective: str | None = None,
) -> Plan:
    """Reads a model, lowers it to integers, chooses a design and compiles the program.

    Args:
        model: see `codesign.models.load`.
        board: where it shall run.
        budget: limits by resource name.
        calibration: samples for a model without quantizers.
        objective: searched for, one of `codesign.designspace.CHOICES`; None for the plain choice.

    Raises:
        InputError: a model or a board that cannot be used.
        NothingFits: no design fits the budget.
    """
    found, data = _read(model)
    _check_board(board)
    network = _lowered(found, calibration)
    _LOG.info("%s: %d layers, %d multiply-accumulates", model, len(network.layers), found.macs)
    searched = None
    if objective is None:
        design = plain(network, board, tools(), budget=budget)
    else:
        design, searched = _searched(DesignSpace(network, board, tools(), budget=budget), objective)
    program = compile_network(network, design)
    limit = available(board, budget or {})
    original = _standing_alone(data, found) if data is not None else None
    return Plan(str(model), network, design, program, limit, found.macs, original, calibration is not None, searched)


def read_model(model: str | Path) -> Workload | Network:
    """As `codesign.models.load`; a torch ``.pt2`` file too, if torch is there.

    Raises:
        InputError: a model that cannot be used.
        ToolError: torch is missing.
    """
    return _read(model)[0]


def _read(model: str | Path) -> tuple[Workload | Network, bytes | None]:
    """A model, and its ONNX file; None for a product of matrices, which has none."""
    if Path(model).suffix == ".pt2":
        data = read_pt2(model)
        return _parsed(data, Path(model).stem), data
    found = models.load(model)
    return found, None if isinstance(found, Network) else models.original(model)


def _parsed(data: bytes, name: str) -> Workload:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.onnx"
        path.write_bytes(data)
        return load_onnx(path)


def integers(model: str | Path, calibration: Arrays | None = None) -> Network:
    """The model in integers; see `plan`."""
    return _lowered(read_model(model), calibration)


def _lowered(found: Network | Workload, calibration: Arrays | None) -> Network:
    return found if isinstance(found, Network) else lower(found, calibration=calibration)


def _searched(space: DesignSpace, objective: str) -> tuple[Design, Found]:
    front = space.search(progress=_Progress())
    chosen = choose(front, objective)
    _LOG.info("%s", front.proof)
    point = {name: int(values[chosen]) for name, values in front.parameters.items()}
    around = neighbours(point, space.axes, space.evaluate)
    return space.design(point), Found(front, objective, chosen, around)


class _Progress:
    """Logs how far a search is, every few seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, settled: int, points: int, front: int) -> None:
        if time.monotonic() - self.last > _EVERY_S:
            self.last = time.monotonic()
            _LOG.info("search: %.1f %% of %d points settled, %d on the front", 100 * settled / points, points, front)


def _check_board(board: Board) -> None:
    try:
        accelerator.bus_of(board.memory)
    except ValueError as error:
        raise InputError(f"board {board.name}: {error}") from error


def files(made: Plan) -> dict[str, bytes]:
    """Contents of the bundle's files by name."""
    _LOG.info("generating Verilog for %d multipliers", made.design.multipliers)
    hardware = accelerator.sources(made.design)
    value = made.report()
    found = {
        "design.json": archive.json_bytes(_design_document(made)),
        "network.npz": archive.write_network(made.network),
        "program.bin": made.program.encode(),
        "weights.bin": made.program.constants,
        "registers.json": archive.json_bytes(accelerator.registers()),
        "constraints/clock.xdc": _constraints(made.design.board).encode(),
        "README.txt": _readme(made).encode(),
        **report_files(value),
        **{f"rtl/{name}": text.encode() for name, text in hardware.sources.files.items()},
        **{f"sim/{name}": text.encode() for name, text in hardware.models.items()},
    }
    if made.original is not None:
        found["model.onnx"] = made.original
    return dict(sorted(found.items()))


def report_files(value: Report) -> dict[str, bytes]:
    """The report as the bundle's two files."""
    return {"report.json": archive.json_bytes(value.to_json()), "report.html": value.html().encode()}


def _design_document(made: Plan) -> dict[str, object]:
    return {
        "version": VERSION,
        "model": made.model,
        "calibrated": made.calibrated,
        "identity": accelerator.identity(made.design).hex(),
        "design": archive.design_document(made.design),
        "program": archive.program_document(made.program),
    }


def _constraints(board: Board) -> str:
    clock, period = f"{board.clock_hz / _MEGA:g} MHz", 1e9 / board.clock_hz
    return (
        f"# {clock} is assumed: no open tool times {board.part}, so this is a wish, not a result.\n"
        f"create_clock -name clk -period {period:.3f} [get_ports clk]\n"
    )


def _readme(made: Plan) -> str:
    original = "model.onnx       the model as given\n" if made.original is not None else ""
    return (
        f"{made.model} for {made.design.board.name}, made by codesign.\n\n"
        "bundle.json      hash of every file\n"
        f"{original}"
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


# Reading a bundle -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Contents:
    """What a bundle holds, checked against itself.

    Attributes:
        model: what the user named.
        network: the model in integers.
        design: parameters and board.
        program: commands and memory plan.
        calibrated: whether scales came from calibration data.
        report: the report as it lies in the bundle.
        verilog: files that a simulator takes.
    """

    model: str
    network: Network
    design: Design
    program: Program
    calibrated: bool
    report: Report
    verilog: Mapping[str, str]

    @property
    def subject(self) -> Subject:
        """What `codesign.sim.check.verify` takes."""
        identity = accelerator.identity(self.design)
        return Subject(self.network, self.design, self.program, accelerator.engine_times(self.design), identity)


def contents(bundle: Bundle) -> Contents:
    """Reads a bundle back.

    Raises:
        BundleError: a file is missing or damaged, or program and network do not belong together.
    """
    document = bundle.json("design.json")
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise BundleError(f"{bundle.path}/design.json is not of version {VERSION}, the one that this codesign reads")
    network = archive.read_network(bundle.data("network.npz"))
    design = archive.read_design(document.get("design"))
    return Contents(
        model=str(document.get("model")),
        network=network,
        design=design,
        program=_program(bundle, network, design),
        calibrated=document.get("calibrated") is True,
        report=Report.from_json(bundle.json("report.json")),
        verilog=_verilog(bundle),
    )


def _program(bundle: Bundle, network: Network, design: Design) -> Program:
    """The program compiled again; its bytes must be the bundle's."""
    try:
        program = compile_network(network, design)
        equal = program.encode() == bundle.data("program.bin") and program.constants == bundle.data("weights.bin")
    except BundleError:
        raise
    except (CodesignError, KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise BundleError(f"{bundle.path}: network and design do not fit together: {error}") from error
    if not equal:
        raise BundleError(f"{bundle.path}: program.bin and weights.bin are not those of its network and design")
    return program


def _verilog(bundle: Bundle) -> dict[str, str]:
    texts = {}
    for folder in ("rtl", "sim"):
        for name, data in bundle.files.items():
            if name.startswith(f"{folder}/"):
                texts[name.removeprefix(f"{folder}/")] = data.decode("utf-8", errors="replace")
    if not texts:
        raise BundleError(f"bundle {bundle.path} has no Verilog under rtl/")
    return texts


def model_faults(bundle: Bundle, held: Contents, images: Sequence[Sample]) -> list[str]:
    """What is wrong between the bundle's model file and its network: integers, work, closeness to float.

    The model is read and lowered again; multiply-accumulates are counted from its own graph. Nothing is
    checked for a model without a file, and of a calibrated one only the work.
    """
    if "model.onnx" not in bundle.files:
        return []
    workload = replace(load_onnx(bundle.path / "model.onnx"), name=held.network.name)
    faults = _work_faults(workload, held.network)
    if held.calibrated:
        return faults
    lowered = lower_traced(workload)
    if archive.write_network(lowered.network) != bundle.data("network.npz"):
        faults.append("network.npz is not what model.onnx lowers to")
    for number, image in enumerate(images[:COMPARED_TO_FLOAT]):
        for layer, found in cosines(workload, lowered, image).items():
            if found < LEAST_COSINE:
                faults.append(f"image {number}, layer {layer}: cosine to float {found:.4f}; legal: {LEAST_COSINE}")
    return faults


def _work_faults(workload: Workload, network: Network) -> list[str]:
    """Multiply-accumulates of the network against those of the model's own graph."""
    zero = {put.target: int((put.gather < 0).all(axis=1).sum()) for put in network.inputs}
    added = sum(zero.get(layer.source, 0) * layer.n * layer.k for layer in network if isinstance(layer, Linear))
    done = sum(_dense_macs(layer) for layer in network)
    if done - added != workload.macs:
        return [f"the network does {done - added} multiply-accumulates, the model {workload.macs}"]
    return []


def _dense_macs(layer: Layer) -> int:
    """Multiply-accumulates of a layer, masked scores included, as the model's graph has them."""
    if isinstance(layer, Attention):
        return 2 * layer.rows * layer.keys * layer.heads * layer.head_dim
    return layer_macs(layer)


def _standing_alone(data: bytes, found: Workload | Network) -> bytes | None:
    """A model's file; None if it needs other files beside it."""
    try:
        alone = _parsed(data, "model")
    except InputError:
        return None
    return data if alone.macs == found.macs else None
