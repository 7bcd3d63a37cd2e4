"""Networks that run a single layer on the hardware of a whole design.

The layer gets random data: an input of one word per row goes through random linear layers into the
memories that the layer reads, and its result is copied to a memory that can be stored. So each kernel
can be verified independently of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.program import compile_network
from codesign.errors import NothingFits
from codesign.ir.network import Input, Layer, Linear, Network, Output, Tensor
from codesign.numerics.fixed_point import requantizer
from codesign.target.design import Design
from codesign.target.engines import kernels

RESULT = "result"
"""Name of the tensor with the layer's result."""

_SPREAD = {8: 40.0, 16: 8000.0}
"""Standard deviation of random input values, by bits."""
_PRODUCT = 73.6 * 73.9
"""Standard deviation of a product of two uniform int8 numbers."""


@dataclass
class _Parts:
    """The network under construction."""

    rng: np.random.Generator
    width: int
    rows: int
    tensors: dict[str, Tensor]
    layers: list[Layer]

    def feed(self, tensor: Tensor) -> None:
        """Fills a tensor by a random linear layer of the input."""
        multiplier, shift = requantizer(_SPREAD[tensor.bits] / (_PRODUCT * self.width**0.5))
        half = 1 << (tensor.bits - 1)
        self.tensors[tensor.name] = tensor
        self.layers.append(
            Linear(
                name=f"feed {tensor.name}",
                source="x",
                target=tensor.name,
                rows=tensor.rows,
                weights=self.rng.integers(-127, 128, (tensor.columns, self.width)).astype(np.int8),
                bias=np.zeros(tensor.columns, np.int64),
                multiplier=np.full(tensor.columns, multiplier, np.int64),
                shift=np.full(tensor.columns, shift, np.int64),
                low=-half,
                high=half - 1,
            )
        )

    def show(self, tensor: Tensor, bits: int) -> None:
        """Copies an int8 tensor to `RESULT`."""
        self.tensors[RESULT] = replace(tensor, name=RESULT, bits=bits)
        self.layers.append(
            Linear(
                name="show",
                source=tensor.name,
                target=RESULT,
                rows=tensor.rows,
                weights=np.eye(tensor.columns, dtype=np.int8),
                bias=np.zeros(tensor.columns, np.int64),
                multiplier=np.full(tensor.columns, 1 << 16, np.int64),
                shift=np.full(tensor.columns, 16, np.int64),
            )
        )


def isolated(network: Network, kernel: str, design: Design, seed: int) -> Iterator[tuple[Layer, Network | None]]:
    """Each layer of a kernel with a network that runs it alone; None if the design has no room for one.

    Args:
        network: the network with the layers.
        kernel: name of the kernel.
        design: hardware to run on.
        seed: of the random weights.
    """
    for number, layer in enumerate(network.layers):
        if type(layer) in kernels()[kernel].layers:
            yield layer, _alone(network, layer, design, np.random.default_rng([seed, number]))


def _alone(network: Network, layer: Layer, design: Design, rng: np.random.Generator) -> Network | None:
    direct = [True, False] if isinstance(layer, Linear) and layer.addend is None else [False]
    for fewer in _shorter(layer):
        for without_feed in direct:
            found = _build(network, fewer, design, rng, without_feed)
            try:
                compile_network(found, design)
            except NothingFits:
                continue
            return found
    return None


def _shorter(layer: Layer) -> Iterator[Layer]:
    """The layer, then copies with half the rows each time if its rows are independent."""
    yield layer
    rows = layer.rows // 2
    while rows and not any(read.whole for read in layer.reads):
        yield layer.changed(rows=rows)
        rows //= 2


def _build(network: Network, layer: Layer, design: Design, rng: np.random.Generator, direct: bool) -> Network:
    bits = 16 if "residual" in design.memories else 8
    target = replace(network.tensors[layer.target], rows=layer.rows)
    rows = max(layer.rows, *(network.tensors[name].rows for name in _sources(layer)))
    width = layer.k if direct and isinstance(layer, Linear) else design.word_bytes
    parts = _Parts(rng, width, rows, {"x": Tensor("x", rows, width, 8, 1.0)}, [])
    if direct:
        assert isinstance(layer, Linear)
        layer = replace(layer, source="x")
    reads = [read.tensor for read in layer.reads if read.tensor in network.tensors]
    for name in () if direct else dict.fromkeys(reads):
        parts.feed(network.tensors[name])
    if isinstance(layer, Linear) and (layer.table is None or direct):
        bits = bits if layer.table is None else 8  # a table's entries are bytes
        parts.layers.append(replace(layer, target=RESULT))
        parts.tensors[RESULT] = replace(target, name=RESULT, bits=max(bits, target.bits))
    elif not isinstance(layer, Linear) and target.bits == 16:
        parts.layers.append(layer.changed(target=RESULT))
        parts.tensors[RESULT] = replace(target, name=RESULT)
    else:
        parts.layers.append(layer)
        parts.tensors[target.name] = target
        parts.show(target, bits)
    used = {name: network.constants[name] for name in _constants(network, layer)}
    return _finished(parts, layer.name, used)


def _finished(parts: _Parts, name: str, constants: dict[str, NDArray[np.int16]]) -> Network:
    shape = parts.tensors["x"].shape
    index = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)
    return Network(
        name=name,
        tensors=parts.tensors,
        layers=tuple(parts.layers),
        inputs=(Input("x", shape, "x", index),),
        outputs=(Output(RESULT, parts.tensors[RESULT].shape, RESULT),),
        constants=constants,
    )


def _sources(layer: Layer) -> tuple[str, ...]:
    """Tensors that a layer reads and does not overwrite."""
    return tuple(read.tensor for read in layer.reads if not read.in_place)


def _constants(network: Network, layer: Layer) -> tuple[str, ...]:
    """Constant tensors that a layer reads."""
    return tuple(read.tensor for read in layer.reads if read.tensor in network.constants)
