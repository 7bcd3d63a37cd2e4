"""A plain choice of design for a network and a board: a short list per engine, no search.

The linear array is the largest of a short list that fits the budget and that the network's layers
keep at least two thirds busy. The other engines, one after the other, are the smallest of their lists that cost
at most 5 % of the time. The weight ring holds all weights if they fit a quarter of the block RAM. The number of
rows per command is the best of a few by `codesign.timing.cycles.exact`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

from codesign.compiler.homes import check_engines
from codesign.compiler.layout import Widths, linear_columns, memory_need, widths
from codesign.compiler.program import compile_network
from codesign.errors import CheckError, InputError, NothingFits
from codesign.ir.network import Layer, Linear, Network
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import RING, command_kernel, kernel_for, kernels, memory_map
from codesign.target.kernel import Kernel, Params, Resources, ceil_div
from codesign.timing.cycles import exact
from codesign.timing.energy import EngineJoules
from codesign.timing.formulas import Formulas

RESOURCES = tuple(f.name for f in fields(Resources))
"""Names that a budget may use."""

_ARRAYS = tuple((t_out, n_l) for t_out in (8, 16, 32) for n_l in (1, 2, 4, 8))
_GROUPS = (1, 2, 4, 8)
_WHOLE = 1 << 15
_BRAM_BITS = 36 * 1024
_RING_SHARE, _TABLE_SHARE = 4, 16
"""Largest parts of the block RAM for the weight ring and for the table ring, as divisors."""
_DEEP = 64
"""Most words of a memory in LUT RAM; deeper memories are multiples of `_STEP` words."""
_STEP = 512


@dataclass(frozen=True)
class HardwareQueries:
    """The hardware's figures of a design, passed in because the hardware package lies above this module.

    Attributes:
        kernels: kernel classes by engine name.
        resources: resources of a design's parts.
        formulas: duration formulas for parameters by engine.
        joules: energy of the commands of a design's engines; None if no energy is needed.
    """

    kernels: Mapping[str, type[Kernel]]
    resources: Callable[[Design], Mapping[str, Resources]]
    formulas: Callable[[Mapping[str, Params]], Formulas]
    joules: Callable[[Design], EngineJoules] | None = None


@dataclass(frozen=True)
class DesignChoice:
    """Free parameters of a design for a network; the rest follows. See the engines' parameters.

    Attributes:
        ring_words, table_words: depths of the rings; 0 for the depth that ``generous`` selects.
        ports, clock_hz: 0 for those of the board.
        generous: whether such rings hold all weights as far as a share of block RAM allows; else the least depth.
        others: values of the other engines' axes, sorted by name; missing ones are those of the smallest designs.
    """

    t_in: int = 8
    t_out: int = 8
    n_l: int = 1
    ring_words: int = 0
    table_words: int = 0
    row_group: int = _WHOLE
    ports: int = 0
    clock_hz: int = 0
    generous: bool = False
    others: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, point: Mapping[str, int]) -> "DesignChoice":
        """The choice of a point of the design space.

        >>> DesignChoice.of({"n_l": 3, "lanes": 2}).others
        (('lanes', 2),)
        """
        mine = {name: int(value) for name, value in point.items() if name in OWN}
        others = tuple(sorted((name, int(value)) for name, value in point.items() if name not in OWN))
        return cls(**mine, others=others)  # type: ignore[arg-type]

    def with_others(self, values: Mapping[str, int]) -> "DesignChoice":
        """A copy with new values of some of the other engines' axes."""
        return replace(self, others=tuple(sorted({**dict(self.others), **values}.items())))


def parameters() -> tuple[str, ...]:
    """Names of all free parameters: those of every choice, and the axes of all engines available."""
    others = (axis for engine in kernels() if engine != RING for axis in command_kernel(engine).axes(()))
    return (*OWN[:_LINEAR], *others, *OWN[_LINEAR:])


