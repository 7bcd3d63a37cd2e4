"""The engines that there are, and what follows from them: numbers, operand fields, memories and who reaches them.

A kernel is found in its folder of `codesign.hw`, or through the entry point `GROUP` of another distribution. The
hardware lies above this module and is found by name when first asked for. An engine of a design has the name of its
kernel, or that name with a number behind it, ``attention_2``, where there are several.
"""

import importlib
import logging
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache, partial
from typing import NamedTuple

from codesign.catalog import guarded, offered
from codesign.errors import ToolError
from codesign.ir.network import Layer
from codesign.target.kernel import CONTRACT, CommandKernel, Kernel, Memory, Params, Port

GROUP = "codesign.kernels"
"""Entry points through which other packages offer kernel classes, by the name of their engine."""
RING = "linear"
"""The engine that owns the weight ring; every design has it, and its number follows those of the `MOVERS`."""
LUT = "lut"
"""The ring engine's 8-bit tables; they lie in the engine, and the load engine's last number means them."""
MOST_ENGINES = 16
"""Engines of a design that a command and the registers have room for, those that only move data included."""

COMMAND_BYTES = 64
TOKEN_BITS = 4
WAITS_AT, POSTS_AT = 32, 32 + TOKEN_BITS * MOST_ENGINES
HEADER_BITS = POSTS_AT + TOKEN_BITS * MOST_ENGINES
OPERAND_BITS = 8 * COMMAND_BYTES - HEADER_BITS
"""The command format, see `codesign.target.commands`."""

_TRANSFER = {"memory": 8, "address": 24, "words": 24, "dram": 40}
MOVERS: Mapping[str, Mapping[str, int]] = {
    # memory: its number at the engine's port; address: first word; words: bus words; dram: byte address.
    "load": _TRANSFER,
    "store": _TRANSFER,
    # Bus words of requantization table and of weights, one behind the other from byte address dram.
    "fetch": {"table_words": 24, "weight_words": 24, "dram": 40},
}
"""Operand fields of the engines that only move data, which every design has, in the order of their numbers."""
_MOVER_PORTS: Mapping[str, Port] = {"load": Port("out", writes=True), "store": Port("source")}

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*")
_INSTANCE = re.compile(r"(?P<kernel>.*?)(?:_(?P<number>[0-9]+))?")
_HOME = "codesign.hw"
_LOG = logging.getLogger(__name__)


# Kernels -----------------------------------------------------------------------------


class Discovered(NamedTuple):
    """What was found.

    Attributes:
        kernels: classes by the name of their engine, ours first.
        refused: by name of an entry point why it cannot be used, in one line.
    """

    kernels: Mapping[str, type[Kernel]]
    refused: Mapping[str, str]


@cache
def found() -> Discovered:
    """All kernels; what cannot be used is told in the log once, and everything else works on."""
    kernels: dict[str, type[Kernel]] = {}
    for kernel in _ours():
        fault = fault_of(kernel, kernels)
        if fault is not None:
            raise TypeError(f"kernel {kernel.__name__} of {_HOME}: {fault}")
        kernels[kernel.op] = kernel
    refused: dict[str, str] = {}
    for source in sorted(offered("engine", GROUP, _kernel), key=lambda each: (each.name, each.origin)):
        try:
            kernel = source.load()
            fault = guarded("engine", source.name, source.origin, partial(fault_of, kernel, kernels))
            if fault is not None:
                raise ToolError(f"engine {source.name!r} of {source.origin} cannot be used: {fault}")
            kernels[source.name] = kernel
        except ToolError as error:
            refused[source.name] = str(error)
            _LOG.warning("%s", error)
    return Discovered(kernels, refused)


def kernels() -> Mapping[str, type[Kernel]]:
    """Kernel classes by the name of their engine."""
    return found().kernels


def _ours() -> list[type[Kernel]]:
    """The kernel of every folder of `codesign.hw` that has one, the one with the ring first, then by their rank."""
    home = importlib.import_module(_HOME)
    folders = [module.name for module in pkgutil.iter_modules(home.__path__) if module.ispkg]
    modules = [importlib.import_module(f"{_HOME}.{name}") for name in folders]
    mine: list[type[Kernel]] = [module.KERNEL for module in modules if hasattr(module, "KERNEL")]
    return sorted(mine, key=lambda kernel: (kernel.op != RING, kernel.op))


