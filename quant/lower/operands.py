"""Lowering of the 8-bit matrices that layers read: inputs, products, functions, norms, attention."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.frontend.operators.call import Ints, Shape
from codesign.frontend.operators.custom import LayerRequest, custom_operators
from codesign.frontend.workload import sample_shape
from codesign.ir.network import MASKS, Attention, Input, Norm, Tensor
from codesign.numerics.fixed_point import dequantize, limits, quantize
from codesign.numerics.nonlinear import mask_interval, norm_parameters
from codesign.quant.lower.emitter import Emitter, Finish, Operand, OutOfRange, TensorSource
from codesign.quant.match.graph import Quantizer
from codesign.quant.match.views import Affine, Floats, compose, inverse, pick

_MASKED = -1e3
"""Offsets of scores at or below this count as masked."""

_POLE = 16.0
"""Factor by which a function may exceed, at or between arguments of its table, its values around there."""

_PARTS, _ZOOMS = 16, 12
"""Parts of each interval that are looked at when a pole is sought, and how often the largest is divided again."""

_READABLE = ("input", "product", "function", "norm", "matmul", "custom")
"""Kinds of tensors that a layer can output."""

_LEFT = (-128.0, -160.0, -192.0, -256.0, -512.0, -1e3, -1e4, -1e6)
_RIGHT = (127.0, 128.0, 192.0, 256.0, 512.0, 1e3, 1e4)


@dataclass
class Operands(Emitter):
    """Lowers all tensors that end in an 8-bit quantizer."""

    def operand(self, name: str, demand: Ints, exact: bool = False) -> Operand:
        """Provides a matrix of elements of a tensor as signed 8 bit.

        Args:
            name: a tensor of the file.
            demand: int64 ``[rows, columns]`` of flat element indices; -1 is zero.
            exact: compute no other rows than these.
        """
        view = self.patterns.affine(name)
        if self.kind(view) == "quant":
            quantizer, inside = self.patterns.quantizer(view.origin), self.patterns.quantized(view.origin)
            if quantizer.bits != 8:
                raise self.refuse(view.origin, "16-bit values where a layer reads 8; legal: an 8-bit quantizer")
            found = self.quantized(view.origin, quantizer, inside, pick(view.index, demand), exact)
            return replace(found, scale=found.scale * self.uniform(name, view, demand))
        if self.kind(view) == "custom":
            found = self.custom(view.origin, None, name, view, demand)
            return replace(found, scale=found.scale * self.uniform(name, view, demand))
        if self.kind(view) not in _READABLE:
            raise self.refuse(view.origin or name, _unreadable(self.kind(view)))
        shared = "stream" in self.patterns.uses.get(view.origin, ())
        bare = view.origin and view.plain and self.patterns.affine(view.origin).pure and not shared
        place, chosen = (view.origin, pick(view.index, demand)) if bare else (name, demand)
        return self.quantized(place, self.calibrated(place), place, chosen, exact)

    def quantized(self, key: str, q: Quantizer, name: str, demand: Ints, exact: bool) -> Operand:
        """Provides part of tensor ``name``, quantized by q and then known as ``key``."""
        inner = self.patterns.affine(name)
        kind = self.kind(inner)
        if kind == "product":
            return self.product_rows(key, demand, exact, Finish(q, inner))
        if kind == "function":
            return self.function(key, q, name, inner, demand, exact)
        if kind == "quant":
            return self.requantized(q, name, inner, demand, exact)
        makers = {"input": self.input_matrix, "norm": self.norm, "matmul": self.attention, "custom": self.custom}
        if kind not in makers:
            raise self.refuse(inner.origin or name, _unreadable(kind))
        return makers[kind](key, q, name, inner, demand)

    def requantized(self, q: Quantizer, name: str, inner: Affine, demand: Ints, exact: bool) -> Operand:
        """Drops a quantizer directly after another one with the same scale; refuses other pairs."""
        first = self.patterns.quantizer(inner.origin)
        same = first.scale == q.scale and q.low <= first.low and first.high <= q.high
        if not same or first.bits != 8 or self.uniform(name, inner, demand) != 1:
            raise self.refuse(name, "quantized twice in a row with different scales; legal: once")
        source = self.patterns.quantized(inner.origin)
        return self.quantized(inner.origin, first, source, pick(inner.index, demand), exact)

    def input_matrix(self, key: str, q: Quantizer, name: str, inner: Affine, demand: Ints) -> Operand:
        """Provides a gathered model input."""
        scale, gather = q.scale / self.uniform(name, inner, demand), pick(inner.index, demand)
        memo = (key, gather.tobytes())
        rows, columns = gather.shape
        if memo not in self.made:
            tensor = Tensor(self.fresh(key), rows, columns, 8, scale)
            self.made[memo] = self.add_input(inner.origin, tensor, gather, TensorSource(key, demand), (q.low, q.high))
        return Operand(self.made[memo], 0, rows, np.arange(columns), q.scale)

    def add_input(self, name: str, tensor: Tensor, gather: Ints, source: TensorSource, span: tuple[int, int]) -> str:
        """Records a tensor gathered from a model input; returns its name."""
        self.inputs.append(Input(name, sample_shape(self.workload.inputs[name]), tensor.name, gather, *span))
        self.add(tensor, source, *span)
        return tensor.name

    # Functions of one variable, on the output path of a product

    def function(self, key: str, q: Quantizer, name: str, inner: Affine, demand: Ints, exact: bool) -> Operand:
        """Emits a function after a matrix product: a clamp or a table."""
        origin, chosen = inner.origin, demand[demand >= 0]
        factor, offset = self.scalar(name, inner.factor, chosen), self.scalar(name, inner.offset, chosen)
        argument = self.patterns.affine(self.patterns.node(origin).inputs[0])
        if self.patterns.node(origin).op == "Relu" and self.kind(argument) == "product" and factor > 0 and not offset:
            clamp = Quantizer(q.scale / factor, max(q.low, 0), q.high)
            return self.product_rows(key, demand, exact, Finish(q, compose(argument, inner.index), clamp))
        first, step, view = self.argument(origin, q, factor, offset)
        if self.kind(view) != "product":
            raise self.refuse(origin, "a function that does not follow a matrix product; legal: right after one")
        points = dequantize((np.arange(256) ^ 128) - 128, first.scale * step)
        self.check_function(origin, np.sort(points))
        values = factor * self.patterns.apply(origin, points) + offset
        table = quantize(values, q.scale, low=q.low, high=q.high).astype(np.int8)
        return self.product_rows(key, demand, exact, Finish(q, compose(view, inner.index), first, table))

    def check_function(self, name: str, points: Floats) -> None:
        """Refuses a function that is infinite, or rises too far, at or between the arguments of its table.

        Args:
            name: the function's tensor.
            points: arguments of the table, ascending.
        """
        span = f"its argument's range {points[0]:.4g} to {points[-1]:.4g}"
        bad = points[~np.isfinite(self.patterns.apply(name, points))]
        if bad.size:
            raise self.refuse(name, f"a function that is infinite or NaN at {bad[0]:.4g}, in {span}; legal: finite")
        pole = steepest(lambda x: self.patterns.apply(name, x), points)
        if pole is not None:
            step = f"a table of {len(points)} values has {points[1] - points[0]:.4g} between two arguments"
            raise self.refuse(name, f"a function that explodes at {pole:.4g}, in {span}: {step}; legal: no pole there")

    def argument(self, name: str, q: Quantizer, factor: float, offset: float) -> tuple[Quantizer, float, Affine]:
        """Quantizer of a function's argument, the factor between them, and the view inside the quantizer."""
        base = self.patterns.base(name)
        view = self.patterns.affine(base)
        if self.kind(view) != "quant":
            return self.argument_scale(name, base, q, factor, offset), 1.0, view
        first = self.patterns.quantizer(view.origin)
        if first.bits != 8:
            raise self.refuse(name, "a function of 16-bit values; legal: of 8-bit ones")
        step = self.uniform(base, view, np.arange(view.index.size))
        return first, step, compose(self.patterns.affine(self.patterns.quantized(view.origin)), view.index)

    def argument_scale(self, name: str, base: str, q: Quantizer, factor: float, offset: float) -> Quantizer:
        """Quantizer for a function's argument where the file has none.

        Without calibration data, a function like GELU that is constant far to the left and saturates its own
        quantizer far to the right determines the range of its argument: nothing changes beyond it.
        """
        for scale in (q.scale / factor * step for step in (1, 2, 4) if factor > 0 and not offset):
            left, right = (self.patterns.apply(name, x * scale) for x in (np.array(_LEFT), np.array(_RIGHT)))
            reaches = np.all(factor * right >= (q.high - 1) * q.scale)
            if self.seen is None and reaches and np.all(np.abs(factor * (left - left[0])) <= q.scale):
                self.notes.append(f"{base} has no quantizer; scale {scale:g} holds where {name} is not constant")
                return Quantizer(scale, -128, 127)
        return self.calibrated(base)

    def scalar(self, name: str, x: Floats, chosen: Ints) -> float:
        """Common value of a factor or offset after a function; refuses several."""
        values = x.reshape(-1)[chosen]
        if np.ptp(values):
            raise self.refuse(name, "scales or shifts a function element by element; legal: one factor and offset")
        return float(values[0])

    # Norms

    def norm(self, key: str, q: Quantizer, name: str, inner: Affine, demand: Ints) -> Operand:
        """Emits a layer or RMS norm of the residual stream."""
        width = self.workload.shapes[inner.origin][-1]
        elements = pick(inner.index, demand)
        rows, columns = self.lines(name, elements // width, elements % width)
        memo = (key, b"norm")
        if memo not in self.made:
            self.made[memo] = self.fresh(key)
            self.full_range(key, q)
            self.emit_norm(self.made[memo], key, inner, q.scale, 8)
        begin = int(self.normed(key, inner)[0][0])
        return Operand(self.made[memo], int(rows[0]) - begin, len(rows), columns, q.scale)

    def normed(self, key: str, inner: Affine) -> tuple[Ints, Ints]:
        """Contiguous rows of a norm that a tensor shows, and the tensor's element for each of theirs."""
        shape = self.workload.shapes[inner.origin]
        elements = self.shown(inner, shape).reshape(-1, shape[-1])
        rows = np.flatnonzero((elements >= 0).all(axis=1))
        if not rows.size or np.any(np.diff(rows) != 1) or (elements >= 0).sum() != rows.size * shape[-1]:
            raise self.refuse(key, "quantizes a part of a norm's rows; legal: whole rows that follow each other")
        return rows, elements[rows]

    def emit_norm(self, target: str, key: str, inner: Affine, scale: float, bits: int) -> None:
        """Appends a norm that makes the rows of a tensor, of 8 or 16 bits."""
        info, width = self.patterns.norms[inner.origin], self.workload.shapes[inner.origin][-1]
        rows, elements = self.normed(key, inner)
        gamma, beta = (self.per_column(key, x, elements) for x in (inner.factor, inner.offset))
        source, first_row = self.stream(info.source)
        try:
            parameters = norm_parameters(gamma, beta, info.eps, self.residual, scale, width)
        except ValueError as error:
            raise OutOfRange(str(self.refuse(inner.origin, str(error)))) from error
        name = self.layer_name(self.patterns.node(inner.origin).name)
        first_row += int(rows[0])
        self.layers.append(Norm(name, source, target, len(rows), *parameters, info.rms, first_row, bits))
        self.add(Tensor(target, len(rows), width, bits, scale), TensorSource(key, elements), *limits(bits))

    def shown(self, inner: Affine, shape: Shape) -> Ints:
        """Index into a rearranged tensor of each element of its origin; -1 if it has none."""
        return inverse(inner.index, math.prod(shape)).reshape(shape)

    def full_range(self, key: str, q: Quantizer) -> None:
        """Refuses or notes a quantizer that does not use all 8 bits, as norms and attention do."""
        if q.low > -127 or q.high < 127:
            raise self.refuse(key, f"range {q.low} to {q.high} after a norm or attention; legal: -128 to 127")
        if q.low != -128:
            self.notes.append(f"{key} saturates at -128 and 127, in the file at {q.low} and {q.high}")

    # Operators of other packages

    def custom(self, key: str, q: Quantizer | None, name: str, inner: Affine, demand: Ints) -> Operand:
        """Emits an operator of another package; its scale is that of its input."""
        width = self.workload.shapes[inner.origin][-1]
        elements = pick(inner.index, demand)
        rows, columns = self.lines(name, elements // width, elements % width)
        memo = (key, b"custom")
        if memo not in self.made:
            self.made[memo] = self.fresh(key)
            self.emit_custom(self.made[memo], key, inner)
        scale = self.tensors[self.made[memo]].scale
        if q is not None and (q.scale != scale or q.low > -127 or q.high < 127):
            wanted = f"scale {q.scale:g} from {q.low} to {q.high}"
            raise self.refuse(inner.origin, f"{wanted} behind it; legal: the scale of its input, {scale:g}, 8 bit")
        return Operand(self.made[memo], int(rows[0]), len(rows), columns, scale)

    def emit_custom(self, target: str, key: str, inner: Affine) -> None:
        """Appends the layer of an operator of another package, with all its rows."""
        node = self.patterns.node(inner.origin)
        before, shape = self.workload.shapes[node.inputs[0]], self.workload.shapes[inner.origin]
        rows = math.prod(shape[:-1])
        if math.prod(before[:-1]) != rows:
            raise self.refuse(inner.origin, f"shape {before} becomes {shape}; legal: as many rows of the last axis")
        x = self.operand(node.inputs[0], np.arange(math.prod(before), dtype=np.int64).reshape(rows, -1))
        if not np.array_equal(x.columns, np.arange(self.tensors[x.tensor].columns)):
            raise self.refuse(inner.origin, "reads a part of a tensor's columns; legal: all of them")
        request = LayerRequest(
            self.layer_name(node.name), x.tensor, target, x.first_row, rows, before[-1], shape[-1], x.scale,
            node.attributes, tuple(self.patterns.values[n] if n else None for n in node.inputs[1:]),
        )  # fmt: skip
        try:
            self.layers.append(custom_operators()[node.op].layer(request))
        except ValueError as error:
            raise self.refuse(inner.origin, " ".join(str(error).split())) from error
        index = self.shown(inner, (rows, shape[-1]))
        self.add(Tensor(target, rows, shape[-1], 8, x.scale), TensorSource(key, index), -128, 127)

    # Attention

    def attention(self, key: str, q: Quantizer, name: str, inner: Affine, demand: Ints) -> Operand:
        """Emits softmax attention: the product of probabilities and values."""
        _, rows, depth = self.heads(inner.origin)
        element = pick(inner.index, demand)
        column = element // (rows * depth) * depth + element % depth
        first, columns = self.lines(name, element // depth % rows, column)
        memo = (key, b"attention")
        if memo not in self.made:
            self.made[memo] = self.fresh(key)
            self.emit_attention(self.made[memo], key, q, inner, self.uniform(name, inner, demand))
        return Operand(self.made[memo], int(first[0]), len(first), columns, q.scale)

    def heads(self, name: str) -> Shape:
        """Heads, rows and columns of a tensor of matrices."""
        shape = self.workload.shapes[name]
        if len(shape) < 2:
            raise self.refuse(name, f"product of shape {shape}; legal: matrices")
        return math.prod(shape[:-2]), shape[-2], shape[-1]

    def emit_attention(self, target: str, key: str, q: Quantizer, inner: Affine, factor: float) -> None:
        """Appends an attention layer that makes all rows of a tensor."""
        node = self.patterns.node(inner.origin)
        scores = self.scores(inner.origin, node.inputs[0])
        shape = self.heads(inner.origin)
        query, keys, values, count = self.parts(scores, inner.origin, shape)
        mask, window = self.mask(scores, (shape[0], shape[1], count))
        layer = Attention(
            self.layer_name(node.name),
            query.tensor,
            keys.tensor,
            values.tensor,
            target,
            shape[1],
            count,
            shape[0],
            shape[2],
            *self.requantizer(scores.origin, 128 * query.scale * keys.scale * self.score_factor(scores)),
            *self.requantizer(inner.origin, values.scale * factor / q.scale),
            mask=mask,
            window=window,
        )
        self.layers.append(layer)
        back = self.shown(inner, shape)
        if np.any(back < 0):
            raise self.refuse(key, "quantizes a part of attention; legal: all of it")
        index = back.transpose(1, 0, 2).reshape(shape[1], -1)
        self.full_range(key, q)
        self.add(Tensor(target, shape[1], shape[0] * shape[2], 8, q.scale), TensorSource(key, index), -128, 127)

    def parts(self, scores: Affine, product: str, shape: Shape) -> tuple[Operand, Operand, Operand, int]:
        """Query, key and value operands, and the number of keys.

        Args:
            scores: view of the scores.
            product: the product of probabilities and values.
            shape: heads, rows and columns of the product.
        """
        left, right = self.patterns.node(scores.origin).inputs[:2]
        values = self.patterns.node(product).inputs[1]
        (heads, rows, depth), (_, _, width), (_, count, _) = shape, self.heads(left), self.heads(values)
        made = self.heads(scores.origin)
        if made != (heads, rows, count) or width != depth:
            text = f"scores {made} of width {width} against {heads} heads of {rows} x {depth}"
            raise self.refuse(scores.origin, f"{text}; legal: equal heads and widths")
        query = self.by_head(left, scores.origin, (heads, rows, width), (1, 0, 2))
        keys = self.by_head(right, scores.origin, (heads, width, count), (2, 0, 1))
        return query, keys, self.by_head(values, product, (heads, count, depth), (1, 0, 2)), count

    def by_head(self, name: str, product: str, shape: Shape, order: Shape) -> Operand:
        """A query, key or value tensor as ``[rows, heads * width]``; heads that share a matrix get a copy each."""
        own, lead = self.workload.shapes[name], self.workload.shapes[product][:-2]
        index = np.arange(math.prod(own), dtype=np.int64).reshape(own)
        index = np.broadcast_to(index, (*lead, *own[-2:])).reshape(shape).transpose(order)
        found = self.operand(name, index.reshape(len(index), -1))
        if not found.whole(self.tensors[found.tensor]):
            raise self.refuse(name, "attention reads a part of a tensor; legal: all rows and columns")
        return found

    def scores(self, name: str, probabilities: str) -> Affine:
        """View of the score matrix read by the softmax in front of a product."""
        view = self.unquantized(probabilities, "probabilities")
        if self.kind(view) != "softmax" or not view.pure:
            raise self.refuse(name, "multiplies two computed tensors outside attention; legal: softmax(q k) v")
        if not np.array_equal(view.index.reshape(-1), np.arange(view.index.size)):
            raise self.refuse(name, "its probabilities are rearranged; legal: as softmax made them")
        found = self.unquantized(self.patterns.node(view.origin).inputs[0], "scores")
        if self.kind(found) != "matmul":
            raise self.refuse(view.origin, "a softmax that is not attention's; legal: softmax(q k) v")
        return found

    def unquantized(self, name: str, what: str) -> Affine:
        """View through a quantizer of scores or probabilities, which integer attention omits."""
        view = self.patterns.affine(name)
        if self.kind(view) != "quant":
            return view
        inner = compose(self.patterns.affine(self.patterns.quantized(view.origin)), view.index)
        if np.any(inner.offset):
            raise self.refuse(name, f"quantized {what} are masked before; legal: masked after")
        self.notes.append(f"the quantizer of {what} {view.origin} is left out: attention keeps them exact")
        return replace(inner, factor=inner.factor * view.factor, offset=view.offset)

    def score_factor(self, scores: Affine) -> float:
        """Common factor of all unmasked scores; refuses several."""
        factors = scores.factor[scores.index >= 0]
        if not factors.size or np.ptp(factors) or factors[0] <= 0:
            raise self.refuse(scores.origin, "scores are scaled element by element; legal: one positive factor")
        return float(factors[0])

    def mask(self, scores: Affine, shape: Shape) -> tuple[str, int]:
        """Kind and window of the mask formed by constant offsets of the scores."""
        element, offset = scores.index.reshape(shape), scores.offset.reshape(shape)
        seen = (element >= 0) & (offset == 0)
        if not np.all(seen | (offset <= _MASKED)) or np.any(seen != seen[:1]):
            raise self.refuse(scores.origin, "an additive bias on scores; legal: 0 or below -1000, equal for all heads")
        if np.any(seen & (element != np.arange(element.size).reshape(shape))):
            raise self.refuse(scores.origin, "its scores are rearranged; legal: as the product made them")
        return self.mask_kind(scores.origin, seen[0])

    def mask_kind(self, name: str, seen: NDArray[np.bool_]) -> tuple[str, int]:
        """Kind and window of the mask that admits exactly these keys."""
        rows, keys = seen.shape
        window, column = int(seen.sum(axis=1).max()), np.arange(keys)
        kinds = [k for k in MASKS if k != "sliding" or (window > 0 and rows < keys + window)]
        for kind in kinds:
            lo, hi = mask_interval(kind, rows, keys, window)
            if np.array_equal(seen, (lo[:, None] <= column) & (column < hi[:, None])):
                return kind, window if kind == "sliding" else 0
        raise self.refuse(name, f"a mask that is none of {', '.join(MASKS)}")


def steepest(function: Callable[[Floats], Floats], points: Floats) -> float | None:
    """Argument at which a function is not finite, or `_POLE` times as large as at the points around it.

    Args:
        function: of an array of arguments.
        points: ascending; the function is finite there.

    Returns:
        The argument of the largest magnitude found; None if the points show the function well.
    """
    sizes = np.abs(function(points))
    top = max(float(sizes.max()), 1e-300)
    alone = (sizes[1:-1] >= top / 2) & (sizes[1:-1] > _POLE * np.maximum(sizes[:-2], sizes[2:]))
    if alone.any():
        return float(points[1 + int(alone.argmax())])
    low, high = points[:-1], points[1:]
    rows = np.arange(len(low))
    for _ in range(_ZOOMS):
        inner = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, _PARTS + 1)
        sizes = np.nan_to_num(np.abs(function(inner)), nan=np.inf, posinf=np.inf)
        where = sizes.argmax(axis=1)
        if sizes[rows, where].max() > _POLE * top:
            return float(inner[np.unravel_index(sizes.argmax(), sizes.shape)])
        low, high = inner[rows, np.maximum(where - 1, 0)], inner[rows, np.minimum(where + 1, _PARTS)]
    return None


def _unreadable(kind: str) -> str:
    reasons = {
        "constant": "a constant where a layer reads computed values",
        "softmax": "a softmax that is not attention's; legal: softmax(q k) v, and a model that ends in its logits",
        "sum": "a residual sum feeds a matrix product without a norm between; legal: a norm first",
    }
    return reasons.get(kind, f"{kind} values where a layer reads 8 bit")
