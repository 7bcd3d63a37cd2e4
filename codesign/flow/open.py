"""Reading a bundle's contents and checking them against each other.

The program is compiled again from the bundle's network and design, and must equal the stored bytes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from codesign.bundle import serialize
from codesign.bundle.files import StoredBundle
from codesign.compiler.program import Program, compile_network
from codesign.errors import BundleError, CodesignError, InputError
from codesign.frontend.needs import needed_macs
from codesign.frontend.workload import Workload, load_onnx
from codesign.hw.system import accelerator
from codesign.ir.network import Linear, Network
from codesign.quant.lower.fidelity import cosines, local_cosines
from codesign.quant.lower.lowering import lower_traced
from codesign.report.report import Report
from codesign.sim.check import Sample, VerifySubject, compiled
from codesign.sim.verilator.simulator import Library
from codesign.target.design import Design

VERSION = 2
"""Version of a bundle's contents, independent of the bundle format."""

ORIGINAL, QUANTIZED = "model.onnx", "quantized.onnx"
"""Names of the original model file and of the one with quantizers from calibration."""

COMPARED_TO_FLOAT = 3
"""Samples that verification compares with the float model."""

LEAST_COSINE = 0.99
"""Smallest accepted cosine between a layer's integers and its float values."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Contents:
    """Contents of a bundle, checked for consistency.

    Attributes:
        model: model as named by the user.
        network: the integer network.
        design: parameters and board.
        program: commands and memory plan.
        calibrated: whether lowering took scales from calibration data.
        report: the stored report.
        verilog: simulation sources by file name.
    """

    model: str
    network: Network
    design: Design
    program: Program
    calibrated: bool
    report: Report
    verilog: Mapping[str, str]

    @property
    def subject(self) -> VerifySubject:
        """The argument of `codesign.sim.check.verify`."""
        identity = accelerator.identity(self.design)
        return VerifySubject(
            self.network, self.design, self.program, accelerator.formulas(self.design.engines), identity
        )

    def library(self, waves: bool = False) -> Library:
        """The Verilog compiled for simulation, cached.

        Raises:
            ToolError: the simulator or the compiler is missing or fails.
        """
        _LOG.info("compiling the Verilog for simulation; a minute, unless it is in the cache")
        return compiled(self.verilog, self.design.board.memory, waves=waves)


def contents(bundle: StoredBundle) -> Contents:
    """Reads and checks the contents of a bundle.

    Raises:
        BundleError: a file is missing or damaged, or program and network are inconsistent.
    """
    document = bundle.json("design.json")
    found = document.get("version") if isinstance(document, dict) else None
    if not isinstance(document, dict) or found != VERSION:
        raise BundleError(f"{bundle.path} has format {found!r}, this codesign reads {VERSION}; build it again")
    network = serialize.read_network(bundle.data("network.npz"))
    design = serialize.read_design(document.get("design"))
    return Contents(
        model=str(document.get("model")),
        network=network,
        design=design,
        program=_program(bundle, network, design),
        calibrated=document.get("calibrated") is True,
        report=Report.from_json(bundle.json("report.json")),
        verilog=_verilog(bundle),
    )


def _program(bundle: StoredBundle, network: Network, design: Design) -> Program:
    """The program, compiled again and compared with the stored bytes."""
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


def _verilog(bundle: StoredBundle) -> dict[str, str]:
    texts = {
        name.removeprefix(f"{folder}/"): data.decode("utf-8", errors="replace")
        for folder in ("rtl", "sim")
        for name, data in bundle.files.items()
        if name.startswith(f"{folder}/")
    }
    if not texts:
        raise BundleError(f"bundle {bundle.path} has no Verilog under rtl/")
    return texts


def model_faults(bundle: StoredBundle, held: Contents, images: Sequence[Sample]) -> list[str]:
    """Mismatches between a bundle's model file and its network: integers, work, agreement with float.

    The model is read and lowered again, from the file with quantizers if there is one; multiply-accumulates
    are counted from its graph. Models without a file are not checked; if lowering took scales from
    calibration data, only the work is.
    """
    loaded = _workloads(bundle, held)
    faults = [fault for workload in loaded.values() for fault in _work_faults(workload, held.network)]
    if held.calibrated or not loaded:
        return faults
    name, workload = list(loaded.items())[-1]
    lowered = lower_traced(workload)
    if serialize.network_digest(lowered.network) != serialize.network_digest(held.network):
        faults.append(f"network.npz is not what {name} lowers to")
    for number, image in enumerate(images[:COMPARED_TO_FLOAT]):
        for layer, found in local_cosines(workload, lowered, image).items():
            if found < LEAST_COSINE:
                faults.append(f"image {number}, layer {layer}: cosine to float {found:.4f}; legal: {LEAST_COSINE}")
    return faults


def fidelity(bundle: StoredBundle, held: Contents, samples: Sequence[Sample]) -> dict[str, float]:
    """Smallest cosine over samples between a layer's integers and its float values, by layer.

    Raises:
        InputError: the bundle has no model file with quantizers.
    """
    loaded = _workloads(bundle, held)
    if held.calibrated or not loaded:
        raise InputError(f"{bundle.path} has no model file with quantizers; legal: a bundle that has")
    workload = list(loaded.values())[-1]
    lowered = lower_traced(workload)
    each = [cosines(workload, lowered, sample) for sample in samples]
    return {layer: min(found[layer] for found in each) for layer in each[0]}


def _workloads(bundle: StoredBundle, held: Contents) -> dict[str, Workload]:
    """The bundle's model files by name; the last is the source of the network."""
    names = [name for name in (ORIGINAL, QUANTIZED) if name in bundle.files]
    return {name: replace(load_onnx(bundle.path / name), name=held.network.name) for name in names}


def _work_faults(workload: Workload, network: Network) -> list[str]:
    """Fault if the network does fewer multiply-accumulates than the model's outputs need; empty if it does not.

    It may do more: heads that share keys have them multiplied for each, and unused rows are not always left out.
    """
    zero = {put.target: int((put.gather < 0).all(axis=1).sum()) for put in network.inputs}
    added = sum(zero.get(layer.source, 0) * layer.n * layer.k for layer in network if isinstance(layer, Linear))
    done = sum(layer.dense_macs for layer in network)
    need = needed_macs(workload)
    if done - added < need:
        return [f"the network does {done - added} multiply-accumulates, the outputs of the model need {need}"]
    return []
