"""Sweeps: every design of many models, boards, clocks and budgets as rows of Parquet files.

A combination is one model on one board at one clock within one budget. Its designs are the points of
`codesign.dse.design_space`, restricted by ``--axis n_l=1,2,4`` to these values. The axes are thinned to at most
`codesign.sweeps.request.LIMIT` points, or ``--limit N``: the axis with the most values repeatedly drops every second
one, keeping its first and last. Dropped values, and the estimated time and bytes of a long sweep, are logged. A row is
one design::

    model, board, clock_mhz, budget        the combination, as given; the budget "all" is the whole board
    t_in ...                               every parameter; null if the network does not use its engine
    evidence, cycles, latency_us           "bound", a proven lower bound, or "modelled", cycle-exact
    dsp, bram36, uram, lut, ff             modelled resources
    legal, feasible                        whether the engines can be built; whether it also fits the budget
    binding                                the resource with the largest share of its budget in use

With exact scores, the rows marked "modelled" are the Pareto front of their combination in latency and DSPs, one
design per point of the front. All other rows hold lower bounds, comparable only with other bounds.

The folder has ``part-NNNNNN.parquet`` files, each a range of one combination's points in order, and a manifest
(`codesign.sweeps.shards`). Read it with polars or with duckdb::

    pl.scan_parquet("DIR/*.parquet").filter(pl.col("feasible")).sort("latency_us").head(10).collect()
    pl.scan_parquet("DIR/*.parquet").filter(evidence="modelled").sort("board", "latency_us").collect()
    duckdb.sql("SELECT model, board, min(latency_us) FROM 'DIR/*.parquet' WHERE feasible GROUP BY ALL")
    duckdb.sql("SELECT model, board, binding, count(*) FROM 'DIR/*.parquet' WHERE legal AND NOT feasible GROUP BY ALL")
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from math import prod
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.bundle.serialize import network_digest
from codesign.dse.planner import RESOURCES, available, parse_budget
from codesign.errors import CheckError, InputError, NothingFits, ToolError
from codesign.flow.build import integers, tools
from codesign.ir.network import Linear, Network
from codesign.sweeps import shards
from codesign.sweeps.grid import Column, Grid, ThinnedSpace, use
from codesign.sweeps.request import MEGA, WHOLE, SweepRequest, swept_parameters
from codesign.target.board import Board
from codesign.target.board_catalog import load_board
from codesign.target.kernel import Resources

if TYPE_CHECKING:
    import polars as pl

EVIDENCE = ("bound", "modelled")
KEYS = ("model", "board", "clock_mhz", "budget")
"""Columns that name a combination."""

_LOG = logging.getLogger(__name__)
_LARGE = 1 << 21
"""Points from which a sweep's time and bytes are estimated in advance."""
_EVERY = 1.0


