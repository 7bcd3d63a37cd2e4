"""The contract of a hardware kernel: one object with parameters, golden, formulas and hardware.

A kernel is a frozen dataclass of design parameters. The formulas are class methods that
take the parameters as a mapping of names to integers or to integer arrays, so that the
same expression serves one design and a million of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from codesign.ir.network import Ints, Layer
from codesign.solver.space import Number as Number
from codesign.solver.space import ParameterSpace
from codesign.solver.space import Params as Params
from codesign.target.board import Board

Work = Mapping[str, Number]
Joules = float | NDArray[np.floating]

DSP_MACS = 2
"""8-bit multiply-accumulates that cost as much as one operation of a whole DSP."""
_FEMTO = 1e-15


@dataclass(frozen=True)
class Resources:
    """Device resources; every field is an integer or an array of integers."""

    dsp: Number = 0
    bram36: Number = 0
    uram: Number = 0
    lut: Number = 0
    ff: Number = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def times(self, count: Number) -> "Resources":
        """All fields multiplied by ``count`` instances."""
        return Resources(**{name: value * count for name, value in vars(self).items()})


@overload
def ceil_div(a: int, b: int) -> int: ...
@overload
def ceil_div(a: Number, b: Number) -> Number: ...
def ceil_div(a: Number, b: Number) -> Number:
    """Integer ceiling of ``a / b`` for scalars and arrays.

    >>> ceil_div(7, 4)
    2
    """
    return -(-a // b)


@overload
def padded(size: int, unit: int) -> int: ...
@overload
def padded(size: Number, unit: Number) -> Number: ...
def padded(size: Number, unit: Number) -> Number:
    """The smallest multiple of a unit that is at least the size; for numbers and arrays.

    >>> padded(10, 4)
    12
    """
    return ceil_div(size, unit) * unit


def head_columns(heads: int, wide: Number, unit: Number) -> Number:
    """Columns of a row of heads of ``wide`` columns each, with empty heads behind until a unit divides it.

    >>> int(head_columns(3, 24, 16))
    96
    """
    step: Number = unit // np.gcd(unit, wide)
    return padded(heads, step) * wide


def maximum(a: Number, b: Number) -> Number:
    """Element-wise maximum that keeps Python integers unbounded.

    >>> maximum(3, 5)
    5
    """
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return np.maximum(a, b)


def minimum(a: Number, b: Number) -> Number:
    """Element-wise minimum that keeps Python integers unbounded.

    >>> minimum(3, 5)
    3
    """
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return np.minimum(a, b)


def joules(board: Board, *, macs: Number, ram_bytes: Number, cycles: Number, logic: Resources) -> Joules:
    """Modelled energy of some work by the board's coefficients: multiplications, on-chip memory and logic.

    Args:
        board: the coefficients.
        macs: 8-bit multiply-accumulates; an operation of a whole DSP counts `DSP_MACS`.
        ram_bytes: bytes read from and written to on-chip memories.
        cycles: in which the logic works.
        logic: its look-up tables and flip-flops.

    Raises:
        InputError: the board has no coefficients.
    """
    e = board.coefficients
    per_cycle: Joules = (logic.lut * e.lut_cycle_fj + logic.ff * e.ff_cycle_fj) * _FEMTO
    total: Joules = macs * (e.mac_fj * _FEMTO) + ram_bytes * (e.ram_byte_fj * _FEMTO) + cycles * per_cycle
    return total


def powers_up_to(first: int, last: int) -> tuple[int, ...]:
    """Powers of two from ``first``, a power of two, up to the first that is at least ``last``.

    >>> powers_up_to(2, 9)
    (2, 4, 8, 16)
    """
    return tuple(first << i for i in range(max(0, -(-last // first) - 1).bit_length() + 1))


def power_of_two(x: Number) -> Number:
    """Truth of ``x`` being a power of two.

    >>> int(power_of_two(8)), int(power_of_two(6))
    (1, 0)
    """
    return (x > 0) * ((x & (x - 1)) == 0)


CONTRACT = 1
"""Version of what a kernel declares; one written for another version is refused."""


class Memory(NamedTuple):
    """An on-chip memory that an engine brings along.

    Attributes:
        name: no other kernel's memory has it.
        bytes: of an element.
        ports: who reaches it: the kernel's own ports by name, those of others as ``ENGINE.PORT``. Exactly one writes.
    """

    name: str
    bytes: int
    ports: tuple[str, ...]


class Port(NamedTuple):
    """A port of an engine to on-chip memories.

    Attributes:
        name: of the component's port. Where it may reach several memories, the output ``NAME_select`` tells the number
            of the one that is meant.
        lanes: parameter that tells how many elements a word has; None where a word is one of the bus.
        writes: whether it writes.
        memories: other engines' memories that it reads, in the order of their numbers, before all that name it.
        first: number of its first memory.
    """

    name: str
    lanes: str | None = None
    writes: bool = False
    memories: tuple[str, ...] = ()
    first: int = 0


class Columns(NamedTuple):
    """Columns of a matrix as it lies on chip: groups of ``wide`` columns, the first ``used`` of each real.

    Fields are integers or arrays of integers.

    Attributes:
        heads: groups with data in them.
        used, wide: columns of a group, and with its padding.
        total: columns of a row, empty groups at its end included.
    """

    heads: int
    used: int
    wide: Any
    total: Any

    @property
    def places(self) -> Ints:
        """Column on chip of each column of the matrix."""
        head, column = np.divmod(np.arange(self.heads * self.used), self.used)
        found: Ints = head * self.wide + column
        return found


class Constant(NamedTuple):
    """Bytes that a layer's commands read from an on-chip memory, loaded once before the first of them.

    Attributes:
        memory: the kernel's own name for it.
        size: bytes without padding.
        data: makes them, padded with zeros to the size that it is given.
    """

    memory: str
    size: int
    data: Callable[[int], bytes]


@dataclass(frozen=True)
class Case:
    """A layer as the contract suite and the benches need it.

    Attributes:
        layer: one that the kernel supports.
        work: the same for the formulas, as one command without padding.
        shapes: rows, columns and magnitude bits of each tensor that it reads, by name.
    """

    layer: Layer
    work: Work
    shapes: Mapping[str, tuple[int, int, int]]

    def values(self, rng: np.random.Generator) -> dict[str, Ints]:
        """Random integers for every tensor that it reads."""
        return {name: rng.integers(-(1 << bits), 1 << bits, (r, c)) for name, (r, c, bits) in self.shapes.items()}


class Placement(Protocol):
    """Where the matrices of a layer lie on chip, in words of the engine's port to each."""

    def base(self, tensor: str, row: int) -> int:
        """Word in which a row begins."""

    def stride(self, tensor: str) -> int:
        """Words from row to row."""

    def constant(self, index: int) -> int:
        """Word in which a constant of the layer begins, by its place in `Kernel.constants`."""

    def columns(self, tensor: str) -> Columns:
        """Columns of the matrix."""


