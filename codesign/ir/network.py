"""Integer network: the intermediate representation of a quantized model.

A `Network` is a sequence of layers over named integer matrices of shape
``[rows, columns]``. Layers hold weights and requantization but nothing that
depends on a board or a design; the compiler pads and places them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.numerics import nonlinear
from codesign.numerics.fixed_point import dequantize, matmul, quantize, requantize, saturate_bits

Int8 = NDArray[np.int8]
Ints = NDArray[np.int64]

MASKS = ("full", "causal", "sliding")


@dataclass(frozen=True)
class Tensor:
    """A named integer matrix; value = ``scale`` * integer.

    Attributes:
        bits: 8 or 16, signed.
    """

    name: str
    rows: int
    columns: int
    bits: int
    scale: float

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"tensor {self.name}: shape {self.rows}x{self.columns}; legal: at least 1x1")
        if self.bits not in (8, 16):
            raise ValueError(f"tensor {self.name}: {self.bits} bits; legal: 8 or 16")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.columns


class Read(NamedTuple):
    """A tensor, or a constant, that a layer reads.

    Attributes:
        tensor: its name.
        first_row: row ``i`` of the result needs row ``first_row + i`` of the tensor.
        whole: every row of the result needs all rows of the tensor instead.
        in_place: the result may overwrite it, row by row.
    """

    tensor: str
    first_row: int = 0
    whole: bool = False
    in_place: bool = False


class Layer(ABC):
    """One step of a network, which computes the rows of one tensor from others.

    Subclasses are frozen dataclasses of plain values and arrays. A kernel declares which layer types its engine runs,
    so a new engine may define its own layer type without changes elsewhere.
    """

    name: str
    target: str
    rows: int

    @property
    @abstractmethod
    def reads(self) -> tuple[Read, ...]:
        """Tensors and constants that it reads, without duplicates."""

    @property
    @abstractmethod
    def shape(self) -> tuple[object, ...]:
        """Everything except ``rows`` that determines execution time; equal for layers that differ only in values."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, without masked ones."""
        return 0

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of one inference, with masked ones, as in the model's graph."""
        return self.macs

    @abstractmethod
    def golden(self, values: Mapping[str, Ints]) -> Ints:
        """The target's integers ``[rows, columns]``, bit-exact with the hardware.

        Args:
            values: integers of every tensor computed so far and of every constant, by name.
        """

    def changed(self, **values: object) -> Self:
        """Copy with some fields replaced."""
        return replace(self, **values)  # type: ignore[type-var]

    def counts(self, values: Mapping[str, Ints]) -> Mapping[str, Ints]:
        """Data-dependent work, ``[rows]`` per name in the kernel's work; {} if work is data-independent.

        Args:
            values: as in `golden`, plus the target.
        """
        return {}


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """``target = requantize(source @ weights.T + bias)``, then table or residual add.

    Attributes:
        source: int8 tensor ``[.., k]``; rows ``first_row .. first_row+rows`` are used.
        target: int8 tensor, or int16 when ``addend`` is used or 16 bits are wanted.
        weights: int8 ``[n, k]`` in [-127, 127].
        bias: ``[n]``, in units of one product.
        multiplier, shift: requantization per output channel ``[n]``.
        low, high: saturation of the requantized value.
        table: int8 ``[256]`` applied to the int8 result, indexed by its low 8 bits.
        addend: int16 tensor or constant added with 16-bit saturation.
    """

    name: str
    source: str
    target: str
    rows: int
    weights: Int8
    bias: Ints
    multiplier: Ints
    shift: Ints
    low: int = -128
    high: int = 127
    table: Int8 | None = None
    addend: str | None = None
    first_row: int = 0

    @property
    def n(self) -> int:
        """Output channels."""
        return int(self.weights.shape[0])

    @property
    def k(self) -> int:
        """Input channels."""
        return int(self.weights.shape[1])

    @property
    def reads(self) -> tuple[Read, ...]:
        """The source, and the addend if there is one."""
        source = Read(self.source, self.first_row)
        return (source,) if self.addend is None else (source, Read(self.addend, in_place=True))

    @property
    def shape(self) -> tuple[object, ...]:
        """See `Layer.shape`; only the presence of a table counts."""
        return self.k, self.n, self.first_row, self.table is not None, self.addend is None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return self.rows * self.n * self.k

    def golden(self, values: Mapping[str, Ints]) -> Ints:
        """See `linear_golden`."""
        return linear_golden(self, values[self.source], values[self.addend] if self.addend else None)

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.dtype != np.int8 or int(self.weights.min(initial=0)) < -127:
            raise ValueError(f"{self.name}: weights must be int8 [n, k] in [-127, 127]")
        for label in ("bias", "multiplier", "shift"):
            if getattr(self, label).shape != (self.n,):
                raise ValueError(f"{self.name}: {label} has shape {getattr(self, label).shape}; legal: ({self.n},)")
        if self.table is not None and (self.table.shape != (256,) or self.addend is not None):
            raise ValueError(f"{self.name}: a table has 256 entries and excludes a residual add")


