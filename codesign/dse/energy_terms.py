"""Lower bound of the energy of a run as terms of a problem, from the kernels' own formulas.

A command's energy is what its kernel computes; power drawn in every cycle is counted over a bound of the cycles.
Left out are waiting in the linear engine, the cut of a layer's weights into blocks, and padding in all loads and
stores but those of weights.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from codesign.ir.network import Layer, Linear, Network
from codesign.solver.problem import Inputs, Term, monotone
from codesign.target.board import Board
from codesign.target.engines import COMMAND_BYTES, RING, command_kernel, kernel_for
from codesign.target.kernel import Columns, Kernel, Params, Resources, ceil_div, joules, maximum
from codesign.timing.bound.layer_shapes import kernel_of_layer

ENERGY = "energy_uj"

_SLACK = 1 - 1e-9
"""Margin for floating-point sums in another order."""
_FEMTO, _MILLI, _MICRO = 1e-15, 1e-3, 1e6


class EnergyTerms:
    """Terms of the energy bound; the last is the energy in microjoules.

    Args:
        network: the layers.
        board: with coefficients.
        kernels: kernel classes by engine name.
        fixed: parameters by engine that are no axes.
        axes: values by parameter; kernel formulas are tabulated over them.
    """

    def __init__(
        self,
        network: Network,
        board: Board,
        kernels: Mapping[str, type[Kernel]],
        fixed: Mapping[str, Params],
        axes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.network, self.board, self.kernels, self.fixed, self.axes = network, board, kernels, fixed, axes
        self.port_bytes = board.memory.port_bits // 8

    def terms(self) -> list[Term]:
        """All terms; they read ``cycles`` and the resource terms of each engine and of the ``rest``."""
        others = [engine for engine in self.fixed if engine != RING]
        padding = [axis for engine in others for axis in command_kernel(engine).padding]
        needs = {RING: ("t_in", "t_out", "n_l", "row_group", *padding, "ports")}
        for engine in others:
            kernel = command_kernel(engine)
            mine = tuple(kernel.axes(self._layers(engine)))
            needs[engine] = (*mine, "row_group", *(("t_out", "ports") if kernel.padding else ()))
        of = {engine: tuple(axis for axis in needs[engine] if axis in self.axes) for engine in needs}
        busy = Term(f"{RING}_busy", of[RING], self._tabled(of[RING], self._busy))
        spent: dict[str, Callable[[Inputs], Any]] = {RING: self._linear}
        spent |= {engine: partial(self._commanded, engine) for engine in others}
        found = [Term(f"{e}_joules", of[e], self._tabled(of[e], formula)) for e, formula in spent.items()]
        idle = [f"{engine}_ff" for engine in others]
        return [busy, *found, self._total([term.name for term in found], idle)]

    def _layers(self, engine: str) -> list[Layer]:
        """Layers that an engine runs."""
        return [layer for layer in self.network if kernel_for(layer) is command_kernel(engine)]

    def _total(self, spent: list[str], idle: list[str]) -> Term:
        def formula(x: Inputs) -> Any:
            logic = Resources(lut=x["rest_lut"], ff=sum((x[name] for name in idle), x["rest_ff"]))
            static = self.board.coefficients.static_mw * _MILLI / x["clock_hz"]
            per_cycle = joules(self.board, macs=0, ram_bytes=0, cycles=1, logic=logic) + static
            array = Resources(lut=x[f"{RING}_lut"], ff=x[f"{RING}_ff"])
            working = x[f"{RING}_busy"] * joules(self.board, macs=0, ram_bytes=0, cycles=1, logic=array)
            return (sum(x[name] for name in spent) + working + x["cycles"] * per_cycle) * (_MICRO * _SLACK)

        array_of = tuple(f"{RING}_{name}" for name in ("busy", "lut", "ff"))
        of = (*spent, *idle, *array_of, "rest_lut", "rest_ff", "cycles", "clock_hz")
        return monotone(ENERGY, of, formula, falling=("clock_hz",))

    def _tabled(self, of: tuple[str, ...], formula: Callable[[Inputs], Any]) -> Callable[[Inputs], Any]:
        """A formula of some axes, tabulated over all their values on first use."""
        values = [np.array(self.axes[axis], np.int64) for axis in of]

        @cache
        def table() -> Any:
            found = formula(dict(zip(of, np.ix_(*values), strict=True)))
            return np.broadcast_to(found, tuple(map(len, values)))

        return lambda x: table()[tuple(np.searchsorted(each, x[axis]) for each, axis in zip(values, of, strict=True))]

    def _padded(self, layer: Layer, x: Inputs) -> Columns | None:
        """Padded columns of a layer's matrices; None for no padding."""
        return kernel_of_layer(layer).columns(layer, x, maximum(x["t_out"], x["ports"] * self.port_bytes))

    def _columns(self, x: Inputs) -> dict[str, Any]:
        """Columns of the padded matrices, by tensor."""
        found: dict[str, Any] = {}
        for layer in self.network:
            if isinstance(layer, Linear) or not kernel_of_layer(layer).padding:
                continue
            columns = self._padded(layer, x)
            if columns is not None:
                found |= {name: columns.total for name, _ in kernel_of_layer(layer).reaches(layer)}
        return found

    def _linear(self, x: Inputs) -> Any:
        """Joules of the linear engine's work, and of all off-chip transfers."""
        kernel, e = self.kernels[RING], self.board.coefficients
        params = {**self.fixed[RING], **x, "word_bytes": x["ports"] * self.port_bytes}
        per_byte = (e.offchip_byte_fj + e.ram_byte_fj) * _FEMTO
        spent: Any = (self._transferred() + COMMAND_BYTES * self._fewest_commands(x["row_group"])) * per_byte
        for layer, k, n in self._products(x):
            work = {"rows": layer.rows, "k": k, "n": n}
            spent = spent + kernel.traffic(params, work) * per_byte
            for chosen, rows in _groups(x["row_group"], layer.rows):
                spent = spent + chosen * self._active(kernel, params, {**work, "rows": rows}, lut=False)
        return spent

    def _products(self, x: Inputs) -> Iterator[tuple[Linear, Any, Any]]:
        """The linear layers with the columns of their sources and targets."""
        columns, tensors = self._columns(x), self.network.tensors
        for layer in self.network:
            if isinstance(layer, Linear):
                k, n = (columns.get(name, tensors[name].columns) for name in (layer.source, layer.target))
                yield layer, k, n

    def _transferred(self) -> int:
        """Bytes that every program transfers beside weights and commands: inputs, outputs and constants."""
        names = {*(put.target for put in self.network.inputs), *(out.source for out in self.network.outputs)}
        tensors = [self.network.tensors[name] for name in names]
        moved = sum(tensor.rows * tensor.columns * tensor.bits // 8 for tensor in tensors)
        added = {layer.addend for layer in self.network if isinstance(layer, Linear)}
        moved += sum(2 * table.size for name, table in self.network.constants.items() if name in added)
        others = [layer for layer in self.network if not isinstance(layer, Linear)]
        return moved + sum(each.size for layer in others for each in kernel_of_layer(layer).constants(layer))

    def _fewest_commands(self, row_group: Any) -> Any:
        """Fewest commands of any program: one per row group, and a fetch or a load per layer that needs one."""
        groups = sum(ceil_div(layer.rows, row_group) for layer in self.network)
        return groups + sum(
            isinstance(each, Linear) or len(kernel_of_layer(each).constants(each)) for each in self.network
        )

    def _busy(self, x: Inputs) -> Any:
        """Fewest cycles of the linear engine's commands: those with all weights of a layer present at once."""
        kernel, params = self.kernels[RING], {**x, "word_bytes": x["ports"] * self.port_bytes}
        busy: Any = np.zeros((), np.int64)
        for layer, k, n in self._products(x):
            for chosen, rows in _groups(x["row_group"], layer.rows):
                busy = busy + chosen * kernel.cycles(params, {"rows": rows, "k": k, "n": n})
        return busy

    def _commanded(self, engine: str, x: Inputs) -> Any:
        """Joules of the commands of an engine other than the linear one."""
        kernel, layers = command_kernel(engine), self._layers(engine)
        params = {**self.fixed[engine], **kernel.follows(layers, x), **x}
        spent: Any = 0.0
        for layer in layers:
            columns = self._padded(layer, x) if kernel.padding else None
            for chosen, first, rows in _places(x["row_group"], layer.rows):
                spent = spent + chosen * self._active(
                    kernel, params, kernel.work(layer, first, rows, columns), lut=True
                )
        return spent

    def _active(self, kernel: type[Kernel], params: Params, work: Mapping[str, Any], *, lut: bool) -> Any:
        """Joules of a command without its engine's flip-flops and, unless ``lut``, without its look-up tables."""
        logic, cycles = kernel.resources(params), kernel.cycles(params, work)
        left_out = Resources(lut=0 if lut else logic.lut, ff=logic.ff)
        whole = kernel.energy(params, work, self.board)
        return np.maximum(whole - joules(self.board, macs=0, ram_bytes=0, cycles=cycles, logic=left_out), 0.0)


def _groups(row_group: Any, rows: int) -> Iterator[tuple[Any, int]]:
    """Yields counts of equal row groups, shaped like ``row_group``, and their rows."""
    for size in np.unique(row_group).tolist():
        here = row_group == size
        if rows >= size:
            yield here * (rows // size), size
        if rows % size:
            yield here * 1, rows % size


def _places(row_group: Any, rows: int) -> Iterator[tuple[Any, int, int]]:
    """Yields every row group: where it exists (1 or 0), first row, and rows."""
    for size in np.unique(row_group).tolist():
        for first in range(0, rows, size):
            yield (row_group == size) * 1, first, min(size, rows - first)