@dataclass(frozen=True)
class Combination:
    """One model on one board at one clock within one budget.

    Attributes:
        model: as given.
        board: as given.
        clock_mhz: clock of the designs.
        budget: in canonical form.
        points: number of designs.
        shards: number of the first shard, and one past the last.
    """

    model: str
    board: str
    clock_mhz: float
    budget: str
    points: int
    shards: tuple[int, int]

    def ranges(self, rows: int) -> dict[str, tuple[int, int]]:
        """Point range (first, stop) of each shard by name."""
        starts = zip(range(*self.shards), range(0, self.points, rows), strict=True)
        return {shards.name_of(number): (at, min(at + rows, self.points)) for number, at in starts}


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        path: its folder.
        combinations: the combinations swept.
        rows: number of designs.
        resumed: rows that were already finished at the start.
        seconds: duration of this run.
    """

    path: Path
    combinations: tuple[Combination, ...]
    rows: int
    resumed: int
    seconds: float

    def scan(self) -> "pl.LazyFrame":
        """All rows as a lazy frame."""
        _check_polars()
        import polars as pl

        files = [self.path / shards.name_of(number) for number in range(self.combinations[-1].shards[1])]
        return pl.scan_parquet(files, glob=False)

    def summary(self) -> list[dict[str, Any]]:
        """Per combination: row count, feasible count and best latency, of exactly scored rows if there are any."""
        frame = self.scan()
        import polars as pl

        latency, fit = pl.col("latency_us"), pl.col("feasible")
        exact = fit & (pl.col("evidence") == EVIDENCE[1])
        evidence = pl.when(exact.any()).then(pl.lit(EVIDENCE[1])).when(fit.any()).then(pl.lit(EVIDENCE[0]))
        best = frame.group_by(KEYS).agg(
            pl.len().alias("rows"),
            fit.sum().alias("feasible"),
            pl.coalesce(latency.filter(exact).min(), latency.filter(fit).min()).alias("best_latency_us"),
            evidence.alias("evidence"),
        )
        rows = {tuple(row[key] for key in KEYS): row for row in best.collect().to_dicts()}
        return [rows[tuple(getattr(c, key) for key in KEYS)] for c in self.combinations]

    def _repr_html_(self) -> str:
        frame = self.summary()
        import polars as pl

        return str(pl.DataFrame(frame)._repr_html_())


def sweep(request: SweepRequest, out: Path, *, resume: bool = False) -> Sweep:
    """Computes every missing row; see the module.

    Args:
        request: arguments of the sweep.
        out: a new or empty folder, or with ``resume`` one that holds a sweep of the same request.
        resume: keep the finished shards.

    Raises:
        InputError: a model, a board or a folder that cannot be used.
        NothingFits: a network with a layer that no kernel runs.
        ToolError: polars is missing.
    """
    begun = monotonic()
    _check_polars()
    shards.check_folder(out, resume=resume)
    networks = {model: _network(model) for model in request.models}
    combinations = tuple(_combinations(request, networks))
    names = [shards.name_of(number) for number in range(combinations[-1].shards[1])]
    with shards.opened(out, _identity(request, networks, combinations), names, resume=resume) as store:
        resumed = sum(shard.rows for shard in store.done.values())
        progress = _SweepProgress(sum(c.points for c in combinations), resumed)
        for number, combination in enumerate(combinations):
            if number % len(request.budgets) == 0:
                model, _, board = request.subjects[number // len(request.budgets)]
                made = _Made(request, networks[model], board)
            if number == 0 and progress.left > _LARGE:
                _LOG.info("%s points; tables of what they have in common come first", f"{progress.left:,}")
                _foretell(request, combination, made.grid, progress.left)
                progress.begun = monotonic()
            _write(request, store, number, combination, made, progress)
    return Sweep(out, combinations, progress.total, resumed, monotonic() - begun)


def _check_polars() -> None:
    if find_spec("polars") is None:
        raise ToolError("polars is missing, which writes and reads Parquet; to get it: pip install 'codesign[sweep]'")


def _network(model: str) -> Network:
    """The integer network of a model, checked to have a kernel for each layer.

    Raises:
        InputError: a model that cannot be used.
        NothingFits: no kernel runs one of its layers.
    """
    network, kernels = integers(model), tools().kernels.values()
    for layer in network:
        reasons = [kernel.supports(layer) for kernel in kernels]
        if None not in reasons:
            raise NothingFits(f"{model}: no kernel runs layer {layer.name}: {'; '.join(map(str, reasons))}")
    if not any(isinstance(layer, Linear) for layer in network):
        raise NothingFits(f"{model}: no linear layer; legal: at least one")
    return network


def _combinations(request: SweepRequest, networks: Mapping[str, Network]) -> Iterator[Combination]:
    first = 0
    for model, name, board in request.subjects:
        space, clock = request.space(networks[model], board), board.clock_hz / MEGA
        points = prod(map(len, space.axes.values()))
        _say_thinned(f"{model} on {name}", space)
        for budget in request.budgets:
            behind = first - (-points // request.shard_rows)
            yield Combination(model, name, clock, budget, points, (first, behind))
            first = behind


def _say_thinned(what: str, space: ThinnedSpace) -> None:
    """Logs the values dropped by thinning."""
    whole = prod(map(len, space.whole.values()))
    pairs = [(name, len(values), len(space.whole[name])) for name, values in space.axes.items()]
    fewer = ", ".join(f"{name} {count} of {there} values" for name, count, there in pairs if count < there)
    if fewer:
        points = prod(map(len, space.axes.values()))
        _LOG.info("%s: %s of %s points, thinned to %s; --limit takes more", what, f"{points:,}", f"{whole:,}", fewer)


def _identity(
    request: SweepRequest, networks: Mapping[str, Network], combinations: Sequence[Combination]
) -> dict[str, object]:
    """Everything that determines the rows except the formulas, whose values are compared in `_front`."""
    of_models = {name: network_digest(network) for name, network in networks.items()}
    documents = {name: asdict(load_board(name, request.folders)) for name in request.boards}
    of_boards = {
        name: hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
        for name, document in documents.items()
    }
    given = {name: value for name, value in asdict(request).items() if name != "folders"}
    return {**given, "models": of_models, "boards": of_boards, "combinations": [*map(asdict, combinations)]}


@dataclass(eq=False)
class _Made:
    """A design space with its grid, built on first use and shared by the budgets; the last one made is alive."""

    request: SweepRequest
    network: Network
    board: Board

    @cached_property
    def grid(self) -> Grid:
        return Grid(self.request.space(self.network, self.board))


def _write(
    request: SweepRequest,
    store: shards.Shards,
    number: int,
    combination: Combination,
    made: _Made,
    progress: "_SweepProgress",
) -> None:
    """Writes the missing shards of a combination."""
    left = {name: r for name, r in combination.ranges(request.shard_rows).items() if name not in store.done}
    if not left and (number or store.complete):
        return
    limits = {} if combination.budget == WHOLE else parse_budget(combination.budget)
    if str(number) not in store.notes:
        store.note(str(number), _noted(request, made, limits, progress, number))
    limit, front = available(made.board, limits), _front(store, str(number), made.grid.digest)
    for name, (first, stop) in left.items():
        scored = {i - first: cycles for i, cycles in front.items() if first <= i < stop}
        store.add(name, stop - first, _parquet(combination, made.grid.columns(first, stop), scored, limit))
        progress.step(stop - first)


def _foretell(request: SweepRequest, combination: Combination, grid: Grid, points: int) -> None:
    """Logs the estimated time and bytes of a number of points, extrapolated from a sample in the middle."""
    first = max(0, (grid.points - request.shard_rows) // 2)
    stop, limit, taken, data = min(first + request.shard_rows, grid.points), available(grid.space.board, {}), [], b""
    for _ in range(2):  # the first time libraries are loaded
        begun = monotonic()
        data = _parquet(combination, grid.columns(first, stop), {}, limit)
        taken.append(monotonic() - begun)
    share = points / (stop - first)
    seconds, megabytes = share * min(taken), share * len(data) / MEGA
    more = " beside the searches" if request.exact else ""
    _LOG.info(
        "%s points: about %.0f s%s and %.1f MB; --limit and --axis take fewer", f"{points:,}", seconds, more, megabytes
    )


def _noted(
    request: SweepRequest, made: _Made, limits: Mapping[str, int], progress: "_SweepProgress", number: int
) -> dict[str, object]:
    """Manifest note of a combination: hash of its formulas' terms, exact front and proof."""
    if not request.exact:
        return {"values": made.grid.digest, "front": [], "proof": ""}
    _LOG.info("searching the front of combination %d", number + 1)
    front = request.space(made.network, made.board, limits).search(("latency_us", "dsp"), progress=progress.search)
    cycles = [_cycles(latency, made.board.clock_hz / MEGA) for latency in front.values[:, 0].tolist()]
    points = sorted(map(list, zip(made.grid.index(front.parameters), cycles, strict=True)))
    return {"values": made.grid.digest, "front": points, "proof": str(front.proof).rpartition("; ")[0]}


