"""Lowering of a float graph with quantizers to the integer network, exact where the file is exact.

Scales come from the file's quantizers, or from calibration data for matrix operands without one. With
power-of-two scales every integer between two non-linear functions equals that of the file's own
quantizers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from codesign.errors import InputError
from codesign.frontend.operators.call import Array, Ints
from codesign.frontend.workload import Workload, sample_shape
from codesign.ir.mixture import linears
from codesign.ir.network import Network, Output
from codesign.numerics.fixed_point import accumulator_range, signed_bits
from codesign.quant.lower.emitter import WIDE, Finish, Operand, OutOfRange, TensorSource
from codesign.quant.lower.grids import ACCUMULATOR_BITS
from codesign.quant.lower.residual import Residual
from codesign.quant.match.graph import Quantizer
from codesign.quant.match.normalize import normalized
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Affine, compose, pick


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


@dataclass
class _Lowering(Residual):
    """Lowering of whole models: the residual stream, then the outputs; and the checks."""

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
        faults = self.patterns.unknown()
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
        sums = {
            layer.name: accumulator_range(layer.weights, layer.bias, *self.ranges[layer.source])
            for layer in linears(self.layers)
        }
        widths = {name: signed_bits(*ends) for name, ends in sums.items()}
        bad = [f"{name} needs {width}" for name, width in widths.items() if width > ACCUMULATOR_BITS]
        if bad:
            raise self.fail(f"accumulators: {', '.join(bad)} bits; legal: at most {ACCUMULATOR_BITS}")

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
