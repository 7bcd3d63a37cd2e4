"""Installed kernels, and the engine numbers, operand fields, memories and port connections derived from them.

A kernel is the ``KERNEL`` of a subpackage of `codesign.hw`, or comes from the entry point group `GROUP` of another
distribution; both are imported on first use. An engine of a design is named after its kernel, further instances with
a numeric suffix, ``attention_2``.
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
"""Entry point group through which other packages offer kernel classes, by engine name."""
RING = "linear"
"""The engine that owns the weight ring; every design has it, numbered right after the `MOVERS`."""
LUT = "lut"
"""The linear engine's internal 8-bit tables; the load engine addresses them by its last memory number."""
MOST_ENGINES = 16
"""Maximum engines per design, `MOVERS` included; limited by the command format and the registers."""

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
    # Bus words of requantization table, then of weights, contiguous from byte address dram.
    "fetch": {"table_words": 24, "weight_words": 24, "dram": 40},
}
"""Operand fields of the data-moving engines, which every design has, in engine number order."""
_MOVER_PORTS: Mapping[str, Port] = {"load": Port("out", writes=True), "store": Port("source")}

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*")
_INSTANCE = re.compile(r"(?P<kernel>.*?)(?:_(?P<number>[0-9]+))?")
_HOME = "codesign.hw"
_LOG = logging.getLogger(__name__)


# Kernels -----------------------------------------------------------------------------


class Discovered(NamedTuple):
    """Result of kernel discovery.

    Attributes:
        kernels: classes by engine name, built-in ones first.
        refused: by entry point name, the reason why it cannot be used, in one line.
    """

    kernels: Mapping[str, type[Kernel]]
    refused: Mapping[str, str]


@cache
def found() -> Discovered:
    """All kernels; each unusable entry point is logged once and skipped."""
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
    """Kernel classes by engine name."""
    return found().kernels


def _ours() -> list[type[Kernel]]:
    """Built-in kernels, one per subpackage of `codesign.hw` with a ``KERNEL``: `RING` first, then by name."""
    home = importlib.import_module(_HOME)
    folders = [module.name for module in pkgutil.iter_modules(home.__path__) if module.ispkg]
    modules = [importlib.import_module(f"{_HOME}.{name}") for name in folders]
    mine: list[type[Kernel]] = [module.KERNEL for module in modules if hasattr(module, "KERNEL")]
    return sorted(mine, key=lambda kernel: (kernel.op != RING, kernel.op))


def _kernel(name: str, found: object) -> type[CommandKernel]:
    """The object of an entry point, checked to be a kernel class whose ``op`` is the entry point's name."""
    if not (isinstance(found, type) and issubclass(found, CommandKernel)):
        raise TypeError(f"{found!r:.80}; legal: a subclass of codesign.target.kernel.CommandKernel")
    if getattr(found, "op", None) != name:
        raise TypeError(f"its class says that it is {getattr(found, 'op', None)!r}; legal: {name!r}")
    return found


def fault_of(kernel: type[Kernel], known: Mapping[str, type[Kernel]]) -> str | None:
    """Reason why a kernel cannot be added to others; None if it can.

    Args:
        kernel: the class.
        known: the other kernels by engine name.
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
    """Conflict with known kernels (layer type, axis, memory name), or an unknown port or memory name; None if fine."""
    for other in known.values():
        taken = [layer.__name__ for layer in kernel.layers if layer in other.layers]
        if taken:
            return f"{other.op} runs layers of type {taken[0]} already"
        shared = [axis for axis in _axes(kernel) if axis in _axes(other)]
        if shared:
            return f"{other.op} has an axis {shared[0]!r} already"
    together = {**known, kernel.op: kernel}
    try:
        MemoryMap([(name, _some(each)) for name, each in together.items()], together)
    except ValueError as error:
        return str(error)
    return None


def _axes(kernel: type[Kernel]) -> tuple[str, ...]:
    """Names of the axes that a kernel adds to those of every design."""
    return tuple(kernel.axes(())) if issubclass(kernel, CommandKernel) else ()


def _some(kernel: type[Kernel]) -> Params:
    """Geometry parameters, all 1, with which a kernel declares every memory."""
    return dict.fromkeys(kernel.geometry, 1)


# Engines of a design -----------------------------------------------------------------


@cache
def kernel_name(engine: str) -> str:
    """Kernel name of a design's engine, without the instance number.

    >>> kernel_name("attention"), kernel_name("attention_2")
    ('attention', 'attention')
    """
    match = _INSTANCE.fullmatch(engine)
    assert match is not None, "any text matches"
    return match["kernel"]


def kernel_of(engine: str) -> type[Kernel]:
    """Kernel class of a design's engine.

    Raises:
        KeyError: there is no such kernel.
    """
    return kernels()[kernel_name(engine)]


def command_kernel(engine: str) -> type[CommandKernel]:
    """Kernel class of a design's engine other than `RING`.

    Raises:
        KeyError: there is no such kernel.
    """
    kernel = kernel_of(engine)
    assert issubclass(kernel, CommandKernel), "only the engine with the ring is another kind"
    return kernel


def kernel_for(layer: Layer) -> type[Kernel] | None:
    """The kernel for the layer's type; None if there is none."""
    return _by_layer().get(type(layer))


