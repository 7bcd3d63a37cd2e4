"""Verification of generated Verilog: bits against golden, cycles against the cycle model, and memory traffic.

`SimulatedAccelerator` runs inferences on generated Verilog. `verify` runs samples back to back without
reset and compares; a difference is traced to the first layer that shows it by running the network,
truncated after each layer, on the same hardware.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from codesign.compiler import host
from codesign.compiler.homes import runners
from codesign.compiler.host import Image
from codesign.compiler.program import Program, compile_network, program_traffic
from codesign.errors import CheckError
from codesign.hw.system import top
from codesign.ir.network import Ints, Layer, Network, counts, run
from codesign.sim.probes import PROBE, probes
from codesign.sim.verilator.simulator import Library, MemoryPorts, Simulator, compile_design
from codesign.target.board_figures import BoardMemory
from codesign.target.design import Design
from codesign.target.engines import kernel_of
from codesign.timing.cycles import exact
from codesign.timing.formulas import Formulas

WATCHDOG_CYCLES = 1 << 21
"""Cycles without progress after which a run is aborted."""

_LIMIT = 1 << 34
_CODES = {1: "unknown engine", 2: "no progress", 3: "an AXI answer was an error"}
_ILLEGAL = 16
_LOG = logging.getLogger(__name__)

Sample = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Inference:
    """Result of one run of the accelerator.

    Attributes:
        outputs: integer matrices by tensor name.
        cycles: from start to interrupt, as counted by the hardware.
        busy: cycles in which each engine worked.
        waiting: cycles in which a command of each engine waited for other engines.
        read_bytes, write_bytes: traffic of the memory ports.
    """

    outputs: Mapping[str, Ints]
    cycles: int
    busy: Mapping[str, int]
    waiting: Mapping[str, int]
    read_bytes: int
    write_bytes: int


class SimulatedAccelerator:
    """Generated Verilog with a simulated memory, loaded with one program; a context manager.

    Args:
        library: the compiled design.
        image: the program.
        identity: expected ID register contents; None skips the check.

    Raises:
        CheckError: the hardware has another identity.
    """

    def __init__(self, library: Library, image: Image, identity: bytes | None = None) -> None:
        self.program = image.program
        self.simulator: Simulator = library.start(dram_bytes=image.program.dram_bytes)
        host.load(self.simulator.dram, image)
        self.simulator.reset(3)
        if identity is not None:
            self._check_identity(identity)

    def _check_identity(self, identity: bytes) -> None:
        words = [self.simulator.axil_read(top.ID + 4 * word) for word in range(8)]
        found = b"".join(word.to_bytes(4, "little") for word in words)
        if found != identity:
            raise CheckError(f"the hardware says it is {found.hex()[:16]}, the design is {identity.hex()[:16]}")

    def __enter__(self) -> "SimulatedAccelerator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.simulator.close()

    def infer(self, inputs: Mapping[str, Ints]) -> Inference:
        """Runs the program once, without a reset before it.

        Args:
            inputs: integer matrix per input tensor.

        Raises:
            CheckError: the hardware reports an error or breaks a protocol.
        """
        s = self.simulator
        for name, place in self.program.inputs.items():
            host.write_matrix(s.dram, place, inputs[name])
        for place in self.program.outputs.values():
            s.dram[place.address : place.address + place.size] = 0x5A
        before = s.traffic()
        self._start()
        s.run_until_irq(_LIMIT)
        self._check_error()
        passed = [
            (b.read_bytes - a.read_bytes, b.write_bytes - a.write_bytes)
            for a, b in zip(before, s.traffic(), strict=True)
        ]
        return Inference(
            outputs={name: host.read_matrix(s.dram, place) for name, place in self.program.outputs.items()},
            cycles=s.axil_read(top.CYCLES_LOW) | s.axil_read(top.CYCLES_HIGH) << 32,
            busy=self._counters(top.BUSY),
            waiting=self._counters(top.WAIT),
            read_bytes=sum(read for read, _ in passed),
            write_bytes=sum(write for _, write in passed),
        )

    def _start(self) -> None:
        for register, value in (
            (top.INTERRUPT, 1),
            (top.LIST_LOW, self.program.list_at & 0xFFFFFFFF),
            (top.LIST_HIGH, self.program.list_at >> 32),
            (top.LIST_COUNT, len(self.program.commands)),
            (top.WATCHDOG, WATCHDOG_CYCLES),
            (top.CONTROL, 1),
        ):
            self.simulator.axil_write(register, value)

    def _counters(self, base: int) -> dict[str, int]:
        return {name: self.simulator.axil_read(base + 4 * e) for e, name in enumerate(self.program.engines)}

    def _check_error(self) -> None:
        word = self.simulator.axil_read(top.ERROR)
        code, index = word & 0xFF, word >> 16
        if code >= _ILLEGAL:
            raise CheckError(f"command {index} is illegal for engine {self.program.engines[code - _ILLEGAL]}")
        if code:
            raise CheckError(f"the run stopped at command {index}: {_CODES.get(code, f'error {code}')}")


def memory_ports(memory: BoardMemory) -> MemoryPorts:
    """Timing of a board's memory for the simulator."""
    return MemoryPorts(
        ports=memory.ports,
        port_bytes=memory.port_bits // 8,
        num=memory.bytes_numerator,
        den=memory.bytes_denominator,
        read_latency=memory.read_latency,
        write_latency=memory.write_latency,
        outstanding=memory.outstanding,
        burst_bytes=memory.burst_bytes,
    )


