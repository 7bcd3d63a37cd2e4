"""Lowering of the residual stream: signed 16 bit at one scale, written by products, norms, mixtures and inputs."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codesign.frontend.operators.call import Ints
from codesign.ir.network import Linear, Tensor
from codesign.numerics.fixed_point import quantize, requantize, saturate_bits
from codesign.quant.lower.emitter import WIDE, LinearTarget, OutOfRange, TensorSource
from codesign.quant.lower.mixture import Mixtures
from codesign.quant.match.graph import Product, Quantizer
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Affine, Floats, pick

_UNSUMMABLE = {
    "function": "a function's output in the residual stream; legal: a matrix product's",
    "matmul": "attention's output in the residual stream; legal: a projection of it",
}


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
class Residual(Mixtures):
    """Lowers the tensors of the residual stream, and finds its scale."""

    # Its scale

    def residual_scale(self) -> float:
        """Common scale of the whole residual stream."""
        kinds = self.patterns.kinds
        streams = [n for n, kind in kinds.items() if kind == "sum"]
        streams += [self.patterns.norms[n].source for n, kind in kinds.items() if kind == "norm"]
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
        if not quantizers:
            return self.residual_from_data(streams)
        scale = min(q.scale for q in quantizers) / 16  # the sixteen steps are headroom for sums
        self.notes.append(f"residual scale {scale:g} is a sixteenth of the file's finest 8-bit scale there")
        return scale

    def carried(self, name: str) -> list[str]:
        """Parts of a sum that come from norms or model inputs."""
        return [n for n in self.patterns.node(name).inputs if self.kind(self.patterns.affine(n)) in ("norm", "input")]

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

    def ends_wide(self, view: Affine) -> bool:
        """Whether a 16-bit quantizer, or a norm of a post-norm model, ends the residual stream."""
        if self.kind(view) == "norm":
            return self.patterns.post_norm and "operand" not in self.patterns.uses.get(view.origin, ())
        if self.kind(view) != "quant" or self.patterns.quantizer(view.origin).bits != 16:
            return False
        inner = self.patterns.affine(self.patterns.quantized(view.origin))
        return not (view.pure and self.kind(inner) == "product" and bool(np.all(inner.index >= 0)))

    # Its tensors

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
            elif kind in ("norm", "input"):
                self.made[memo] = self.brought(name, chain)
            elif kind in ("product", "mixture"):
                self.made[memo] = self.joined(name, chain, None)
            else:
                other = f"{kind} values in the residual stream; legal: a matrix product's"
                raise self.refuse(chain.last.origin, _UNSUMMABLE.get(kind, other))
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
        second_is_shared = sum(parts[1] in node.inputs for node in self.workload.nodes) > 1
        which = usable[0] if len(usable) == 1 or second_is_shared else 1
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
            if self.kind(whole) == "input":
                self.wide_input(self.made[memo], name, whole)
            elif np.array_equal(whole.index, np.arange(math.prod(self.workload.shapes[whole.origin]))):
                self.emit_norm(self.made[memo], name, whole, self.residual, 16)
            else:
                legal = "legal: rows are selected after it"
                raise self.refuse(name, f"a norm is rearranged in the residual stream; {legal}")
        return self.made[memo]

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


def _first(x: Floats, used: NDArray[np.bool_]) -> Floats:
    """First row in which every element is used."""
    return np.asarray(x[int(used.all(axis=1).argmax())], np.float64)


def largest_gain(patterns: Patterns, name: str) -> float:
    """Largest gain of the norm that makes a tensor, 0 if none does; a gain must fit the output's bits."""
    view = patterns.affine(name)
    if not view.origin or patterns.kind(view.origin) != "norm":
        return 0.0
    return float(np.abs(view.factor).max(initial=0.0))