class Kernel(ABC):
    """Base of all kernels; subclasses are frozen dataclasses of integer parameters.

    Everything that the rest of the system needs to know of an engine is declared here: numbers of engines and
    memories, registers, layouts, programs, bounds and reports follow from the kernels that are found, see
    `codesign.target.engines`.

    Attributes:
        contract: `CONTRACT`, as the kernel was written for.
        op: name of its engine.
        layers: types of layers that it runs.
        fields: operands of a command in order, in bits.
        ports: to on-chip memories, in the order in which they are wired.
        geometry: parameters that decide where matrices lie, and which memories there are.
        bench: module of its protocol bench, see `codesign.sim.testbench.benches`.
        configurations: designs, parameters in the order of the fields, whose resources are compared with synthesis.
    """

    contract: ClassVar[int]
    op: ClassVar[str]
    layers: ClassVar[tuple[type[Layer], ...]]
    fields: ClassVar[Mapping[str, int]]
    ports: ClassVar[tuple[Port, ...]]
    geometry: ClassVar[tuple[str, ...]] = ()
    bench: ClassVar[str] = "codesign.sim.testbench.bench_command"
    configurations: ClassVar[tuple[tuple[int, ...], ...]] = ()

    @property
    def params(self) -> dict[str, int]:
        """The design parameters by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    # Layers.

    @classmethod
    @abstractmethod
    def supports(cls, layer: object) -> str | None:
        """None if the kernel can run the layer in some design, else the reason why not."""

    @classmethod
    @abstractmethod
    def memories(cls, params: Params) -> tuple[Memory, ...]:
        """On-chip memories that the engine brings along; depends on ``geometry`` alone."""

    @classmethod
    @abstractmethod
    def reaches(cls, layer: Any) -> tuple[tuple[str, str], ...]:
        """Every tensor that the layer reads or makes, with the engine's port to it."""

    # Designs.

    @classmethod
    @abstractmethod
    def legal(cls, params: Params) -> Number:
        """Truth (0/1 array or int) of the parameters being a legal design."""

    @classmethod
    @abstractmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        """The designs on a board that can run the layer and of which no part is larger than the layer can use."""

    @classmethod
    @abstractmethod
    def cases(cls, rng: np.random.Generator) -> Sequence[Case]:
        """Some layers that it supports: smallest, ragged, prime, round and random."""

    @classmethod
    @abstractmethod
    def small(cls) -> "Kernel":
        """A small design, quick to compile, in which most sizes leave a remainder."""

    @classmethod
    @abstractmethod
    def tile(cls, params: Params) -> tuple[int, int]:
        """Rows and columns of a result that the engine makes at once."""

    # Formulas.

    @classmethod
    @abstractmethod
    def cycles(cls, params: Params, work: Work) -> Number:
        """Clock cycles from accepting a command to its done pulse, without external stalls."""

    @classmethod
    @abstractmethod
    def resources(cls, params: Params) -> Resources:
        """Device resources; DSP and memories exact, LUT and FF estimated."""

    @classmethod
    @abstractmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Off-chip bytes that the command itself moves."""

    @classmethod
    @abstractmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """Modelled joules of the command: multipliers, on-chip memories, and its logic while it works.

        Neither off-chip bytes nor what is drawn all the time; see `codesign.timing.energy`.

        Raises:
            InputError: the board has no coefficients.
        """

    @classmethod
    def lut_units(cls, params: Params) -> Mapping[str, Mapping[str, Number]]:
        """What LUTs go into, by part and unit, where the cost of a unit is fitted: `codesign.hw.primitives.area`."""
        return {}

    @classmethod
    def ff_units(cls, params: Params) -> Mapping[str, Mapping[str, Number]]:
        """What flip-flops go into, likewise."""
        return {}

    @classmethod
    def peak_macs(cls, params: Params) -> Number:
        """Multiply-accumulates per cycle of all its multipliers."""
        return 0

    # Hardware.

    def rings(self) -> Mapping[str, tuple[int, int]]:
        """Words and bits of a word of the memories behind its read ports that are not in ``ports``, by port."""
        return {}

    @abstractmethod
    def component(self, depths: Mapping[str, int]) -> Any:
        """The engine as an Amaranth component.

        It has the stream ``command`` of its operands, the outputs ``done``, ``busy`` and ``error``, and its ports.

        Args:
            depths: words of the memory behind each port.
        """

    @abstractmethod
    def sources(self, target: str) -> dict[str, str]:
        """The kernel alone, as file name to text.

        Args:
            target: ``rtl``, Verilog with a memory behind each read port, its top module is ``rig``; or ``hls``, C++
                and a script for high-level synthesis.

        Raises:
            InputError: the kernel has no sources for such a target; the message names those it has.
        """


class CommandKernel(Kernel):
    """A kernel whose layers become a command per group of rows, each with a duration of its own.

    All kernels are, but the one that owns the weight ring.

    Attributes:
        padding: parameters among ``geometry`` that decide `columns`.
        assumes: what `work` takes for granted where the work depends on data; empty where it does not.
    """

    padding: ClassVar[tuple[str, ...]] = ()
    assumes: ClassVar[str] = ""

    @classmethod
    def columns(cls, layer: Any, params: Params, unit: Number) -> Columns | None:
        """Columns of the matrices that the layer reads and writes, as they must lie on chip; None for no padding.

        Args:
            layer: one of ``layers``.
            params: those in ``padding``.
            unit: columns of which a row must be a multiple.
        """
        return None

    @classmethod
    def constants(cls, layer: Any) -> tuple[Constant, ...]:
        """What its commands read beside its tensors."""
        return ()

    @classmethod
    @abstractmethod
    def operands(cls, layer: Any, params: Params, place: Placement, first: int, rows: int) -> dict[str, int]:
        """Operands of the command that makes some rows of the layer's target.

        Args:
            layer: one of ``layers``.
            params: those in ``geometry``.
            place: where its matrices lie.
            first: first row.
            rows: how many.
        """

    @classmethod
    @abstractmethod
    def work(cls, layer: Any, first: Number, rows: Number, columns: Columns | None = None) -> dict[str, Number]:
        """Work of that command, as the formulas take it.

        Args:
            layer: one of ``layers``.
            first: first row.
            rows: how many.
            columns: of its matrices as they lie on chip; None for those of the layer alone.
        """

    @classmethod
    def counted(cls, counts: Mapping[str, Ints], first: int, rows: int) -> dict[str, int]:
        """The part of `work` that depends on data, once the data is known: here all counts of the rows together.

        Args:
            counts: as `codesign.ir.network.Layer.counts` gives them.
            first: first row of the command.
            rows: how many.
        """
        return {name: int(each[first : first + rows].sum()) for name, each in counts.items()}

    @classmethod
    @abstractmethod
    def axes(cls, layers: Sequence[Any]) -> dict[str, tuple[int, ...]]:
        """Values that a search tries, by parameter; no other kernel has a parameter of such a name.

        Args:
            layers: the network's layers that the engine runs; without any only the names matter.
        """

    @classmethod
    @abstractmethod
    def follows(cls, layers: Sequence[Any], params: Params) -> dict[str, Number]:
        """The other parameters, which follow from the network.

        Args:
            layers: as in `axes`.
            params: those in `axes`, integers or arrays.
        """

    @classmethod
    @abstractmethod
    def choices(cls, linear: Params) -> tuple[dict[str, int], ...]:
        """Values of the axes that the plain choice of a design tries, the smallest design first.

        Args:
            linear: parameters of the linear engine beside it.
        """

    # Stimulus.

    @abstractmethod
    def trial(self, rng: np.random.Generator, slot: int) -> Any:
        """A random legal command, a `codesign.hw.emit.stimulus.Trial`; its operands lie in the slot of each memory."""

    @abstractmethod
    def refused_trial(self, rng: np.random.Generator, slot: int) -> Any:
        """Likewise one that the engine must refuse."""