def compiled(
    files: Mapping[str, str],
    memory: BoardMemory,
    *,
    waves: bool = False,
    optimize: str = "-O1",
    cache: Path | None = None,
) -> Library:
    """Compiles a generated design for simulation with the board's memory, or finds it in the cache.

    Raises:
        ToolError: the simulator or the compiler is missing or fails.
    """
    return compile_design(files, "top", memory=memory_ports(memory), optimize=optimize, waves=waves, cache=cache)


# Verification ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class VerifySubject:
    """Subject of a verification.

    Attributes:
        network: the golden model.
        design: parameters of the hardware.
        program: the compiled program.
        formulas: cycle formulas of the kernels.
        identity: expected ID register contents.
    """

    network: Network
    design: Design
    program: Program
    formulas: Formulas
    identity: bytes


@dataclass(frozen=True)
class Mismatch:
    """A wrong element, in the first layer that shows it.

    Attributes:
        image: index of the sample.
        layer: its name; the one that writes the network output if it could not be located.
        engine: the engine that runs the layer.
        tile: (row group, column tile) of the engine.
        element: (row, column).
        expected, got: integers.
        rerun: command that repeats the check with waves.
    """

    image: int
    layer: str
    engine: str
    tile: tuple[int, int]
    element: tuple[int, int]
    expected: int
    got: int
    rerun: str

    def __str__(self) -> str:
        return (
            f"image {self.image}, layer {self.layer} on {self.engine}, tile {self.tile}, element {self.element}:"
            f" expected {self.expected}, got {self.got}; repeat with waves: {self.rerun}"
        )


@dataclass(frozen=True)
class Verification:
    """Result of a verification.

    Attributes:
        images: samples run back to back.
        mismatches: wrong elements, at most one per image.
        cycles: counted by the hardware, per image.
        modelled: predicted by the cycle model, per image.
        faults: other checks that failed, one sentence each.
        busy: cycles per engine in the last inference.
        read_bytes, write_bytes: simulated traffic of the last inference.
        waves: the wave file, if written.
    """

    images: int
    mismatches: tuple[Mismatch, ...]
    cycles: tuple[int, ...]
    modelled: tuple[int, ...]
    faults: tuple[str, ...]
    busy: Mapping[str, int]
    read_bytes: int
    write_bytes: int
    waves: Path | None = None

    @property
    def bit_exact(self) -> bool:
        """Whether every output element of every image matches."""
        return not self.mismatches

    @property
    def cycle_exact(self) -> bool:
        """Whether every run took the modelled number of cycles."""
        return self.cycles == self.modelled

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return self.bit_exact and self.cycle_exact and not self.faults


def verify(
    subject: VerifySubject, library: Library, samples: Sequence[Sample], *, rerun: str = "", waves: Path | None = None
) -> Verification:
    """Runs samples back to back without reset and compares bits, cycles and bytes.

    Args:
        subject: network, design and program.
        library: its compiled Verilog.
        samples: each with an array per model input.
        rerun: command that repeats the check with waves, for messages.
        waves: wave file of the whole run; needs a library compiled with waves.

    Raises:
        CheckError: the hardware reports an error, breaks a protocol or is another design.
    """
    goldens = [run(subject.network, sample) for sample in samples]
    runs = list(_inferences(subject, library, goldens, waves))
    wrong = [(i, g) for i, (r, g) in enumerate(zip(runs, goldens, strict=True)) if not _equal(r.outputs, g)]
    located = _located(subject, library, wrong, runs)
    return Verification(
        images=len(runs),
        mismatches=tuple(replace(m, rerun=rerun) for m in located),
        cycles=tuple(r.cycles for r in runs),
        modelled=tuple(_modelled(subject, goldens)),
        faults=tuple(_traffic_faults(subject, runs)),
        busy=runs[-1].busy,
        read_bytes=runs[-1].read_bytes,
        write_bytes=runs[-1].write_bytes,
        waves=waves,
    )