_LINEAR = 5
"""Number of leading parameters of a choice that belong to the linear engine."""
OWN = tuple(each.name for each in fields(DesignChoice) if each.name not in ("generous", "others"))
"""Parameters of a choice that every design has."""


def parse_budget(text: str | None) -> dict[str, int]:
    """Limits by resource name, from ``dsp=N,bram36=N,uram=N,lut=N``.

    Raises:
        InputError: an unknown or repeated resource, or no whole number.

    >>> parse_budget("dsp=500,lut=100000")
    {'dsp': 500, 'lut': 100000}
    """
    found: dict[str, int] = {}
    for item in text.split(",") if text is not None else ():
        name, equals, value = item.strip().partition("=")
        digits = value.strip()
        if not equals or name not in RESOURCES or name in found or not (digits.isascii() and digits.isdecimal()):
            raise InputError(f"--budget {item!r}; legal: {', '.join(f'{r}=N' for r in RESOURCES)}, each at most once")
        found[name] = int(digits[:18])
    return found


def plain(network: Network, board: Board, tools: HardwareQueries, *, budget: Mapping[str, int] | None = None) -> Design:
    """A design that runs the network on the board within the budget, chosen by rules that look at few designs.

    Args:
        network: every layer must have a kernel.
        board: figures of the device and its memory.
        tools: the kernels and the hardware's figures of a design.
        budget: limits by resource name below what the board has.

    Raises:
        NothingFits: a layer has no kernel, or the rules find no design that fits, which proves nothing.
    """
    planner = Planner(network, board, tools, available(board, budget or {}))
    start = DesignChoice()
    if not planner.fits(start):
        raise NothingFits(planner.verdict(start))
    choice = planner.array(start)
    for engine in planner.others:
        choice = planner.lean(choice, planner.choices(engine, choice))
    generous = replace(choice, generous=True)
    return planner.grouped(generous if planner.fits(generous) else choice)


def available(board: Board, budget: Mapping[str, int]) -> Resources:
    """Resources that a design may use: the board's, or less where the budget is lower."""
    return Resources(**{name: min(getattr(board.resources, name), budget.get(name, 1 << 62)) for name in RESOURCES})


def _check_supported(network: Network, kernels: Mapping[str, type[Kernel]]) -> None:
    check_engines(network)
    if not any(isinstance(layer, Linear) for layer in network):
        raise NothingFits(f"{network.name}: no linear layer; legal: at least one")
    found = [(layer, kernel_for(layer)) for layer in network]
    reasons = [reason for layer, each in found if each is not None and (reason := kernels[each.op].supports(layer))]
    if reasons:
        raise NothingFits(f"{network.name}: no kernel runs {len(reasons)} of its layers: {'; '.join(reasons)}")