def _cycles(latency_us: float, megahertz: float) -> int:
    """Exact number of cycles of a latency at a clock.

    Raises:
        CheckError: no integer matches.

    >>> _cycles(6242 / 312.5, 312.5)
    6242
    """
    near = int(latency_us * megahertz)
    found = [cycles for cycles in (near, near + 1) if cycles / megahertz == latency_us]
    if not found:
        raise CheckError(f"{latency_us} us are no whole number of cycles of {megahertz:g} MHz")
    return found[0]


def _front(store: shards.Shards, key: str, digest: str) -> dict[int, int]:
    """Exact cycles by point of a combination's front, from its note in the manifest.

    Raises:
        InputError: the note is damaged, or its rows were computed by other formulas.
    """
    try:
        there, front = store.notes[key]["values"], {int(i): int(cycles) for i, cycles in store.notes[key]["front"]}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{store.path / shards.MANIFEST} is damaged: note {key} is not one of a sweep") from error
    if there != digest:
        raise InputError(f"{store.path} was begun by a version with other formulas; legal: a new folder")
    return front


def _parquet(
    combination: Combination, columns: Mapping[str, Column], scored: Mapping[int, int], limit: Resources
) -> bytes:
    """Rows as a Parquet file; ``scored`` gives exact cycles by row where known."""
    import polars as pl

    cycles, exact = columns["cycles"].copy(), np.zeros(len(columns["cycles"]), np.uint32)
    cycles[list(scored)], exact[list(scored)] = list(scored.values()), 1
    feasible, binding = use(columns, limit)
    frame = pl.DataFrame(
        {
            **{name: getattr(combination, name) for name in KEYS},
            **{name: columns.get(name) for name in swept_parameters()},
            "evidence": _named(EVIDENCE, exact),
            "cycles": cycles,
            "latency_us": cycles / combination.clock_mhz,
            **{name: columns[name] for name in RESOURCES},
            "legal": columns["legal"],
            "feasible": feasible,
            "binding": _named(RESOURCES, binding),
        },
        schema_overrides={**dict.fromkeys(swept_parameters(), pl.Int32), **dict.fromkeys(RESOURCES, pl.Int64)},
    )
    file = io.BytesIO()
    frame.write_parquet(file, compression="zstd", statistics=True, row_group_size=len(frame))
    return file.getvalue()