@dataclass(frozen=True)
class Attention(Layer):
    """Multi-head softmax attention on int8 q, k, v; see `codesign.numerics.nonlinear.attention`.

    Row ``i`` attends to all keys, to keys up to ``i``, or to the last ``window`` of those, by ``mask``.
    """

    name: str
    query: str
    key: str
    value: str
    target: str
    rows: int
    keys: int
    heads: int
    head_dim: int
    score_multiplier: int
    score_shift: int
    out_multiplier: int
    out_shift: int
    mask: str = "full"
    window: int = 0

    @property
    def reads(self) -> tuple[Read, ...]:
        """Queries row by row; all keys and values for every row."""
        return Read(self.query), Read(self.key, whole=True), Read(self.value, whole=True)

    @property
    def shape(self) -> tuple[object, ...]:
        """See `Layer.shape`."""
        return self.keys, self.heads, self.head_dim, self.mask, self.window

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, without the masked part of the score matrix."""
        lo, hi = self._visible
        return 2 * int((hi - lo).sum()) * self.heads * self.head_dim

    @property
    def _visible(self) -> tuple[Ints, Ints]:
        """First and end of the keys that each row attends to."""
        return nonlinear.mask_interval(self.mask, self.rows, self.keys, self.window)

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of one inference, with the masked part."""
        return 2 * self.rows * self.keys * self.heads * self.head_dim

    def golden(self, values: Mapping[str, Ints]) -> Ints:
        """See `codesign.numerics.nonlinear.attention`."""
        lo, hi = self._visible
        return nonlinear.attention(
            values[self.query],
            values[self.key],
            values[self.value],
            heads=self.heads,
            score_multiplier=self.score_multiplier,
            score_shift=self.score_shift,
            out_multiplier=self.out_multiplier,
            out_shift=self.out_shift,
            lo=lo,
            hi=hi,
        )

    def __post_init__(self) -> None:
        if self.mask not in MASKS:
            raise ValueError(f"{self.name}: mask {self.mask!r}; legal: {', '.join(MASKS)}")
        if self.mask == "sliding" and self.window < 1:
            raise ValueError(f"{self.name}: window {self.window}; legal: at least 1")


@dataclass(frozen=True, eq=False)
class Norm(Layer):
    """Layer or RMS norm of int16 rows; see `codesign.numerics.nonlinear.norm`.

    Attributes:
        bits: width of the result, 8 or 16, equal to its tensor's. Linear layers multiply 8-bit and add 16-bit
            tensors; a post-norm transformer needs both from the same rows, as two layers.
    """

    name: str
    source: str
    target: str
    rows: int
    gain: Ints
    bias: Ints
    shift: int
    eps: int
    rms: bool = False
    first_row: int = 0
    bits: int = 8

    @property
    def d(self) -> int:
        """Width of a row."""
        return int(self.gain.shape[0])

    @property
    def reads(self) -> tuple[Read, ...]:
        """The source."""
        return (Read(self.source, self.first_row),)

    @property
    def shape(self) -> tuple[object, ...]:
        """See `Layer.shape`."""
        return self.d, self.first_row, self.bits

    def golden(self, values: Mapping[str, Ints]) -> Ints:
        """See `codesign.numerics.nonlinear.norm`."""
        rows = values[self.source][self.first_row : self.first_row + self.rows]
        return nonlinear.norm(rows, self.gain, self.bias, self.shift, self.eps, self.rms, self.bits)


@dataclass(frozen=True, eq=False)
class Input:
    """Conversion of one sample of a model input to an integer matrix.

    ``matrix[r, c] = quantize(sample.flat[gather[r, c]])``, zero where gather is -1.

    Attributes:
        name: the model's input name.
        shape: shape of one sample, without the batch axis.
        target: name of the tensor, int8 if linear layers multiply it or int16 if they add it.
        gather: int64 ``[rows, columns]``.
        low, high: saturation of the quantized values.
    """

    name: str
    shape: tuple[int, ...]
    target: str
    gather: Ints
    low: int = -128
    high: int = 127

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if self.gather.ndim != 2 or self.gather.min(initial=0) < -1 or self.gather.max(initial=-1) >= size:
            raise ValueError(f"input {self.name}: gather must be [rows, columns] of -1 to {size - 1}")