def _kernel(name: str, found: object) -> type[CommandKernel]:
    """What an entry point offers, if it is a kernel class that has its name."""
    if not (isinstance(found, type) and issubclass(found, CommandKernel)):
        raise TypeError(f"{found!r:.80}; legal: a subclass of codesign.target.kernel.CommandKernel")
    if getattr(found, "op", None) != name:
        raise TypeError(f"its class says that it is {getattr(found, 'op', None)!r}; legal: {name!r}")
    return found


def fault_of(kernel: type[Kernel], known: Mapping[str, type[Kernel]]) -> str | None:
    """Why a kernel cannot be used beside others; None if it can.

    Args:
        kernel: the class.
        known: those there are, by the name of their engine.
    """
    if getattr(kernel, "contract", None) != CONTRACT:
        return f"it keeps contract {getattr(kernel, 'contract', None)!r}; legal: {CONTRACT}"
    missing = sorted(getattr(kernel, "__abstractmethods__", ()))
    missing += [name for name in ("op", "layers", "fields", "ports") if not hasattr(kernel, name)]
    if missing:
        return f"it does not declare {', '.join(missing)}"
    if kernel.op in known or kernel.op in MOVERS:
        return f"there is an engine {kernel.op!r} already"
    if not _NAME.fullmatch(kernel.op):
        return f"its name {kernel.op!r} is not legal: words of letters and digits, joined by _, no number at the end"
    bits = sum(kernel.fields.values())
    if bits > OPERAND_BITS:
        return f"its operands take {bits} bits; legal: {OPERAND_BITS}, larger ones lie in a memory of its own"
    return _clash(kernel, known)


def _clash(kernel: type[Kernel], known: Mapping[str, type[Kernel]]) -> str | None:
    """What a kernel has that another one has, or names that nobody has."""
    for other in known.values():
        taken = [layer.__name__ for layer in kernel.layers if layer in other.layers]
        if taken:
            return f"{other.op} runs layers of type {taken[0]} already"
    together = {**known, kernel.op: kernel}
    try:
        MemoryMap([(name, _some(each)) for name, each in together.items()], together)
    except ValueError as error:
        return str(error)
    return None


def _some(kernel: type[Kernel]) -> Params:
    """Parameters that decide memories, of a design that has all of them."""
    return dict.fromkeys(kernel.geometry, 1)


# Engines of a design -----------------------------------------------------------------


def kernel_name(engine: str) -> str:
    """Name of the kernel that an engine of a design is made of.

    >>> kernel_name("attention"), kernel_name("attention_2")
    ('attention', 'attention')
    """
    match = _INSTANCE.fullmatch(engine)
    assert match is not None, "any text matches"
    return match["kernel"]


def kernel_of(engine: str) -> type[Kernel]:
    """Class of an engine of a design.

    Raises:
        KeyError: there is no such kernel.
    """
    return kernels()[kernel_name(engine)]


def command_kernel(engine: str) -> type[CommandKernel]:
    """Class of an engine of a design other than the one with the ring.

    Raises:
        KeyError: there is no such kernel.
    """
    kernel = kernel_of(engine)
    assert issubclass(kernel, CommandKernel), "only the engine with the ring is another kind"
    return kernel


def kernel_for(layer: Layer) -> type[Kernel] | None:
    """The kernel that runs a layer; None if none does."""
    return _by_layer().get(type(layer))


@cache
def _by_layer() -> Mapping[type[Layer], type[Kernel]]:
    return {layer: kernel for kernel in kernels().values() for layer in kernel.layers}


def layer_types() -> tuple[type[Layer], ...]:
    """Types of layers that some engine runs."""
    return tuple(_by_layer())


def engine_names(engines: Iterable[str]) -> tuple[str, ...]:
    """All engines of a design in the order of their numbers: those that move data, the one with the ring, the others.

    >>> engine_names(["attention", "linear"])
    ('load', 'store', 'fetch', 'linear', 'attention')
    """
    return (*MOVERS, RING, *(name for name in engines if name != RING))


def fields_of(engine: str) -> Mapping[str, int]:
    """Operand fields of an engine of a design in order, in bits.

    Raises:
        KeyError: there is no such engine.
    """
    return MOVERS[engine] if engine in MOVERS else kernel_of(engine).fields