class Planner:
    """Designs of choices, with their resources and time."""

    def __init__(self, network: Network, board: Board, tools: HardwareQueries, limit: Resources) -> None:
        _check_supported(network, tools.kernels)
        self.network, self.board, self.tools, self.limit = network, board, tools, limit
        mine = {
            engine: [layer for layer in network if type(layer) in kernel.layers] for engine, kernel in kernels().items()
        }
        self.others: dict[str, list[Layer]] = {name: found for name, found in mine.items() if found and name != RING}
        tables = {layer.table.tobytes() for layer in network if isinstance(layer, Linear) and layer.table is not None}
        self._tables = _power(max(1, len(tables)))
        self._sizes: dict[tuple[Widths, int], dict[str, int]] = {}
        self._weights: dict[tuple[Widths, int], _Weights] = {}
        self._boards: dict[tuple[int, int], Board] = {}
        self._words: dict[Widths, dict[str, int]] = {}

    # From a choice to a design.

    def design(self, choice: DesignChoice) -> Design:
        """The design of a choice, its rings and memories sized for the network."""
        engines: dict[str, Mapping[str, int]] = {RING: self._linear(choice, 1, 1, 1)}
        engines |= {engine: self._other(engine, choice) for engine in self.others}
        bare = Design(self._board(choice.ports, choice.clock_hz), engines, {}, choice.row_group)
        wide = widths(bare)
        sized = replace(bare, engines={**engines, RING: self._rings(bare, wide, choice)})
        return replace(sized, memories=self._memories(sized, wide))

    def _board(self, ports: int, clock_hz: int) -> Board:
        key = ports, clock_hz
        if key not in self._boards:
            self._boards[key] = self.board.at(ports=ports, clock_hz=clock_hz)
        return self._boards[key]

    @cached_property
    def axes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Axes of the other engines that the network needs, by engine.

        Raises:
            InputError: an axis has the name of a parameter that every design has.
        """
        found = {engine: command_kernel(engine).axes(layers) for engine, layers in self.others.items()}
        names = [axis for axes in found.values() for axis in axes]
        if len({*names, *OWN}) < len(names) + len(OWN):
            raise InputError(
                f"axes {sorted(names)} of {', '.join(found)}; legal: no name twice, and none of {', '.join(OWN)}"
            )
        return found

    @cached_property
    def _smallest(self) -> dict[str, int]:
        """Axis values of the other engines' smallest designs."""
        return {axis: value for engine in self.others for axis, value in self.choices(engine, DesignChoice())[0].others}

    def _other(self, engine: str, choice: DesignChoice) -> dict[str, int]:
        """Parameters of another engine: its axes, and what follows from them and from the network."""
        chosen = {**self._smallest, **dict(choice.others)}
        params = {axis: chosen[axis] for axis in self.axes[engine]}
        more = self.follows[engine](tuple(params.items()))
        return {**params, **more}

    @cached_property
    def follows(self) -> dict[str, Callable[[tuple[tuple[str, int], ...]], dict[str, int]]]:
        """By engine, a cached function that derives its remaining parameters from its axis values."""

        def asked(engine: str, params: tuple[tuple[str, int], ...]) -> dict[str, int]:
            found = command_kernel(engine).follows(self.others[engine], dict(params))
            return {name: int(value) for name, value in found.items()}

        return {engine: cache(partial(asked, engine)) for engine in self.others}

    def _linear(self, choice: DesignChoice, kw: int, ring: int, table: int) -> dict[str, int]:
        return {
            "t_in": choice.t_in, "t_out": choice.t_out, "n_l": choice.n_l, "kw_max": _power(kw),
            "ring_words": choice.ring_words or _power(ring), "table_words": choice.table_words or _power(table),
            "tables": self._tables,
        }  # fmt: skip

    def _rings(self, bare: Design, wide: Widths, choice: DesignChoice) -> dict[str, int]:
        """Parameters of the linear engine; ring depths that the choice leaves at 0 come from `_depth`."""
        key = wide, choice.t_in
        if key not in self._weights:
            self._weights[key] = _weights(self.columns(bare), choice, bare.word_bytes)
        need = self._weights[key]
        ring = self._depth(need.words, 8 * choice.t_in * choice.t_out, _RING_SHARE, choice)
        table = self._depth(need.tiles, 64 * choice.t_out, _TABLE_SHARE, choice)
        return self._linear(choice, need.row_words, max(ring, need.least, 2), max(table, 2))

    def _depth(self, words: int, bits: int, share: int, choice: DesignChoice) -> int:
        """Words of a ring: the power of two for ``words``, halved to fit its share; at most 2 unless generous."""
        room = int(self.limit.bram36) * _BRAM_BITS // share // bits if choice.generous else 0
        depth = _power(words)
        while depth > max(room, 2):
            depth //= 2
        return depth

    def _memories(self, sized: Design, wide: Widths) -> dict[str, int]:
        """Bytes by memory, cached; with several layers, independent of rows per command."""
        key = wide, sized.row_group if len(self.network.layers) == 1 else 0
        if key not in self._sizes:
            self._sizes[key] = self._sized(sized, wide)
        return self._sizes[key]

    def _sized(self, sized: Design, wide: Widths) -> dict[str, int]:
        need = memory_need(self.network, sized)
        rows = {put.target: "input" for put in self.network.inputs} | {
            out.source: "output" for out in self.network.outputs
        }
        windows = dict[str, int]()
        if len(self.network.layers) == 1:
            for tensor, memory in rows.items():
                count = self.network.tensors[tensor].rows
                if memory in need and 2 * sized.row_group < count:
                    windows[memory] = need[memory] // count * 2 * sized.row_group
        widest = self._widest(wide)
        return {name: windows.get(name) or _rounded(size, widest[name]) for name, size in need.items()}

    def _widest(self, key: Widths) -> dict[str, int]:
        """Unit in bytes of each memory's size: the widest word of the bus and of all ports to 16-bit memories.

        Ports with wider elements count in their own memory alone.
        """
        if key not in self._words:
            params, found = {name: dict(values) for name, values in key.engines}, dict[str, int]()
            reached = memory_map(key.engines).memories
            users = [(each, access) for each in reached.values() for access in (each.writer, *each.readers)]
            wide = [
                (each.name, each.bytes, params[access.engine][access.port.lanes])
                for each, access in users
                if access.port.lanes is not None and each.bytes > 1
            ]
            common = max([key.word, *(2 * lanes for _, size, lanes in wide if size == 2)])
            for name in reached:
                found[name] = max([common, *(size * lanes for mine, size, lanes in wide if mine == name)])
            self._words[key] = found
        return self._words[key]

    # Costs of a choice.

    def need(self, choice: DesignChoice) -> Resources:
        """Resources of a choice, all parts together."""
        return self.cost(self.design(choice))

    def cost(self, design: Design) -> Resources:
        """Resources of a design, all parts together."""
        return sum(self.tools.resources(design).values(), Resources())

    def fits(self, choice: DesignChoice) -> bool:
        """Whether a choice is legal and within the budget."""
        design = self.design(choice)
        return self.suits(design)

    def suits(self, design: Design) -> bool:
        """Whether a design is legal and within the budget."""
        return self.legal(design) and not _excess(self.cost(design), self.limit)

    def columns(self, design: Design) -> list[tuple[Linear, int, int]]:
        """Every linear layer with its source and target columns on chip."""
        return linear_columns(self.network, design)

    def legal(self, design: Design) -> bool:
        """Whether every kernel accepts its parameters."""
        word = {"word_bytes": design.word_bytes}
        return all(self.tools.kernels[name].legal({**params, **word}) for name, params in design.engines.items())

    def verdict(self, choice: DesignChoice) -> str:
        """Reason why the design of a choice does not fit, in one line."""
        need = self.need(choice)
        short = [f"{getattr(need, name)} of {getattr(self.limit, name)} {name}" for name in _excess(need, self.limit)]
        if not short:
            return f"{self.network.name}: not a legal design: {self.design(choice).engines}"
        return f"{self.network.name}: the design needs {', '.join(short)}"

    def time(self, choice: DesignChoice) -> dict[str, int]:
        """Cycles of every engine for its layers one after the other, without transfers."""
        design = self.design(choice)
        return {engine: self._busy(design, engine, work) for engine, work in self._work(design).items()}

    def _busy(self, design: Design, engine: str, works: Iterable[Mapping[str, int]]) -> int:
        params = {**design.engines[engine], "word_bytes": design.word_bytes}
        return sum(int(self.tools.kernels[engine].cycles(params, work)) for work in works)

    def _work(self, design: Design) -> dict[str, list[dict[str, int]]]:
        """The kernels' work by engine, one item per layer, without padding."""
        found: dict[str, list[Any]] = {
            RING: [{"rows": layer.rows, "k": k, "n": n} for layer, k, n in self.columns(design)]
        }
        for engine, layers in self.others.items():
            found[engine] = [command_kernel(engine).work(layer, 0, layer.rows) for layer in layers]
        return found

    # The steps of the choice.

    def array(self, start: DesignChoice) -> DesignChoice:
        """The largest array that fits and is two thirds busy, else the one that is busiest; ties take the fastest."""
        fitting = [c for c in (replace(start, t_out=t, n_l=n) for t, n in _ARRAYS) if self.fits(c)]
        macs = sum(layer.rows * layer.n * layer.k for layer in self.network if isinstance(layer, Linear))
        cycles = {c: self.time(c)[RING] for c in fitting}
        busy = {c: macs / (cycles[c] * c.t_in * c.t_out * c.n_l) for c in fitting}
        useful = [c for c in fitting if 3 * busy[c] >= 2]
        if not useful:
            return max(fitting, key=lambda c: busy[c])
        return max(useful, key=lambda c: (c.t_out * c.n_l, -cycles[c]))

    def choices(self, engine: str, choice: DesignChoice) -> list[DesignChoice]:
        """The choice with each candidate design of another engine, the smallest first."""
        kernel = command_kernel(engine)
        return [choice.with_others(values) for values in kernel.choices({"t_in": choice.t_in, "t_out": choice.t_out})]

    def lean(self, choice: DesignChoice, axis: Iterable[DesignChoice]) -> DesignChoice:
        """The choice of fewest DSPs among those that fit and are within 5 % of the fastest of these."""
        fitting = [c for c in (choice, *axis) if self.fits(c)]
        cycles = {c: sum(self.time(c).values()) for c in fitting}
        best = min(cycles.values())
        return min((c for c in fitting if 20 * cycles[c] <= 21 * best), key=lambda c: (self.need(c).dsp, cycles[c]))

    def grouped(self, choice: DesignChoice) -> Design:
        """The design of a choice with the number of rows per command that takes the fewest cycles."""
        rows = max(layer.rows for layer in self.network)
        sizes = [_WHOLE, *(choice.n_l * times for times in _GROUPS if choice.n_l * times < rows)]
        best: tuple[int, Design] | None = None
        for size in sizes:
            grouped = replace(choice, row_group=size)
            if self.fits(grouped) and (cycles := self._cycles(self.design(grouped))) is not None:
                best = min(
                    best or (cycles, self.design(grouped)), (cycles, self.design(grouped)), key=lambda pair: pair[0]
                )
        if best is None:
            raise NothingFits(f"{self.network.name}: no cut into row groups runs on {self.design(choice).to_json()}")
        return best[1]

    def _cycles(self, design: Design) -> int | None:
        """Exact cycles; None if the program needs more than the design has or would deadlock."""
        try:
            return exact(compile_network(self.network, design), design, self.tools.formulas(design.engines)).total
        except (NothingFits, CheckError):
            return None


