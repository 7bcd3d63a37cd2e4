"""Contract of a kernel, the class that describes an engine: parameters, formulas, commands and hardware.

A kernel is a frozen dataclass of integer design parameters. Its formulas are class methods that
take the parameters as a mapping of names to integers or integer arrays, so that one expression
evaluates one design or a million. Everything that a kernel is made of is imported from here, the
arithmetic of its formulas included.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from codesign.ir.network import Ints, Layer
from codesign.solver.space import Number as Number
from codesign.solver.space import ParameterSpace
from codesign.solver.space import Params as Params
from codesign.target.arithmetic import ceil_div as ceil_div
from codesign.target.arithmetic import head_columns as head_columns
from codesign.target.arithmetic import maximum as maximum
from codesign.target.arithmetic import minimum as minimum
from codesign.target.arithmetic import padded as padded
from codesign.target.arithmetic import power_of_two as power_of_two
from codesign.target.arithmetic import powers_up_to as powers_up_to
from codesign.target.board import Board

Work = Mapping[str, Number]
Joules = float | NDArray[np.floating]

DSP_MACS = 2
"""8-bit multiply-accumulates whose energy equals that of one full-width DSP operation."""
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


def joules(board: Board, *, macs: Number, ram_bytes: Number, cycles: Number, logic: Resources) -> Joules:
    """Modelled energy in joules of multiplications, on-chip memory accesses and active logic.

    Args:
        board: supplies the energy coefficients.
        macs: 8-bit multiply-accumulates; a full-width DSP operation counts as `DSP_MACS`.
        ram_bytes: bytes read from and written to on-chip memories.
        cycles: clock cycles in which the logic is active.
        logic: look-up tables and flip-flops of that logic.

    Raises:
        InputError: the board has no coefficients.
    """
    e = board.coefficients
    per_cycle: Joules = (logic.lut * e.lut_cycle_fj + logic.ff * e.ff_cycle_fj) * _FEMTO
    total: Joules = macs * (e.mac_fj * _FEMTO) + ram_bytes * (e.ram_byte_fj * _FEMTO) + cycles * per_cycle
    return total


CONTRACT = 1
"""Version of the kernel contract; kernels written for another version are refused."""


class Memory(NamedTuple):
    """On-chip memory that belongs to an engine.

    Attributes:
        name: unique among the memories of all kernels.
        bytes: bytes per element.
        ports: ports connected to it: this kernel's by name, others as ``ENGINE.PORT``. Exactly one must write.
    """

    name: str
    bytes: int
    ports: tuple[str, ...]


class Port(NamedTuple):
    """Read or write port of an engine to on-chip memories.

    Attributes:
        name: attribute of the component. If several memories are connected, the output ``NAME_select`` gives the
            number of the addressed one.
        lanes: name of the parameter that gives the elements per word; None if a word is a bus word.
        writes: whether it is a write port.
        memories: other engines' memories that it reads; they are numbered before those that list this port.
        first: number of its first memory.
    """

    name: str
    lanes: str | None = None
    writes: bool = False
    memories: tuple[str, ...] = ()
    first: int = 0


class Columns(NamedTuple):
    """Column layout of a matrix on chip: groups of ``wide`` columns, of which the first ``used`` hold data.

    Fields are integers or arrays of integers.

    Attributes:
        heads: number of groups that hold data.
        used, wide: columns per group, without and with padding.
        total: columns per row, including empty groups at its end.
    """

    heads: int
    used: int
    wide: Any
    total: Any

    @property
    def places(self) -> Ints:
        """On-chip column index of each matrix column, shape ``[heads * used]``."""
        head, column = np.divmod(np.arange(self.heads * self.used), self.used)
        found: Ints = head * self.wide + column
        return found


class Constant(NamedTuple):
    """Constant data in an on-chip memory, loaded once before the first command of the layer that reads it.

    Attributes:
        memory: name in `Kernel.memories`.
        size: bytes without padding.
        data: returns the bytes, zero-padded to the size passed to it.
    """

    memory: str
    size: int
    data: Callable[[int], bytes]


@dataclass(frozen=True)
class Case:
    """Sample layer for the contract suite and the benches.

    Attributes:
        layer: a layer that the kernel supports.
        work: argument of the formulas for the whole layer as one command, without padding.
        shapes: rows, columns and magnitude bits of each tensor that the layer reads, by name.
    """

    layer: Layer
    work: Work
    shapes: Mapping[str, tuple[int, int, int]]

    def values(self, rng: np.random.Generator) -> dict[str, Ints]:
        """Random integers ``[rows, columns]`` for each tensor in ``shapes``."""
        return {name: rng.integers(-(1 << bits), 1 << bits, (r, c)) for name, (r, c, bits) in self.shapes.items()}


class Placement(Protocol):
    """On-chip addresses of a layer's matrices, in words of the engine's port to each."""

    def base(self, tensor: str, row: int) -> int:
        """Address of the first word of a row."""

    def stride(self, tensor: str) -> int:
        """Words between the starts of consecutive rows."""

    def constant(self, index: int) -> int:
        """Address of the first word of entry ``index`` of `CommandKernel.constants`."""

    def columns(self, tensor: str) -> Columns:
        """Column layout of the matrix."""


class Kernel(ABC):
    """Base of all kernels; subclasses are frozen dataclasses of integer parameters.

    A kernel declares all that other packages use of its engine: engine and memory numbers, registers, layouts,
    programs, bounds and reports are derived from the installed kernels, see `codesign.target.engines`.

    Attributes:
        contract: the value of `CONTRACT` that the kernel was written for.
        op: name of the engine.
        layers: layer types that it runs; no other kernel may run them.
        fields: bits of each command operand by name; the first is lowest in the command.
        ports: ports to on-chip memories, in wiring order.
        geometry: parameters that determine the memories and where matrices lie in them.
        bench: module of its protocol bench, see `codesign.sim.testbench.benches`.
        configurations: designs, as parameter values in field order, whose resources are compared with synthesis.
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
        """None if some design can run the layer, else the reason why not, in one line."""

    @classmethod
    @abstractmethod
    def memories(cls, params: Params) -> tuple[Memory, ...]:
        """On-chip memories of the engine; may depend only on the parameters in ``geometry``."""

    @classmethod
    @abstractmethod
    def reaches(cls, layer: Any) -> tuple[tuple[str, str], ...]:
        """(tensor, port) pairs: each tensor that the layer reads or writes, with the engine's port to it."""

    # Designs.

    @classmethod
    @abstractmethod
    def legal(cls, params: Params) -> Number:
        """1 where the constructor accepts the parameters, 0 where it raises ``ValueError``; int or array."""

    @classmethod
    @abstractmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        """Designs on a board that can run the layer, none larger than it can use; the axes are all parameters.

        Raises:
            TypeError: the layer is not supported.
        """

    @classmethod
    @abstractmethod
    def cases(cls, rng: np.random.Generator) -> Sequence[Case]:
        """Sample layers that it supports: minimal, ragged, prime, round and random sizes."""

    @classmethod
    @abstractmethod
    def small(cls) -> "Kernel":
        """Small design for tests: quick to compile, and most layer sizes leave partial tiles."""

    @classmethod
    @abstractmethod
    def tile(cls, params: Params) -> tuple[int, int]:
        """Rows and columns of the result tile that the engine computes at once."""

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
        """Off-chip bytes that the engine itself moves for the command."""

    @classmethod
    @abstractmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """Modelled joules of the command: multipliers, on-chip memories, and the engine's logic while busy.

        Off-chip and static energy are excluded; see `codesign.timing.energy`.

        Raises:
            InputError: the board has no coefficients.
        """

    @classmethod
    def lut_units(cls, params: Params) -> Mapping[str, Mapping[str, Number]]:
        """Cost units that use LUTs, counted by part and unit; costs are fitted, see `codesign.hw.primitives.area`."""
        return {}

    @classmethod
    def ff_units(cls, params: Params) -> Mapping[str, Mapping[str, Number]]:
        """Cost units that use flip-flops, counted by part and unit; see `lut_units`."""
        return {}

    @classmethod
    def peak_macs(cls, params: Params) -> Number:
        """Multiply-accumulates per cycle when every multiplier is busy."""
        return 0

    # Hardware.

    def rings(self) -> Mapping[str, tuple[int, int]]:
        """(words, bits per word) of the memory behind each read port that is not in ``ports``, by port name."""
        return {}

    @abstractmethod
    def component(self, depths: Mapping[str, int]) -> Any:
        """The engine as an Amaranth component.

        Its members: the input stream ``command`` of operands; the outputs ``busy``, ``done`` (pulse after the last
        write) and ``error`` (pulse instead, illegal command); and its ports, see `codesign.hw.primitives.memory`.

        Args:
            depths: words of the memory behind each port.
        """

    @abstractmethod
    def sources(self, target: str) -> dict[str, str]:
        """Source files of the engine alone: file name to text.

        Args:
            target: ``rtl``, Verilog with top module ``rig`` and a memory behind each read port; or ``hls``, C++
                and a script for high-level synthesis.

        Raises:
            InputError: the kernel has no sources for such a target; the message names those it has.
        """