@dataclass(frozen=True, eq=False)
class Output:
    """A model output: its source tensor, and its shape for one sample."""

    name: str
    shape: tuple[int, ...]
    source: str


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in execution order over named tensors; ``constants`` are int16 tables.

    Attributes:
        notes: decisions made by lowering, one sentence each.
    """

    name: str
    tensors: dict[str, Tensor]
    layers: tuple[Layer, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    constants: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for layer in self.layers:
            bits = self.tensors[layer.target].bits
            if isinstance(layer, Norm) and layer.bits != bits:
                raise ValueError(f"{layer.name}: {layer.bits} bits; legal: as its target has, {bits}")
        for put in self.inputs:
            half = 1 << self.tensors[put.target].bits - 1
            if not -half <= put.low <= put.high < half:
                legal = f"legal for {put.target}: {-half} to {half - 1}"
                raise ValueError(f"input {put.name}: {put.low} to {put.high}; {legal}")

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference, counted from the layers' shapes."""
        return sum(layer.macs for layer in self.layers)


# Golden execution: int64, bit-exact with the hardware ------------------------------


def run(network: Network, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Ints]:
    """Execute a network on one sample.

    Args:
        network: the network.
        inputs: array per model input, in the input's shape (a leading axis of 1 is accepted).

    Returns:
        The integers of every tensor by its name, constants included.

    Raises:
        InputError: a missing or unknown input, a wrong shape, or values that are not finite numbers.
    """
    names = sorted({item.name for item in network.inputs})
    if sorted(inputs) != names:
        raise InputError(f"{network.name}: inputs {sorted(inputs)}; legal: {names}")
    values = {name: table.astype(np.int64) for name, table in network.constants.items()}
    for item in network.inputs:
        values[item.target] = input_golden(item, network.tensors[item.target].scale, np.asarray(inputs[item.name]))
    for layer in network:
        values[layer.target] = layer.golden(values)
    return values


def outputs(network: Network, values: Mapping[str, Ints]) -> dict[str, NDArray[np.float64]]:
    """Return the model's outputs of one sample as floats, from the result of `run`."""
    return {
        item.name: dequantize(values[item.source], network.tensors[item.source].scale).reshape(item.shape)
        for item in network.outputs
    }


def input_golden(item: Input, scale: float, sample: NDArray[Any]) -> Ints:
    """Return the integer matrix of one sample of a model input; see `Input`."""
    if sample.shape not in (item.shape, (1, *item.shape)) or sample.dtype.kind not in "fiub":
        raise InputError(f"input {item.name} is {sample.dtype} {sample.shape}; legal: numbers of shape {item.shape}")
    flat = sample.reshape(-1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise InputError(f"input {item.name} holds NaN or infinity; legal: finite numbers")
    integers = quantize(flat, scale, low=item.low, high=item.high)
    return np.where(item.gather < 0, 0, integers[item.gather])


def linear_golden(layer: Linear, x: Ints, addend: Ints | None = None) -> Ints:
    """Return the target of a linear layer.

    Args:
        layer: weights and requantization.
        x: the whole source, ``[at least first_row + rows, k]``.
        addend: int16 values ``[rows, n]`` exactly if the layer names one.
    """
    if (addend is None) != (layer.addend is None):
        raise ValueError(f"{layer.name}: addend is {addend is not None}; legal: {layer.addend is not None}")
    acc = matmul(x[layer.first_row : layer.first_row + layer.rows], layer.weights.T) + layer.bias
    result = requantize(acc, layer.multiplier, layer.shift, layer.low, layer.high)
    if layer.table is not None:
        return nonlinear.lookup(layer.table, result)
    return result if addend is None else saturate_bits(result + addend, 16)


def counts(network: Network, values: Mapping[str, Ints]) -> dict[str, Mapping[str, Ints]]:
    """Return the data-dependent work of each layer.

    Args:
        network: the network.
        values: the result of `run`.

    Returns:
        Nonempty `Layer.counts` by layer name.
    """
    found = {layer.name: layer.counts(values) for layer in network}
    return {name: each for name, each in found.items() if each}
