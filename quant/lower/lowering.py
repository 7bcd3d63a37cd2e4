"""Lowering of a float graph with quantizers to the integer network, exact where the file is exact.

Scales come from the file's quantizers, or from calibration data for matrix operands without one. With
power-of-two scales every integer between two non-linear functions equals that of the file's own
quantizers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.frontend.operators.call import Array, Ints
from codesign.frontend.workload import Workload, sample_shape
from codesign.ir.mixture import linears
from codesign.ir.network import Linear, Network, Output, Tensor
from codesign.numerics.fixed_point import accumulator_range, quantize, requantize, saturate_bits, signed_bits
from codesign.quant.lower.emitter import WIDE, Finish, LinearTarget, Operand, OutOfRange, TensorSource
from codesign.quant.lower.mixture import Mixtures
from codesign.quant.match.graph import Product, Quantizer
from codesign.quant.match.normalize import normalized
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Affine, Floats, compose, pick

ACCUMULATOR_BITS = 27
"""Signed width in which every sum of products, bias included, must provably fit."""


@dataclass(frozen=True, eq=False)
class Lowered:
    """A network, and the float counterpart of each of its tensors."""

    network: Network
    sources: Mapping[str, TensorSource]


def lower(workload: Workload, *, calibration: Mapping[str, Array] | None = None) -> Network:
    """Lowers a workload to integer layers.

    Args:
        workload: a float graph, with or without quantizers.
        calibration: an array per model input, samples first, for matrix operands without a quantizer in the
        file; their scale is the largest magnitude seen, over 127.

    Raises:
        InputError: nodes without an integer layer (all listed at once), tensors without a scale, weights or
        quantizers that no layer supports, or an accumulator that may overflow.
    """
    return lower_traced(workload, calibration=calibration).network


def lower_traced(workload: Workload, *, calibration: Mapping[str, Array] | None = None) -> Lowered:
    """Like `lower`, and records the float counterpart of each integer tensor.

    The workload is normalized first, so the result does not depend on the exporter.
    """
    workload = normalized(workload)
    seen = maxima(workload, calibration) if calibration is not None else None
    try:
        return _Lowering(workload, Patterns(workload), seen).run()
    except RecursionError as error:
        raise InputError(f"{workload.name}: layers are nested too deeply; legal: about 100 in a row") from error


def unscaled(workload: Workload) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tensors that need a scale and have none in the file.

    Returns:
        Tensors that layers read as 8 bit, and those of the 16-bit residual stream. Once these have
        quantizers, further tensors that depend on their scales may show up.

    Raises:
        InputError: `lower` refuses the workload for another reason.
    """
    lowering = _Lowering(workload, Patterns(workload), None)
    lowering.check_structure()
    lowering.residual_scale()
    wide = tuple(dict.fromkeys(lowering.missing))
    try:
        lowering.run()
    except InputError:
        if not lowering.missing:
            raise
    return tuple(n for n in dict.fromkeys(lowering.missing) if n not in wide), wide


def maxima(workload: Workload, calibration: Mapping[str, Array]) -> dict[str, float]:
    """Largest magnitude of every tensor over all samples.

    Args:
        workload: the model to evaluate.
        calibration: an array per model input, samples first, equal counts.
    """
    found: dict[str, float] = {}
    for sample in each_sample(workload, calibration):
        for name, value in workload.tensors(sample):
            if value.dtype.kind == "f" and value.size:
                found[name] = max(found.get(name, 0.0), float(np.abs(value).max()))
    return found


