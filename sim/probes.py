"""Truncated networks that output the result of one layer, to find the first layer that shows a difference."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from codesign.compiler.layout import whole_layout
from codesign.compiler.program import compile_network
from codesign.errors import NothingFits
from codesign.ir.network import Layer, Linear, Network, Output, Tensor
from codesign.target.design import Design
from codesign.target.engines import RING

PROBE = "probe"
"""Name of the output tensor of a truncated network."""


def probes(network: Network, layers: int, design: Design) -> Iterator[tuple[int, Network]]:
    """Networks truncated after the first ``layers`` layers that output the last one's result, column slice by slice.

    A result that the linear engine can read is copied out by an extra linear layer; any other is stored
    from where it is. Yields nothing if the design's memories have no room.

    Yields:
        First column of the slice, and the network; tensor `PROBE` is its output.
    """
    last = network.layers[layers - 1]
    width = network.tensors[last.target].columns
    whole = (isinstance(last, Linear) and last.addend is not None) or _stored_only(network, last, design)
    for columns in (width,) if whole else _widths(width):
        found = [(at, _probe(network, design, layers, at, min(columns, width - at))) for at in range(0, width, columns)]
        if all(_fits(probe, design) for _, probe in found):
            yield from found
            return


def _widths(width: int) -> Iterable[int]:
    while width >= 1:
        yield width
        width //= 2


def _fits(probe: Network, design: Design) -> bool:
    try:
        compile_network(probe, design)
    except NothingFits:
        return False
    return True


def _probe(network: Network, design: Design, layers: int, first: int, columns: int) -> Network:
    last = network.layers[layers - 1]
    target = network.tensors[last.target]
    kept: tuple[Layer, ...] = network.layers[:layers]
    home, readable, _ = _homes(network, design)
    bits = 16 if "residual" in home.values() else 8
    retargeted = isinstance(last, Linear) and home[last.target] not in readable
    if retargeted and isinstance(last, Linear) and last.table is not None:
        bits = 8  # a table's entries are bytes
    shown = Tensor(PROBE, target.rows, columns, max(bits, target.bits), target.scale)
    if retargeted and isinstance(last, Linear):
        kept = (*kept[:-1], _slice(last, first, columns))
    elif _stored_only(network, last, design):
        kept, shown = (*kept[:-1], last.changed(target=PROBE)), replace(target, name=PROBE)
    else:
        kept = (*kept, _copy(last.target, target, first, columns))
    used = {name for layer in kept for name in (layer.target, *(read.tensor for read in layer.reads))}
    tensors = {name: tensor for name, tensor in network.tensors.items() if name in used}
    return replace(
        network,
        name=f"{network.name}-{last.name}",
        tensors={**tensors, PROBE: shown},
        layers=kept,
        inputs=tuple(put for put in network.inputs if put.target in used),
        outputs=(Output(PROBE, shown.shape, PROBE),),
        constants={name: table for name, table in network.constants.items() if name in used},
    )


def _homes(network: Network, design: Design) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """Memory of each tensor; memories that the linear engine reads rows from; memories that can be stored."""
    found = whole_layout(network, design)
    return found.home, found.memories.numbers[RING, "source"], found.memories.numbers["store", "source"]


def _stored_only(network: Network, layer: Layer, design: Design) -> bool:
    """Whether a non-linear layer's result can be stored but not copied by the linear engine."""
    home, readable, storable = _homes(network, design)
    return not isinstance(layer, Linear) and home[layer.target] not in readable and home[layer.target] in storable


def _slice(layer: Linear, first: int, columns: int) -> Linear:
    """Slice of a linear layer's columns; the full width if it has an addend, which is added in whole rows."""
    part = slice(first, first + columns)
    return replace(
        layer,
        target=PROBE,
        weights=layer.weights[part],
        bias=layer.bias[part],
        multiplier=layer.multiplier[part],
        shift=layer.shift[part],
    )


def _copy(source: str, tensor: Tensor, first: int, columns: int) -> Linear:
    """Linear layer that copies some columns of an int8 tensor: identity weights, scale 1."""
    weights = np.zeros((columns, tensor.columns), np.int8)
    weights[np.arange(columns), first + np.arange(columns)] = 1
    return Linear(
        name=PROBE,
        source=source,
        target=PROBE,
        rows=tensor.rows,
        weights=weights,
        bias=np.zeros(columns, np.int64),
        multiplier=np.full(columns, 1 << 16, np.int64),
        shift=np.full(columns, 16, np.int64),
    )