def _named(names: tuple[str, ...], numbers: Column) -> "pl.Series":
    """Column of names selected by index."""
    import polars as pl

    return pl.Series(names, dtype=pl.Enum(names)).gather(pl.Series(numbers))


class _SweepProgress:
    """Logs progress, rate and remaining time of a sweep.

    Args:
        total: points of the sweep.
        done: points already finished at the start.
    """

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.begun = total, done, monotonic()
        self._start, self._said = done, self.begun
        if done:
            _LOG.info("%s of %s points are there", f"{done:,}", f"{total:,}")

    @property
    def left(self) -> int:
        """Remaining points."""
        return self.total - self.done

    def search(self, settled: int, points: int, front: int) -> None:
        """Logs the progress of a front search, at most once per second."""
        if monotonic() - self._said >= _EVERY:
            self._said = monotonic()
            share = 100 * settled / points
            _LOG.info("%.0f %% of %s points settled, %d on the front", share, f"{points:,}", front)

    def step(self, points: int) -> None:
        """Adds finished points; logs at most once per second, and at the end."""
        self.done += points
        now = monotonic()
        if now - self._said >= _EVERY or self.done == self.total:
            self._said = now
            rate = (self.done - self._start) / max(now - self.begun, 1e-9)
            counts = f"{self.done:,} of {self.total:,} points, {rate:,.0f} per second"
            _LOG.info("%s, %.0f s left", counts, self.left / rate)
