"""An engine between memories that a test fills and reads: the smallest whole around a kernel."""

import gc
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, UnusedElaboratable
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, RowMemory, WritePort, address_bits, bram18
from codesign.hw.verilog import VerilogTarget, generate
from codesign.sim.verilator.simulator import Library, Simulator, compile_design
from codesign.target.kernel import Columns

Words = NDArray[np.uint8]


@dataclass(frozen=True)
class MemoryShape:
    """Words of so many bits."""

    words: int
    bits: int


class EngineBench(wiring.Component):
    """The engine, one memory per read port that a test loads, and one memory that it writes.

    Args:
        engine: with members command, done, error, busy and the ports named here.
        operands: layout of its command.
        reads: memory behind each read port.
        output: name and memory of the write port.
    """

    def __init__(
        self, engine: wiring.Component, operands: data.StructLayout, reads: Mapping[str, MemoryShape],
        output: tuple[str, MemoryShape],
    ) -> None:  # fmt: skip
        self.engine, self.reads, self.output = engine, dict(reads), output
        loads = {f"load_{n}": In(WritePort(address_bits(s.words), s.bits)) for n, s in self.reads.items()}
        members = {"command": In(stream.Signature(operands)), "busy": Out(1), "done": Out(1), "error": Out(1)}
        shape = output[1]
        result = {"result": In(ReadPort(address_bits(shape.words), shape.bits)), "writes": Out(32)}
        super().__init__({**members, "finished": Out(1), **loads, **result})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        wiring.connect(m, wiring.flipped(self.command), engine.command)
        m.d.comb += [self.done.eq(engine.done), self.error.eq(engine.error), self.busy.eq(engine.busy)]
        m.d.comb += self.finished.eq(engine.done | engine.error)
        for name, shape in self.reads.items():
            ram = RowMemory(bits=shape.words * shape.bits, write_bits=shape.bits, read_bits=(shape.bits,))
            m.submodules[f"memory_{name}"] = ram
            wiring.connect(m, ram.write, wiring.flipped(getattr(self, f"load_{name}")))
            wiring.connect(m, ram.read0, getattr(engine, name))
        self._collect(m)
        return m

    def _collect(self, m: Module) -> None:
        name, shape = self.output
        ram = RowMemory(bits=shape.words * shape.bits, write_bits=shape.bits, read_bits=(shape.bits,))
        m.submodules.memory_result = ram
        port = getattr(self.engine, name)
        wiring.connect(m, ram.write, port)
        wiring.connect(m, ram.read0, wiring.flipped(self.result))
        count = Signal(32)
        m.d.sync += count.eq(count + port.en)
        m.d.comb += self.writes.eq(count)


def build(bench: EngineBench, primitives: bool = False) -> Library:
    """Compiles the bench, or finds it compiled; with device multipliers on a model of them if wanted."""
    sources = generate(bench, "bench", VerilogTarget(primitives=primitives))
    model = {"dsp48e2.v": Path(__file__).with_name("dsp48e2.v").read_text(encoding="utf-8")} if primitives else {}
    return compile_design({**sources.files, **model}, sources.top)


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    error: bool
    cycles: int
    writes: int