# Memories ----------------------------------------------------------------------------


class Access(NamedTuple):
    """A port of an engine of a design."""

    engine: str
    port: Port


class Reached(NamedTuple):
    """An on-chip memory of a design, and who reaches it.

    Attributes:
        name: in the design.
        owner: the engine that brings it along.
        bytes: of an element.
        writer: the one port that writes it.
        readers: ports that read it, a physical copy each.
    """

    name: str
    owner: str
    bytes: int
    writer: Access
    readers: tuple[Access, ...]


class MemoryMap:
    """The on-chip memories of a design.

    Args:
        engines: all but those that move data, in order, with the parameters that decide memories.
        known: kernels by the name of their engine.

    Attributes:
        memories: by name.
        numbers: by engine and port the names of the memories that the port reaches, in the order of their numbers.

    Raises:
        ValueError: two memories of one name, a port that there is not, or not one that writes a memory.
    """

    def __init__(self, engines: Sequence[tuple[str, Params]], known: Mapping[str, type[Kernel]]) -> None:
        ports = {("load", "out"): _MOVER_PORTS["load"], ("store", "source"): _MOVER_PORTS["store"]}
        ordered = [(name, port) for name, _ in engines for port in known[kernel_name(name)].ports]
        ports |= {(name, port.name): port for name, port in ordered}
        self._ports = ports
        self.numbers: dict[tuple[str, str], tuple[str, ...]] = {at: port.memories for at, port in ports.items()}
        owned: dict[str, tuple[str, Memory, list[tuple[str, str]]]] = {}
        for engine, params in engines:
            for memory in known[kernel_name(engine)].memories(params):
                name = memory_name(engine, memory.name)
                if name in owned:
                    raise ValueError(f"memory {name} of {engine} is another engine's already")
                owned[name] = engine, memory, [self._resolved(engine, port, name) for port in memory.ports]
        for at, port in ports.items():
            for name in port.memories:
                if name not in owned:
                    raise ValueError(f"port {at[1]} of {at[0]} reads memory {name}, which there is not")
                owned[name][2].append(at)
        self.memories = {name: self._reached(name, *each) for name, each in owned.items()}

    def _resolved(self, engine: str, port: str, memory: str) -> tuple[str, str]:
        """Engine and port by the name that a memory gives; the memory becomes the port's next number."""
        owner, dot, name = port.rpartition(".")
        at = (owner if dot else engine, name)
        if at not in self._ports:
            raise ValueError(f"memory {memory} of {engine} names port {port!r}, which there is not")
        self.numbers[at] = (*self.numbers[at], memory)
        return at

    def _reached(self, name: str, owner: str, memory: Memory, users: list[tuple[str, str]]) -> Reached:
        order = list(self._ports)
        order.sort(key=lambda at: (at[0] != RING, at[0] != "store"))
        access = [Access(at[0], self._ports[at]) for at in sorted(users, key=order.index)]
        writers = [each for each in access if each.port.writes]
        if len(writers) != 1:
            raise ValueError(f"memory {name} has {len(writers)} ports that write it; legal: 1")
        return Reached(name, owner, memory.bytes, writers[0], tuple(each for each in access if not each.port.writes))

    def number(self, engine: str, port: str, memory: str) -> int:
        """Number by which an engine's command names a memory at one of its ports."""
        at = engine, port
        return self._ports[at].first + self.numbers[at].index(memory)


def memory_name(engine: str, memory: str) -> str:
    """Name in a design of a memory that a kernel brings along; those of a kernel's further engines have its number.

    >>> memory_name("attention", "query"), memory_name("attention_2", "query")
    ('query', 'query_2')
    """
    return memory + engine[len(kernel_name(engine)) :]


Geometry = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
"""Engines of a design in order, each with the parameters that decide where matrices lie."""


def geometry(engines: Mapping[str, Params]) -> Geometry:
    """That of a design's engines, the one with the ring first."""
    found = []
    for name in engine_names(engines)[len(MOVERS) :]:
        values = engines[name]
        found.append((name, tuple((param, int(values.get(param, 0))) for param in kernel_of(name).geometry)))
    return tuple(found)


@lru_cache(256)
def memory_map(engines: Geometry) -> MemoryMap:
    """The memories of such engines."""
    return MemoryMap([(name, dict(values)) for name, values in engines], kernels())