def each_sample(workload: Workload, calibration: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Splits arrays per model input, samples first, into one dictionary of inputs per sample.

    Raises:
        InputError: names differ from the model's inputs, counts are unequal, or there is no sample.
    """
    names = sorted(workload.inputs)
    if sorted(calibration) != names:
        raise InputError(f"{workload.name}: calibration arrays {sorted(calibration)}; legal: {names}")
    arrays = {name: np.asarray(calibration[name]) for name in names}
    counts = {len(a) if a.ndim else 0 for a in arrays.values()}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"{workload.name}: calibration has {sorted(counts)} samples; legal: equally many, at least 1")
    return [{name: a[i] for name, a in arrays.items()} for i in range(counts.pop())]


@dataclass(frozen=True, eq=False)
class _Chain:
    """A 16-bit tensor viewed through its quantizers.

    Attributes:
        last: the affine view inside all quantizers.
        inner: index into ``last`` of each element of the tensor; -1 is a constant.
        table: constants added after the first quantizer.
        quantized: whether there is any quantizer.
    """

    last: Affine
    inner: Ints
    table: Floats
    quantized: bool

    @property
    def element(self) -> Ints:
        """Index into the origin of each element of the tensor; -1 is a constant."""
        return pick(self.last.index, self.inner)

    def offset(self) -> Floats:
        """Offset of the innermost view, per element of the tensor."""
        chosen = self.last.offset.reshape(-1)[np.maximum(self.inner, 0)]
        return np.where(self.inner < 0, 0.0, chosen)

    def factor(self) -> Floats:
        """Factor of the innermost view, per element of the tensor."""
        return np.asarray(self.last.factor.reshape(-1)[np.maximum(self.inner, 0)])


@dataclass
class _Lowering(Mixtures):
    """Lowering of the residual stream and the model's outputs, and the checks."""

    def run(self) -> Lowered:
        self.check_structure()
        try:
            self.residual = self.residual_scale()
            for name in [n for n, kind in self.patterns.kinds.items() if kind == "sum"]:
                self.wide(name)
            outputs = tuple(self.output(name) for name in self.workload.outputs)
        except (OutOfRange, ValueError) as error:
            self.check_scales()
            raise error if isinstance(error, InputError) else self.fail(str(error)) from error
        self.check_scales()
        self.check_accumulators()
        network = Network(
            name=self.workload.name,
            tensors=self.tensors,
            layers=tuple(self.layers),
            inputs=tuple(self.inputs),
            outputs=outputs,
            constants=self.constants,
            notes=tuple(dict.fromkeys(self.notes)),
        )
        return Lowered(network, self.sources)

    # Proofs

    def check_structure(self) -> None:
        """Raises InputError with all nodes that have no integer layer."""
        faults = [(node, reason) for node, reason in self.patterns.unknown()]
        for name, kind in self.patterns.kinds.items():
            if kind == "quant" and (reason := self.patterns.quantizer_fault(self.patterns.node(name))):
                faults.append((self.patterns.node(name), reason))
        if faults:
            text = "; ".join(f"{node}: {reason}" for node, reason in faults)
            raise self.fail(f"{len(faults)} nodes have no integer layer: {text}")

    def check_scales(self) -> None:
        """Raises InputError with all tensors that lack a scale."""
        if self.missing:
            names = ", ".join(dict.fromkeys(self.missing))
            raise self.fail(f"no quantizer for {names}; legal: a quantized model, or calibration data (--calibrate)")

    def check_accumulators(self) -> None:
        """Proves that no partial sum exceeds `ACCUMULATOR_BITS`."""
        bad = []
        for layer in linears(self.layers):
            low, high = accumulator_range(layer.weights, layer.bias, *self.ranges[layer.source])
            width = signed_bits(low, high)
            bad += [f"{layer.name} needs {width}"] if width > ACCUMULATOR_BITS else []
        if bad:
            raise self.fail(f"accumulators: {', '.join(bad)} bits; legal: at most {ACCUMULATOR_BITS}")

    # The scale of the residual stream

    def residual_scale(self) -> float:
        """Common scale of the whole residual stream."""
        kinds = self.patterns.kinds
        streams = [n for n, kind in kinds.items() if kind == "sum"]
        streams += [self.patterns.norm(n).source for n, kind in kinds.items() if kind == "norm"]
        streams += [n for n in self.workload.outputs if self.ends_wide(self.patterns.affine(n))]
        streams += [n for mixture in self.patterns.mixtures.values() for n in mixture.outputs]
        streams += [part for s in streams if self.patterns.kind(s) == "sum" for part in self.carried(s)]
        quantizers = [q for s in streams for q in self.stream_quantizers(s)]
        found = {q.scale for q in quantizers if q.bits == 16}
        if found and max(found) > 256 * min(found):
            raise self.fail(f"residual scales {sorted(found)}; legal: one, or within a factor of 256")
        if len(found) > 1:
            self.notes.append(f"residual scales {sorted(found)} differ in the file; the largest serves all of them")
        if found or not streams:
            return max(found, default=1.0)
        return self.residual_from_bytes(quantizers) if quantizers else self.residual_from_data(streams)

    def carried(self, name: str) -> list[str]:
        """Parts of a sum that come from norms or model inputs."""
        parts = self.patterns.node(name).inputs
        return [n for n in parts if self.kind(self.patterns.affine(n)) in ("norm", "input")]

    def stream_quantizers(self, name: str) -> list[Quantizer]:
        """Quantizers of a residual tensor and, for a sum, of its two parts."""
        found, view = [], self.patterns.affine(name)
        while self.kind(view) == "quant":
            found.append(self.patterns.quantizer(view.origin))
            view = self.patterns.affine(self.patterns.quantized(view.origin))
        if self.kind(view) == "sum":
            views = [self.patterns.affine(n) for n in self.patterns.node(view.origin).inputs]
            found += [self.patterns.quantizer(v.origin) for v in views if self.kind(v) == "quant"]
        return found

    def residual_from_bytes(self, quantizers: list[Quantizer]) -> float:
        """Scale of a stream that the file quantizes to 8 bit: a sixteenth of the finest, with headroom for sums."""
        scale = min(q.scale for q in quantizers) / 16
        self.notes.append(f"residual scale {scale:g} is a sixteenth of the file's finest 8-bit scale there")
        return scale

    def residual_from_data(self, streams: list[str]) -> float:
        """Smallest power of two with which 16 bits hold all calibrated values."""
        if self.seen is None:
            self.missing += streams
            return 1.0
        parts = [n for s in streams if self.patterns.kind(s) == "sum" for n in self.patterns.node(s).inputs]
        top = max(self.seen.get(n, 0.0) for n in (*streams, *parts)) or 1.0
        top = max(top, *(largest_gain(self.patterns, n) for n in streams))
        scale = 2.0 ** math.ceil(math.log2(top / WIDE[1]))
        self.notes.append(f"residual scale {scale:g} is the smallest power of two that holds the calibrated {top:g}")
        return scale

    # The 16-bit residual stream

    def stream(self, name: str) -> tuple[str, int]:
        """The 16-bit tensor, and first row in it, that holds the rows of a tensor."""
        view = self.patterns.affine(name)
        width = self.workload.shapes[name][-1]
        if view.pure and self.workload.shapes[view.origin][-1] == width:
            elements = view.index.reshape(-1, width)
            rows, columns = self.lines(name, elements // width, elements % width)
            if np.array_equal(columns, np.arange(width)):
                return self.wide(view.origin), int(rows[0])
        return self.wide(name), 0

    def wide(self, name: str) -> str:
        """Provides a whole tensor as signed 16 bit at the residual scale, one row per last axis."""
        memo = (name, b"wide")
        if memo not in self.made:
            chain = self.chain(name)
            kind = self.kind(chain.last)
            if kind == "sum":
                self.made[memo] = self.sum(name, chain)
            elif kind == "product":
                self.made[memo] = self.wide_product(name, chain, None)
            elif kind in ("norm", "input"):
                self.made[memo] = self.brought(name, chain)
            elif kind == "mixture":
                self.made[memo] = self.joined(name, chain, None)
            else:
                raise self.refuse(chain.last.origin, _unsummable(kind))
        return self.made[memo]

    def chain(self, name: str) -> _Chain:
        """Resolves a tensor through 16-bit quantizers and constant tables."""
        view = self.patterns.affine(name)
        element = np.arange(view.index.size, dtype=np.int64)
        table, quantized = np.zeros(view.index.size), False
        while self.kind(view) == "quant":
            quantized = True
            self.check_stream_quantizer(view)
            table = table + np.where(element < 0, 0.0, view.offset.reshape(-1)[element])
            element = pick(view.index, element)
            view = self.patterns.affine(self.patterns.quantized(view.origin))
        if not view.origin:
            raise self.refuse(name, "a constant residual stream; legal: a computed one")
        return _Chain(view, element, table, quantized)

    def check_stream_quantizer(self, view: Affine) -> None:
        """Notes a quantizer that is replaced by the stream's; refuses one whose values are scaled."""
        q, node = self.patterns.quantizer(view.origin), self.patterns.node(view.origin)
        if np.any(view.factor[view.index >= 0] != 1):
            raise self.refuse(view.origin, "its values are scaled in the residual stream; legal: added only")
        if (q.scale, q.low, q.high) != (self.residual, *WIDE):
            before = f"{q.low} to {q.high} with scale {q.scale:g}"
            self.notes.append(f"quantizer {node.name} ({before}) becomes 16 bit with scale {self.residual:g}")

    def sum(self, name: str, chain: _Chain) -> str:
        """Emits a residual add: a matrix product added to a 16-bit tensor."""
        origin = chain.last.origin
        if not chain.last.pure or not np.array_equal(chain.element, np.arange(chain.element.size)):
            raise self.refuse(name, "the residual stream is rearranged or scaled; legal: rows are selected after it")
        if np.any(chain.table):
            raise self.refuse(name, "a constant is added to a residual sum; legal: to an embedding")
        if origin != name:
            made = self.wide(origin)
            if chain.element.size == self.sources[made].index.size:
                self.sources[made] = TensorSource(name, self.sources[made].index)
            return made
        parts = self.patterns.node(origin).inputs
        chains = [self.chain(part) for part in parts]
        usable = [i for i, c in enumerate(chains) if self.addable(c)]
        if not usable:
            kinds = " and ".join(self.kind(c.last) for c in chains)
            raise self.refuse(origin, f"adds {kinds}; legal: a matrix product onto a residual stream")
        which = usable[0] if len(usable) == 1 or self.read_elsewhere(parts[1]) else 1
        return self.joined(name, chains[which], self.wide(parts[1 - which]))

    def addable(self, chain: _Chain) -> bool:
        """Whether a layer can add the tensor to the residual stream."""
        return self.kind(chain.last) == "mixture" or (self.kind(chain.last) == "product" and self.steady(chain))

    def joined(self, name: str, chain: _Chain, addend: str | None) -> str:
        """Emits a matrix product or a mixture of experts, with an optional addend."""
        if self.kind(chain.last) == "product":
            return self.wide_product(name, chain, addend)
        whole = np.array_equal(chain.element, np.arange(chain.element.size))
        if not (whole and chain.last.pure) or np.any(chain.table):
            raise self.refuse(name, "a mixture of experts is rearranged or scaled; legal: added to the residual stream")
        return self.mixture(name, chain.last.origin, addend)

    def brought(self, name: str, chain: _Chain) -> str:
        """Emits a whole norm or model input, in order, as residual stream."""
        whole = Affine(chain.last.origin, chain.element, chain.factor(), chain.offset())
        memo = (whole.origin, b"".join(x.tobytes() for x in (whole.index, whole.factor, whole.offset)))
        if np.any(chain.table) or np.any(chain.element < 0):
            raise self.refuse(name, "constants are joined or added to the residual stream; legal: to an embedding")
        if memo not in self.made:
            self.made[memo] = self.fresh(name)
            if self.kind(whole) == "norm":
                self.check_order(name, whole)
                self.emit_norm(self.made[memo], name, whole, self.residual, 16)
            else:
                self.wide_input(self.made[memo], name, whole)
        return self.made[memo]

    def check_order(self, name: str, whole: Affine) -> None:
        """Refuses a norm with rearranged rows or columns."""
        if not np.array_equal(whole.index, np.arange(math.prod(self.workload.shapes[whole.origin]))):
            raise self.refuse(name, "a norm is rearranged in the residual stream; legal: rows are selected after it")

    def wide_input(self, target: str, name: str, whole: Affine) -> None:
        """Adds a model input as signed 16 bit at the residual scale."""
        element = np.arange(whole.index.size).reshape(-1, self.workload.shapes[name][-1])
        scale = self.residual / self.uniform(name, whole, element)
        gather = pick(whole.index, element)
        tensor = Tensor(target, len(gather), gather.shape[1], 16, scale)
        self.add_input(whole.origin, tensor, gather, TensorSource(name, element), WIDE)

    def steady(self, chain: _Chain) -> bool:
        """Whether a chain is a product with at most a bias per column."""
        width = len(self.patterns.product(chain.last.origin).weights)
        if np.any(chain.table) or np.any(chain.element < 0) or chain.element.size % width:
            return False
        offsets = chain.offset().reshape(-1, width)
        return bool(np.all(offsets == offsets[:1]))

    def read_elsewhere(self, name: str) -> bool:
        """Whether more than one node reads a tensor."""
        return sum(name in node.inputs for node in self.workload.nodes) > 1

    def wide_product(self, name: str, chain: _Chain, addend: str | None) -> str:
        """Emits a matrix product as signed 16 bit, with an optional tensor or constant table as addend.

        A bias that the file quantizes together with the product stays in the layer and is subtracted from
        constant rows; any other bias is added to the table.
        """
        product, width = self.patterns.product(chain.last.origin), self.workload.shapes[name][-1]
        element, table = chain.element.reshape(-1, width), chain.table.reshape(-1, width)
        rows, columns = self.embedded_rows(name, product, element)
        computed, offsets = element >= 0, chain.offset().reshape(-1, width)
        factor, bias = (_first(x.reshape(-1, width), computed) for x in (chain.factor(), offsets))
        if np.any(computed & (chain.factor().reshape(-1, width) != factor)):
            raise self.refuse(name, "a gain differs from row to row; legal: per column")
        if np.any(computed & (offsets != bias)) or not (chain.quantized or np.all(computed)):
            bias, table = np.zeros(width), table + offsets
        else:
            table = table + np.where(computed, 0.0, offsets)
        source, made = TensorSource(name, np.arange(element.size).reshape(-1, width)), self.fresh(name)
        goal = LinearTarget(
            made, source, rows, columns, factor, bias, self.residual, *WIDE, 16, self.residual, None, addend
        )
        if addend is None and (np.any(table) or not np.all(computed)):
            goal = replace(goal, addend=self.table(name, table))
        self.emit(product, goal)
        self.correct_table(goal, computed)
        return made

    def embedded_rows(self, name: str, product: Product, element: Ints) -> tuple[Ints, Ints]:
        """Row of the product for each row (-1: a constant row), and the columns."""
        rows, columns = product.coordinates(element)
        used = np.flatnonzero(np.any(element >= 0, axis=1))
        if not used.size or np.any(element[used] < 0):
            raise self.refuse(name, "constants inside rows of the residual stream; legal: whole rows")
        if np.any(rows[used] != rows[used][:, :1]) or np.any(columns[used] != columns[used][:1]):
            raise self.refuse(name, "rows and columns of the residual stream are mixed; legal: tokens as rows")
        result = np.full(len(element), -1, np.int64)
        result[used] = rows[used][:, 0]
        return result, columns[used[0]]

    def table(self, name: str, values: Floats) -> str:
        """Records a constant table of the residual stream; returns its name."""
        made = self.fresh(f"{name}.table")
        integers = quantize(values, self.residual, 32)
        if np.any(saturate_bits(integers, 16) != integers):
            top = f"constants up to {np.abs(values).max():g} exceed 16 bits at scale {self.residual:g}"
            raise OutOfRange(str(self.refuse(name, top)))
        self.constants[made] = integers.astype(np.int16)
        return made

    def correct_table(self, goal: LinearTarget, computed: NDArray[np.bool_]) -> None:
        """Subtracts the requantized bias from constant rows, whose products are zero but get the bias too."""
        layer = self.layers[-1]
        if not isinstance(layer, Linear) or goal.addend not in self.constants:
            return
        bias = requantize(layer.bias, layer.multiplier, layer.shift, layer.low, layer.high)
        table = self.constants[goal.addend].astype(np.int64)
        fixed = np.where(computed, table, table - bias)
        if np.any(saturate_bits(fixed, 16) != fixed):
            raise OutOfRange(str(self.refuse(goal.name, "a constant row minus the bias exceeds 16 bits")))
        self.constants[goal.addend] = fixed.astype(np.int16)

    # Outputs

    def output(self, name: str) -> Output:
        """Emits a model output."""
        view = self.patterns.affine(name)
        if not view.origin:
            raise self.fail(f"output {name} is constant; legal: a computed one")
        shape = self.workload.shapes[name]
        demand = np.arange(math.prod(shape), dtype=np.int64).reshape(-1, shape[-1] if shape else 1)
        source = self.output_tensor(name, view, demand)
        if self.tensors[source].shape != demand.shape:
            raise self.refuse(name, "the model's output is a part of a layer; legal: all of it")
        return Output(name, sample_shape(shape), source)

    def output_tensor(self, name: str, view: Affine, demand: Ints) -> str:
        """Emits the tensor that holds an output, row by row."""
        kind = self.kind(view)
        if kind == "product":
            return self.output_product(name, view, demand)
        if kind == "sum" or self.ends_wide(view):
            return self.wide(name)
        if kind == "quant" and self.patterns.quantizer(view.origin).bits == 16:
            inner = compose(self.patterns.affine(self.patterns.quantized(view.origin)), view.index)
            finish = Finish(self.patterns.quantizer(view.origin), inner)
            return self.whole(name, self.product_rows(name, demand, True, finish))
        found = self.operand(name, demand, exact=True)
        if found.scale != self.tensors[found.tensor].scale:
            raise self.refuse(name, "a scaled quantized output; legal: quantized last")
        return self.whole(name, found)

    def ends_wide(self, view: Affine) -> bool:
        """Whether a 16-bit quantizer, or a norm of a post-norm model, ends the residual stream."""
        if self.kind(view) == "norm":
            return self.patterns.post_norm and "operand" not in self.patterns.uses.get(view.origin, ())
        if self.kind(view) != "quant" or self.patterns.quantizer(view.origin).bits != 16:
            return False
        inner = self.patterns.affine(self.patterns.quantized(view.origin))
        return not (view.pure and self.kind(inner) == "product" and bool(np.all(inner.index >= 0)))

    def whole(self, name: str, found: Operand) -> str:
        """Tensor of an operand; refuses one that is not the whole tensor."""
        if not found.whole(self.tensors[found.tensor]):
            raise self.refuse(name, "the model's output is a part of a layer; legal: all of it")
        return found.tensor

    def output_product(self, name: str, view: Affine, demand: Ints) -> str:
        """Emits an unquantized matrix product: 16 bit, with a scale that provably holds every result."""
        product = self.patterns.product(view.origin)
        rows, columns = self.separated(name, product, pick(view.index, demand))
        scale = self.operand(product.source, product.demand[rows]).scale
        factor, offset = (x.reshape(-1)[demand[0]] for x in (view.factor, view.offset))
        weights = np.abs(product.weights[columns] * factor[:, None])
        step = np.abs(factor) * product.grid[1][columns, 0] if product.grid else weights.max(axis=1) / 127
        error = step / 256 if product.grid else step * weights.shape[1]
        reach = float(((weights.sum(axis=1) + error) * 128 * scale + np.abs(offset)).max())
        q = Quantizer(2.0 ** math.ceil(math.log2(max(reach, 1e-30) * 1.001 / WIDE[1])), *WIDE)
        self.notes.append(f"output {name} is signed 16 bit with scale {q.scale:g}, which holds every result")
        return self.whole(name, self.product_rows(name, demand, True, Finish(q, view)))


def _first(x: Floats, used: NDArray[np.bool_]) -> Floats:
    """First row in which every element is used."""
    return np.asarray(x[int(used.all(axis=1).argmax())], np.float64)


def largest_gain(patterns: Patterns, name: str) -> float:
    """Largest gain of the norm that makes a tensor, 0 if none does; a gain must fit the output's bits."""
    view = patterns.affine(name)
    if not view.origin or patterns.kind(view.origin) != "norm":
        return 0.0
    return float(np.abs(view.factor).max(initial=0.0))


def _unsummable(kind: str) -> str:
    reasons = {
        "function": "a function's output in the residual stream; legal: a matrix product's",
        "matmul": "attention's output in the residual stream; legal: a projection of it",
    }
    return reasons.get(kind, f"{kind} values in the residual stream; legal: a matrix product's")