class CommandKernel(Kernel):
    """Kernel that runs a layer as one command per row group, each timed by `cycles` alone.

    Base of every kernel except the one that owns the weight ring.

    Attributes:
        padding: the parameters of ``geometry`` that determine `columns`.
        assumes: the assumption `work` makes about data that affects it; empty if work is data-independent.
    """

    padding: ClassVar[tuple[str, ...]] = ()
    assumes: ClassVar[str] = ""

    @classmethod
    def columns(cls, layer: Any, params: Params, unit: Number) -> Columns | None:
        """On-chip column layout required of the matrices that the layer reads and writes; None for no padding.

        It may depend on nothing of the layer but its type and `codesign.ir.network.Layer.shape`.

        Args:
            layer: of a type in ``layers``.
            params: the parameters in ``padding``.
            unit: a row's columns must be a multiple of it.
        """
        return None

    @classmethod
    def constants(cls, layer: Any) -> tuple[Constant, ...]:
        """Constants that the layer's commands read in addition to its tensors."""
        return ()

    @classmethod
    @abstractmethod
    def operands(cls, layer: Any, params: Params, place: Placement, first: int, rows: int) -> dict[str, int]:
        """Operands of the command that computes ``rows`` rows of the layer's target from row ``first``.

        Args:
            layer: of a type in ``layers``.
            params: the parameters in ``geometry``.
            place: addresses of the layer's matrices.
            first: first row.
            rows: number of rows.
        """

    @classmethod
    @abstractmethod
    def work(cls, layer: Any, first: Number, rows: Number, columns: Columns | None = None) -> dict[str, Number]:
        """The ``work`` argument of the formulas for one command.

        Args:
            layer: of a type in ``layers``.
            first: first row.
            rows: number of rows.
            columns: on-chip layout of its matrices; None for no padding.
        """

    @classmethod
    def counted(cls, counts: Mapping[str, Ints], first: int, rows: int) -> dict[str, int]:
        """Entries of `work` that depend on data, for known data; by default each count summed over the rows.

        Args:
            counts: per-row counts from `codesign.ir.network.Layer.counts`.
            first: first row of the command.
            rows: number of rows.
        """
        return {name: int(each[first : first + rows].sum()) for name, each in counts.items()}

    @classmethod
    @abstractmethod
    def axes(cls, layers: Sequence[Any]) -> dict[str, tuple[int, ...]]:
        """Values to search for each free parameter; their names must be unique among all kernels.

        Args:
            layers: the network's layers that the engine runs; if empty, only the names are used.
        """

    @classmethod
    @abstractmethod
    def follows(cls, layers: Sequence[Any], params: Params) -> dict[str, Number]:
        """Parameters not in `axes`, derived from the network's layers.

        Args:
            layers: the network's layers that the engine runs.
            params: the parameters in `axes`, integers or arrays.
        """

    @classmethod
    @abstractmethod
    def choices(cls, linear: Params) -> tuple[dict[str, int], ...]:
        """Values of the `axes` parameters tried when a design is chosen without a search, smallest design first.

        Args:
            linear: parameters ``t_in`` and ``t_out`` of the design's linear engine.
        """

    # Stimulus.

    @abstractmethod
    def trial(self, rng: np.random.Generator, slot: int) -> Any:
        """Random legal command, a `codesign.hw.emit.stimulus.Trial`, with its data in slot ``slot`` of each memory."""

    @abstractmethod
    def refused_trial(self, rng: np.random.Generator, slot: int) -> Any:
        """Random illegal command, a `Trial` as in `trial`, that the engine must refuse with ``error``."""