class Driver:
    """One running bench: loads memories, issues commands, reads results."""

    def __init__(self, library: Library) -> None:
        self.sim: Simulator = library.start()
        self.sim.reset()

    def close(self) -> None:
        self.sim.close()

    def load(self, name: str, base: int, words: Words) -> None:
        """Writes words, uint8 ``[n, bytes]``, from an address on."""
        count = len(words)
        self.sim.write_sequence(
            {
                f"load_{name}_en": np.ones(count, np.uint8),
                f"load_{name}_addr": base + np.arange(count, dtype=np.int64),
                f"load_{name}_data": _lanes(words),
            }
        )
        self.sim.set(f"load_{name}_en", 0)

    def issue(self, payload: int, limit: int) -> Outcome:
        """One command: cycles from its acceptance to done or error; ready again a cycle later."""
        sim, before = self.sim, self.sim.get("writes")
        assert sim.get("command_ready") == 1
        sim.set("command_payload", payload)
        sim.set("command_valid", 1)
        sim.step()
        sim.set("command_valid", 0)
        cycles = 1 + sim.run_until("finished", limit=limit)
        error, done = sim.get("error"), sim.get("done")
        assert (error, sim.get("busy"), sim.get("command_ready")) == (1 - done, 1, 0)
        sim.step()
        assert (sim.get("finished"), sim.get("busy"), sim.get("command_ready")) == (0, 0, 1)
        return Outcome(bool(error), cycles, (sim.get("writes") - before) & 0xFFFFFFFF)

    def result(self, base: int, count: int) -> Words:
        """Words of the output memory, uint8 ``[count, bytes]``."""
        address = np.concatenate([base + np.arange(count, dtype=np.int64), np.full(READ_LATENCY, base)])
        seen = self.sim.write_sequence({"result_addr": address}, ["result_data"])["result_data"][READ_LATENCY:]
        size = -(-self.sim.library.ports["result_data"].width // 8)
        flat = np.ascontiguousarray(seen)
        return flat.view(np.uint8).reshape(count, -1)[:, :size]


def _lanes(words: Words) -> NDArray[np.unsignedinteger]:
    """Words as the simulator takes them: integers up to 64 bits, else rows of bytes."""
    width = words.shape[1]
    if width > 8:
        return words
    wide = np.zeros((len(words), 8), np.uint8)
    wide[:, :width] = words
    return wide.view(np.uint64).ravel()


def encode(layout: data.StructLayout, values: Mapping[str, int]) -> int:
    """Operands as the integer of a command; every field of the layout must be given."""
    assert set(values) == set(layout.members)
    word = 0
    for name, field in layout:
        assert 0 <= values[name] < 1 << field.width
        word |= values[name] << field.offset
    return word


@dataclass(frozen=True)
class Placed:
    """A `codesign.target.kernel.Placement`: where a layer's tensors lie, as the operands of a command say.

    Attributes:
        fields: the operands.
        first: row of each tensor that its base belongs to.
        constants: name of each constant of the layer.
        widths: columns of all matrices on chip, if it matters.
    """

    fields: Mapping[str, int]
    first: Mapping[str, int]
    constants: str = ""
    widths: Columns | None = None

    def base(self, tensor: str, row: int) -> int:
        assert row == self.first[tensor]
        return self.fields[f"{tensor}_base"]

    def stride(self, tensor: str) -> int:
        return self.fields[f"{tensor}_stride"]

    def constant(self, index: int) -> int:
        return self.fields[f"{self.constants[index]}_base"]

    def columns(self, tensor: str) -> Columns:
        assert self.widths is not None
        return self.widths


def refuses(make: Callable[[], wiring.Component], match: str) -> None:
    """The component must not be made; Amaranth's warning that what was begun of it is unused is not wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedElaboratable)
        with pytest.raises(ValueError, match=match):
            make()
        gc.collect()


@dataclass(frozen=True)
class Hardware:
    """What generated Verilog instantiates: multipliers, halves of block RAMs of row memories, all shared modules."""

    dsp: int
    bram18: int
    modules: Counter[str]


def hardware(engine: wiring.Component) -> Hardware:
    """Counts the primitives and the shared modules below an engine."""
    target = VerilogTarget(primitives=True)
    files = generate(engine, "counted", target).files
    modules = _instances(files, "counted", list(target.modules))
    dsp = sum(files[f"{name}.v"].count("DSP48E2 #(") * count for name, count in modules.items())
    memories = ((target.modules.get(name), count) for name, count in modules.items())
    halves = sum(_halves(ram) * count for ram, count in memories if isinstance(ram, RowMemory))
    return Hardware(dsp, halves, modules)


def _instances(files: Mapping[str, str], top: str, shared: list[str]) -> Counter[str]:
    """How often each shared module occurs below and including ``top``."""
    total = Counter([top])
    for name in shared:
        times = len(re.findall(rf"^ +{name} \S+ \($", files[f"{top}.v"], re.MULTILINE))
        if times:
            below = _instances(files, name, shared)
            total.update({module: times * count for module, count in below.items()})
    return total


def _halves(ram: RowMemory) -> int:
    """Halves of block RAMs of a row memory; a byte with an enable of its own takes nine bits."""
    width, (read,) = ram.write_bits, ram.read_bits
    assert width == read
    return int(bram18(width * 9 // 8 if ram.mask_bits else width, ram.bits // width))