def _modelled(subject: VerifySubject, goldens: Sequence[Mapping[str, Ints]]) -> Iterator[int]:
    """Modelled cycles per inference; recomputed only where work depends on data."""
    found: int | None = None
    for golden in goldens:
        mine = counts(subject.network, golden)
        if found is None or mine:
            found = exact(subject.program, subject.design, subject.formulas, counts=mine).total
        yield found


def _inferences(
    subject: VerifySubject, library: Library, goldens: Sequence[Mapping[str, Ints]], waves: Path | None
) -> Iterator[Inference]:
    with SimulatedAccelerator(library, host.image_of(subject.program), subject.identity) as accelerator:
        if waves is not None:
            accelerator.simulator.waves(waves)
        for index, golden in enumerate(goldens):
            yield accelerator.infer(golden)
            if (index + 1) % 10 == 0:
                _LOG.info("simulated %d of %d images", index + 1, len(goldens))


def _equal(outputs: Mapping[str, Ints], golden: Mapping[str, Ints]) -> bool:
    return all(np.array_equal(matrix, golden[name]) for name, matrix in outputs.items())


def _traffic_faults(subject: VerifySubject, runs: Sequence[Inference]) -> Iterator[str]:
    expected = program_traffic(subject.program, subject.design.word_bytes)
    for index, inference in enumerate(runs):
        found = inference.read_bytes, inference.write_bytes
        if found != expected:
            yield f"image {index}: read and wrote {found} bytes; the program says {expected}"


# Where a difference begins -------------------------------------------------------------


def _located(
    subject: VerifySubject, library: Library, wrong: Sequence[tuple[int, Mapping[str, Ints]]], runs: Sequence[Inference]
) -> list[Mismatch]:
    """One mismatch per wrong image; only the first image's is traced to its layer, the others name the output."""
    found = [_at_output(subject, index, golden, runs[index]) for index, golden in wrong]
    if found:
        index, golden = wrong[0]
        found[0] = _first_layer(subject, library, index, golden) or found[0]
    return found


def _at_output(subject: VerifySubject, image: int, golden: Mapping[str, Ints], inference: Inference) -> Mismatch:
    name = next(n for n, matrix in inference.outputs.items() if not np.array_equal(matrix, golden[n]))
    layer = next(layer for layer in subject.network if layer.target == name)
    return _mismatch(subject, image, layer, golden[name], inference.outputs[name])


def _mismatch(subject: VerifySubject, image: int, layer: Layer, expected: Ints, got: Ints, column: int = 0) -> Mismatch:
    row, place = (int(x) for x in np.argwhere(expected != got)[0])
    engines = subject.design.engines
    engine = runners(subject.network, engines)[subject.network.layers.index(layer)]
    rows, columns = kernel_of(engine).tile(engines[engine])
    return Mismatch(
        image=image,
        layer=layer.name,
        engine=engine,
        tile=(row // rows, (place + column) // columns),
        element=(row, place + column),
        expected=int(expected[row, place]),
        got=int(got[row, place]),
        rerun="",
    )


def _first_layer(subject: VerifySubject, library: Library, image: int, golden: Mapping[str, Ints]) -> Mismatch | None:
    """First mismatch over networks truncated after each layer; None if no layer shows one."""
    for count, layer in enumerate(subject.network.layers, start=1):
        _LOG.info("looking into layer %s", layer.name)
        for column, probe in probes(subject.network, count, subject.design):
            expected = golden[layer.target][:, column : column + probe.tensors[PROBE].columns]
            got = _run_probe(subject, library, probe, golden)
            if not np.array_equal(expected, got):
                return _mismatch(subject, image, layer, expected, got, column)
    return None


def _run_probe(subject: VerifySubject, library: Library, probe: Network, golden: Mapping[str, Ints]) -> Ints:
    image = host.image_of(compile_network(probe, subject.design))
    with SimulatedAccelerator(library, image) as accelerator:
        return accelerator.infer(golden).outputs[PROBE]
