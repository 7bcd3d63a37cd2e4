"""Contract test suites that every kernel and every board must pass, built-in or third-party.

Subclass one under a name that the test runner collects and set the kernel or board::

    class TestMyKernel(KernelContract):
        kernel = MyKernel

Every test is a plain method without arguments that raises `AssertionError`, so any runner works.
Kernels and boards of other packages are found through the entry points ``codesign.kernels`` (the
class) and ``codesign.boards`` (the `Board`).
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np

from codesign.bundle.serialize import design_document, json_bytes, read_design
from codesign.errors import InputError
from codesign.hw.system.accelerator import bus_of
from codesign.numerics.fixed_point import IntArray
from codesign.solver.space import ParameterSpace
from codesign.target.board import Board
from codesign.target.board_catalog import board_catalog
from codesign.target.design import Design
from codesign.target.kernel import Case, Columns, CommandKernel, Kernel, Resources

_ROUNDS = 200
_BOUNDARY = (-1, 0, 1, 2, 3, 1 << 20)

Point = dict[str, int]
Points = Mapping[str, IntArray]


def boards() -> dict[str, Board]:
    """Every board by name, built-in and from installed packages.

    Raises:
        InputError: two boards of one name.
        ToolError: a package fails to load.
    """
    catalog = board_catalog()
    for line in catalog.clashes.values():
        raise InputError(line)
    return {name: catalog.load(name) for name in catalog.names}


# Kernels -----------------------------------------------------------------------------


def _require(truth: object, message: str) -> None:
    if not truth:
        raise AssertionError(message)


class _Anywhere:
    """`Placement` in which every matrix begins at word 0 and a row is one word."""

    def __init__(self, kernel: type[CommandKernel], case: Case) -> None:
        self._kernel, self._layer = kernel, case.layer

    def base(self, tensor: str, row: int) -> int:
        return row

    def stride(self, tensor: str) -> int:
        return 1

    def constant(self, index: int) -> int:
        return 0

    def columns(self, tensor: str) -> Columns:
        params = dict.fromkeys(self._kernel.padding, 1)
        return self._kernel.columns(self._layer, params, 1) or Columns(1, 1, 1, 1)


class KernelContract:
    """Contract tests of a kernel; subclasses set ``kernel``.

    Attributes:
        kernel: the class under test.
        points: number of designs to evaluate the formulas on, at least 1000.
        growing: resources that must be nondecreasing in each parameter.
        streams: whether every command itself moves off-chip bytes.
        seed: seed of all random choices.
    """

    kernel: ClassVar[type[Kernel]]
    points: ClassVar[int] = 1000
    growing: ClassVar[tuple[str, ...]] = ("dsp",)
    streams: ClassVar[bool] = False
    seed: ClassVar[int] = 0

    def board(self) -> Board:
        """A board with energy coefficients."""
        return Board.load("zcu102")

    def cases(self) -> Sequence[Case]:
        """Sample layers that the kernel supports, at least one."""
        return list(self.kernel.cases(np.random.default_rng(self.seed)))

    def unsupported(self) -> Sequence[object]:
        """Objects that the kernel does not support."""
        return (object(), None)

    # Parameters

    def test_supports_its_layers_and_says_why_not_others(self) -> None:
        """``supports`` is None for sample layers, else a one-line reason; ``space`` refuses what is unsupported."""
        _require(self.cases(), f"{self._name} supports none of the sample layers; legal: cases() of its own")
        for case in self.cases():
            reason = self.kernel.supports(case.layer)
            _require(reason is None, f"{self._name} refuses its own case: {reason}")
        for thing in self.unsupported():
            reason = self.kernel.supports(thing)
            told = isinstance(reason, str) and reason.strip() and "\n" not in reason
            _require(told, f"supports({thing!r}) is {reason!r}; legal: a reason in one line")
            self._refused(partial(self.kernel.space, thing, self.board()), (TypeError, ValueError))

    def test_space_names_every_parameter_and_holds_legal_designs(self) -> None:
        """Every legal point constructs a kernel with these parameters that can be hashed and copied."""
        for case in self.cases():
            space = self.kernel.space(case.layer, self.board())
            for point in _rows(self._legal(space, 40)):
                made = self._made(point)
                _require(made.params == point, f"{point} made a kernel of {made.params}")
                _require(len({made, deepcopy(made)}) == 1, f"{made} is not equal to its copy")

    def _made(self, point: Point) -> Kernel:
        try:
            return self.kernel(**point)
        except ValueError as error:
            raise AssertionError(f"the space of {self._name} holds {point}, but: {error}") from error

    def test_illegal_parameters_are_refused(self) -> None:
        """Constructor and ``legal`` agree on neighbouring and extreme parameters; errors name the legal values."""
        rng, found = np.random.default_rng(self.seed), list[Point]()
        for case in self.cases():
            for point in _rows(self._legal(self.kernel.space(case.layer, self.board()), 10)):
                name = str(rng.choice(list(point)))
                found += [{**point, name: value} for value in (*_BOUNDARY, point[name] + 1, 2 * point[name])]
        refused = [self._agrees(point) for point in found]
        _require(any(refused), f"{self._name} refuses no parameters at all")
        together = self.kernel.legal({name: np.array([point[name] for point in found]) for name in found[0]})
        alike = np.array_equal(np.broadcast_to(together, len(found)).astype(bool), ~np.array(refused))
        _require(alike, f"legal of {self._name} says one thing of numbers and another of arrays")

    def _agrees(self, point: Point) -> bool:
        """Whether both refuse the parameters; AssertionError if only one does."""
        legal = bool(self.kernel.legal(point))
        try:
            self.kernel(**point)
        except ValueError as error:
            _require(not legal, f"legal({point}) holds, but the constructor says: {error}")
            _require("legal" in str(error), f"{error!s}: does not say what is legal")
            return True
        _require(legal, f"legal({point}) does not hold, but the constructor takes it")
        return False

    # Formulas

    def test_formulas_are_one_expression_for_numbers_and_arrays(self) -> None:
        """Formulas give equal results for arrays and for each element alone."""
        params, work = self._drawn()
        together, board = dict(self._formulas(params, work, self.board())), self.board()
        for index, (point, job) in enumerate(zip(_rows(params), _rows(work), strict=True)):
            for name, value in self._formulas(point, job, board):
                whole = name == "energy" or isinstance(value, int)
                _require(whole, f"{name} of {point}, {job} is a {type(value).__name__}; legal: int")
                among = np.broadcast_to(together[name], len(params[next(iter(params))]))[index]
                _require(value == among, f"{name} of {point}, {job} is {value} alone and {among} in an array")

    def test_formulas_say_something(self) -> None:
        """Results are integers, or joules as floats; cycles, logic and energy are positive, others nonnegative."""
        params, work = self._drawn()
        for name, value in self._formulas(params, work, self.board()):
            kind = np.floating if name == "energy" else np.integer
            found = np.asarray(value)
            _require(np.issubdtype(found.dtype, kind), f"{name} is {found.dtype}; legal: {kind.__name__}")
            positive = name in ("cycles", "energy", "lut", "ff") or (name == "traffic" and self.streams)
            fine = np.isfinite(found) & (found >= (1e-300 if name == "energy" else int(positive)))
            _require(fine.all(), f"{name} is as low as {found.min()}; legal: {'positive' if positive else 'from 0'}")

    def test_resources_grow_with_every_parameter(self) -> None:
        """Resources in ``growing`` never fall when a single parameter grows."""
        rng = np.random.default_rng(self.seed)
        for case in self.cases():
            space = self.kernel.space(case.layer, self.board())
            small = self._legal(space, self.points)
            for name, values in space.axes.items():
                large = {**small, name: np.maximum(small[name], rng.choice(values, len(small[name])))}
                both = np.asarray(space.legal(large)).astype(bool) & np.ones(len(small[name]), bool)
                self._grows(name, _where(small, both), _where(large, both))

    def _grows(self, name: str, small: Points, large: Points) -> None:
        before, after = self.kernel.resources(small), self.kernel.resources(large)
        for resource in self.growing:
            fell = np.flatnonzero(np.asarray(getattr(after, resource) < getattr(before, resource)))
            where = [(_rows(small)[i], large[name][i]) for i in fell[:1]]
            _require(not where, f"{resource} falls where {name} grows: {where}")

    def test_energy_follows_the_coefficients(self) -> None:
        """Energy is linear in the board's coefficients; a board without any is refused."""
        board, case = self.board(), self.cases()[0]
        point = _rows(self._legal(self.kernel.space(case.layer, board), 1))[0]
        names = ("mac_fj", "ram_byte_fj", "lut_cycle_fj", "ff_cycle_fj")
        double = board.with_overrides([f"energy.{name}={2 * getattr(board.coefficients, name)}" for name in names])
        once, twice = (self.kernel.energy(point, case.work, b) for b in (board, double))
        equal = np.allclose(2 * once, twice, rtol=1e-9, atol=0)
        _require(equal, f"{once} J become {twice} J with twice the coefficients")
        bare = replace(board, energy=None, sources={}, assumptions={})
        self._refused(lambda: self.kernel.energy(point, case.work, bare), (InputError,))

    # Golden and hardware

    def test_golden_is_integer_and_deterministic(self) -> None:
        """Golden returns equal integers for equal inputs and leaves them unchanged; counts are per row."""
        for case in self.cases():
            values, kept = (case.values(np.random.default_rng(self.seed)) for _ in range(2))
            first, second = (case.layer.golden(values) for _ in range(2))
            _require(np.issubdtype(first.dtype, np.integer), f"golden gives {first.dtype}; legal: integers")
            _require(len(first) == case.layer.rows, f"golden gives {len(first)} rows; legal: {case.layer.rows}")
            _require(first.size and np.array_equal(first, second), "golden gives two results for the same inputs")
            _require(all(np.array_equal(values[name], kept[name]) for name in kept), "golden changes its inputs")
            counts = case.layer.counts({**values, case.layer.target: first})
            _require(bool(counts) == bool(self._assumes), f"counts {sorted(counts)}, but assumes {self._assumes!r}")
            for name, each in counts.items():
                _require(name in case.work, f"count {name}; legal: {', '.join(case.work)}")
                _require(len(each) == case.layer.rows, f"{len(each)} counts {name}; legal: one per row")

    @property
    def _assumes(self) -> str:
        return self.kernel.assumes if issubclass(self.kernel, CommandKernel) else ""

    def test_commands_have_the_operands_and_the_work_that_are_declared(self) -> None:
        """Operands are declared fields, the work equals the case's, and ``reaches`` names exactly the tensors used."""
        if not issubclass(self.kernel, CommandKernel):
            return
        for case in self.cases():
            layer, place = case.layer, _Anywhere(self.kernel, case)
            params = _rows(self._legal(self.kernel.space(layer, self.board()), 1))[0]
            operands = self.kernel.operands(layer, params, place, 0, layer.rows)
            wrong = [name for name in operands if name not in self.kernel.fields]
            _require(not wrong, f"operands {wrong}; legal: {', '.join(self.kernel.fields)}")
            work = self.kernel.work(layer, 0, layer.rows)
            _require(dict(work) == dict(case.work), f"work of {layer} is {work}, the case says {case.work}")
            reached = {tensor for tensor, _ in self.kernel.reaches(layer)}
            needed = {layer.target, *(read.tensor for read in layer.reads)}
            _require(reached == needed, f"reaches {sorted(reached)}; legal: {sorted(needed)}")

    def test_sources_are_files_and_unknown_targets_are_refused(self) -> None:
        """The smallest design has Verilog; an unknown target is refused with the legal ones named."""
        case = self.cases()[0]
        found = self._legal(self.kernel.space(case.layer, self.board()), 20)
        small = self.kernel(**min(_rows(found), key=lambda point: cast(int, self.kernel.resources(point).lut)))
        files = small.sources("rtl")
        _require(files and all(text.strip() for text in files.values()), f"{small} has no Verilog")
        self._refused(lambda: small.sources("no such target"), (InputError,), says="rtl")

    # Helpers

    @property
    def _name(self) -> str:
        return self.kernel.__name__

    def _refused(self, call: Callable[[], object], errors: tuple[type[Exception], ...], says: str = "") -> None:
        try:
            call()
        except errors as error:
            _require(says in str(error) and "\n" not in str(error), f"{error!s}; legal: one line with {says!r}")
            return
        raise AssertionError(f"{self._name} does what it should refuse; legal: {errors}")

    def _legal(self, space: ParameterSpace, count: int) -> Points:
        """Random legal points, ``count`` of them, possibly repeated."""
        names = {field.name for field in fields(cast(Any, self.kernel))}
        _require(set(space.axes) == names, f"space has axes {sorted(space.axes)}; legal: {sorted(names)}")
        rng, parts, left = np.random.default_rng(self.seed), list[Points](), count
        for _ in range(_ROUNDS):
            drawn = {name: rng.choice(np.array(values, np.int64), 4 * count) for name, values in space.axes.items()}
            legal = np.flatnonzero(np.asarray(space.legal(drawn)) * np.ones(4 * count, np.int64))[:left]
            parts.append(_where(drawn, legal))
            left -= len(legal)
            if not left:
                return {name: np.concatenate([part[name] for part in parts]) for name in space.axes}
        raise AssertionError(f"{self._name}: {count - left} of {4 * count * _ROUNDS} points of the space are legal")

    def _drawn(self) -> tuple[Points, Points]:
        """At least ``points`` legal points, each with the work of the layer whose space it is from."""
        _require(self.points >= 1000, f"points is {self.points}; legal: at least 1000")
        cases = self.cases()
        share = -(-self.points // len(cases))
        found = [self._legal(self.kernel.space(case.layer, self.board()), share) for case in cases]
        params = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        work = {name: np.repeat([cast(int, case.work[name]) for case in cases], share) for name in cases[0].work}
        return params, work

    def _formulas(self, params: Mapping[str, Any], work: Mapping[str, Any], board: Board) -> Iterator[tuple[str, Any]]:
        resources = self.kernel.resources(params)
        _require(isinstance(resources, Resources), f"resources gives a {type(resources).__name__}; legal: Resources")
        yield from vars(resources).items()
        yield "cycles", self.kernel.cycles(params, work)
        yield "traffic", self.kernel.traffic(params, work)
        yield "energy", self.kernel.energy(params, work, board)


def _rows(points: Points) -> list[Point]:
    """Points as a list of mappings to Python integers."""
    columns = [np.asarray(values).tolist() for values in points.values()]
    return [dict(zip(points, row, strict=True)) for row in zip(*columns, strict=True)]


def _where(points: Points, chosen: Any) -> Points:
    return {name: values[chosen] for name, values in points.items()}


# Boards ------------------------------------------------------------------------------


class BoardContract:
    """Contract tests of a board; subclasses define `board`."""

    def board(self) -> Board:
        """The board under test."""
        raise NotImplementedError("a subclass gives the board")

    def test_every_figure_has_a_source_or_a_reason(self) -> None:
        """Each figure or its table has a source or assumption; the part has a source, the clock is assumed."""
        board = self.board()
        for key in board.figures():
            known = {key, key.partition(".")[0]} & set(board.sources) or key in board.assumptions
            _require(known, f"{board.name}: {key} has neither source nor assumption")
        _require("part" in board.sources, f"{board.name}: the part has no source")
        _require("clock_hz" in board.assumptions, f"{board.name}: nobody has timed the clock, so it is an assumption")

    def test_resources_are_those_of_a_device(self) -> None:
        """Resources are positive (UltraRAM may be 0), with at least as many flip-flops as look-up tables."""
        board, found = self.board(), asdict(self.board().resources)
        low = {name: value for name, value in found.items() if value < (name != "uram")}
        _require(not low, f"{board.name}: {low}; legal: positive")
        _require(found["ff"] >= found["lut"], f"{board.name}: fewer flip-flops than look-up tables")

    def test_memory_is_consistent(self) -> None:
        """Ports carry the bandwidth, a burst is whole beats, and the generated hardware has such a bus."""
        board, memory = self.board(), self.board().memory
        word = memory.ports * memory.port_bits // 8
        _require(memory.port_bits & (memory.port_bits - 1) == 0, f"{board.name}: ports of {memory.port_bits} bits")
        fits = memory.bytes_per_second <= word * board.clock_hz
        _require(fits, f"{board.name}: {memory.bytes_per_second} bytes/s over {word} bytes at {board.clock_hz} Hz")
        _require(memory.burst_bytes % word == 0, f"{board.name}: bursts of {memory.burst_bytes} over {word} bytes")
        _require(bus_of(memory).word_bytes == word, f"{board.name}: the hardware has another bus")

    def test_energy_is_plausible(self) -> None:
        """Coefficients, if any, rise from flip-flop to off-chip byte, and the error band is stated."""
        board = self.board()
        if board.energy is None:
            return
        e = board.energy
        ordered = e.ff_cycle_fj <= e.lut_cycle_fj < e.ram_byte_fj < e.offchip_byte_fj
        _require(ordered, f"{board.name}: {e}; legal: flip-flop, look-up table, memory, off chip in rising order")
        _require(0 < e.error_percent < 100, f"{board.name}: error of {e.error_percent} %")

    def test_round_trips(self) -> None:
        """Overriding with its own figures, copying, and a design file all preserve the board."""
        board = self.board()
        same = board.with_overrides([f"{key}={value}" for key, value in board.figures().items()])
        _require(same.figures() == board.figures(), f"{board.name}: figures change when set to themselves")
        _require(deepcopy(board) == board, f"{board.name}: its copy differs")
        document = json.loads(json_bytes(design_document(Design(board, {}))))
        _require(read_design(document).board == board, f"{board.name}: a design's file gives another board")