class _Weights(NamedTuple):
    """Needs of all weights of a network: words, tiles, words of the longest tile and of the longest source row."""

    words: int
    tiles: int
    least: int
    row_words: int


def _weights(columns: Iterable[tuple[Linear, int, int]], choice: DesignChoice, word_bytes: int) -> _Weights:
    sizes = [(k, ceil_div(k, choice.t_in), ceil_div(n, choice.t_out)) for _, k, n in columns]
    least, row_words = max(ib for _, ib, _ in sizes), max(ceil_div(k, word_bytes) for k, _, _ in sizes)
    return _Weights(sum(ib * ob for _, ib, ob in sizes), sum(ob for _, _, ob in sizes), least, row_words)


def _excess(need: Resources, limit: Resources) -> list[str]:
    """Names of the resources whose need exceeds the limit."""
    return [name for name in RESOURCES if getattr(need, name) > getattr(limit, name)]


def _power(value: int) -> int:
    """The smallest power of two that is at least the value."""
    return 1 << max(0, value - 1).bit_length()


def _rounded(size: int, widest: int) -> int:
    """Bytes of a memory that holds ``size``: a power of two of words, or a multiple of a block RAM's depth."""
    words = ceil_div(size, widest)
    return widest * (_power(words) if words <= _DEEP else ceil_div(words, _STEP) * _STEP)