@cache
def _by_layer() -> Mapping[type[Layer], type[Kernel]]:
    return {layer: kernel for kernel in kernels().values() for layer in kernel.layers}


def engine_names(engines: Iterable[str]) -> tuple[str, ...]:
    """All engines of a design in number order: the `MOVERS`, `RING`, then the others as given.

    >>> engine_names(["attention", "linear"])
    ('load', 'store', 'fetch', 'linear', 'attention')
    """
    return (*MOVERS, RING, *(name for name in engines if name != RING))


def fields_of(engine: str) -> Mapping[str, int]:
    """Operand fields of a design's engine: bits by name, lowest first.

    Raises:
        KeyError: there is no such engine.
    """
    return MOVERS[engine] if engine in MOVERS else kernel_of(engine).fields


# Memories ----------------------------------------------------------------------------


class Access(NamedTuple):
    """One port of one engine of a design."""

    engine: str
    port: Port


class Reached(NamedTuple):
    """On-chip memory of a design with its ports.

    Attributes:
        name: name in the design.
        owner: engine that declares it.
        bytes: bytes per element.
        writer: the only port that writes it.
        readers: ports that read it, each from its own physical copy.
    """

    name: str
    owner: str
    bytes: int
    writer: Access
    readers: tuple[Access, ...]


class MemoryMap:
    """On-chip memories of a design and their connections to ports.

    Args:
        engines: all engines except `MOVERS`, in number order, with their geometry parameters.
        known: kernels by engine name.

    Attributes:
        memories: memories by name.
        ports: by (engine, port name), the ports of all engines but ``fetch``.
        numbers: by (engine, port), the names of the connected memories in number order.

    Raises:
        ValueError: a duplicate memory name, an unknown port or memory, or a memory without exactly one writer.
    """

    def __init__(self, engines: Sequence[tuple[str, Params]], known: Mapping[str, type[Kernel]]) -> None:
        ports = {("load", "out"): _MOVER_PORTS["load"], ("store", "source"): _MOVER_PORTS["store"]}
        ordered = [(name, port) for name, _ in engines for port in known[kernel_name(name)].ports]
        ports |= {(name, port.name): port for name, port in ordered}
        self.ports = ports
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
        """Resolves a port name in a memory's declaration to (engine, port) and numbers the memory next at that port."""
        owner, dot, name = port.rpartition(".")
        at = (owner if dot else engine, name)
        if at not in self.ports:
            raise ValueError(f"memory {memory} of {engine} names port {port!r}, which there is not")
        self.numbers[at] = (*self.numbers[at], memory)
        return at

    def _reached(self, name: str, owner: str, memory: Memory, users: list[tuple[str, str]]) -> Reached:
        order = list(self.ports)
        order.sort(key=lambda at: (at[0] != RING, at[0] != "store"))
        access = [Access(at[0], self.ports[at]) for at in sorted(users, key=order.index)]
        writers = [each for each in access if each.port.writes]
        if len(writers) != 1:
            raise ValueError(f"memory {name} has {len(writers)} ports that write it; legal: 1")
        return Reached(name, owner, memory.bytes, writers[0], tuple(each for each in access if not each.port.writes))

    def number(self, engine: str, port: str, memory: str) -> int:
        """Number of a memory at an engine's port, as used in commands and ``PORT_select``."""
        at = engine, port
        return self.ports[at].first + self.numbers[at].index(memory)


def memory_name(engine: str, memory: str) -> str:
    """Name in a design of a kernel's memory; further instances of an engine append their number.

    >>> memory_name("attention", "query"), memory_name("attention_2", "query")
    ('query', 'query_2')
    """
    return memory + engine[len(kernel_name(engine)) :]


Geometry = tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
"""Engines of a design in order, each with its `Kernel.geometry` parameters."""


def geometry(engines: Mapping[str, Params]) -> Geometry:
    """Hashable geometry parameters of a design's engines, `RING` first; missing parameters are 0."""
    found = []
    for name in engine_names(engines)[len(MOVERS) :]:
        values = engines[name]
        found.append((name, tuple((param, int(values.get(param, 0))) for param in kernel_of(name).geometry)))
    return tuple(found)


@lru_cache(256)
def memory_map(engines: Geometry) -> MemoryMap:
    """Cached `MemoryMap` of a geometry."""
    return MemoryMap([(name, dict(values)) for name, values in engines], kernels())
