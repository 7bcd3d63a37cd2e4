"""Static post-training quantization of a float ONNX model.

`calibrate` runs samples through the float evaluator and returns the same model with quantizers (QONNX
``Quant`` nodes: 8 bit per tensor for layer inputs, 16 bit for the residual stream, narrow range per output
channel for weights), for `codesign.quant.lower.lowering` and other tools. Ranges, scales and integer weights
come from a library, see `codesign.quant.calibrate.ranges`. These steps leave the float function unchanged:

* ranges migrate from activations into weights and biases, see `codesign.quant.calibrate.migrate`;
* functions get arguments and results shifted to use the whole 8-bit range;
* biases compensate the mean error of each product.

Settings are chosen by their error on held-out samples.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np
import onnx
from onnx import numpy_helper

from codesign.errors import InputError
from codesign.frontend.onnx_reader import decoded, graph_of
from codesign.frontend.operators.call import Array, Ints
from codesign.frontend.workload import Workload, from_proto
from codesign.quant.calibrate.edit import Edit, forked, readers
from codesign.quant.calibrate.migrate import KEPT, is_clamp, migrated
from codesign.quant.calibrate.observe import Moments, Sample, moments
from codesign.quant.calibrate.ranges import Clip, Range, channel_scales, check, on_grid, ranges, symmetric_scale
from codesign.quant.lower.lowering import each_sample, lower, unscaled
from codesign.quant.lower.residual import largest_gain
from codesign.quant.match.graph import Product
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Floats

Progress: TypeAlias = Callable[[int, int], None]
"""Callback with the number of settings tried and their total."""

_CLIPS: tuple[Clip, ...] = get_args(Clip)

_WORTH = 0.75
"""Share of the plain settings' error that others must stay below, since less gain is chance on few samples."""

_TRIED = 48
"""Most samples for comparing settings."""

_ROUNDS = 4
"""Most rounds of quantizer insertion; new quantizers can make others necessary."""

_HEADROOM = 1.1
"""Factor above the largest residual value in the samples."""


@dataclass(frozen=True)
class Settings:
    """Settings of post-training quantization.

    Attributes:
        clip: scales from the full observed range ("max") or from nearly all of it ("percentile").
        migrate: share of an activation's range that goes into the weights, 0 to 1; None disables scaling.
        centre: whether channels and functions are shifted to the middle of their range.
        correct: whether biases compensate the mean error of each product.
        weight_bits: 8 or 4.
        power_of_two: whether all scales are powers of two, which other tools reproduce bit for bit.
    """

    clip: Clip = "max"
    migrate: float | None = 0.5
    centre: bool = True
    correct: bool = True
    weight_bits: int = 8
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if self.clip not in _CLIPS:
            raise ValueError(f"clip is {self.clip!r}; legal: {', '.join(_CLIPS)}")
        if self.migrate is not None and not 0 <= self.migrate <= 1:
            raise ValueError(f"migrate is {self.migrate}; legal: 0 to 1, or None")
        if self.weight_bits not in (4, 8):
            raise ValueError(f"weight_bits is {self.weight_bits}; legal: 4 or 8")


@dataclass(frozen=True)
class SettingsChoice:
    """Chosen settings and their error on held-out samples.

    Attributes:
        settings: the chosen settings.
        error: squared error of the outputs relative to their squares.
        plain_error: the same for the simplest settings.
        held: number of held-out samples.
    """

    settings: Settings
    error: float
    plain_error: float
    held: int


def choices() -> tuple[Settings, ...]:
    """Settings that `calibrate` compares by default, the simplest first."""
    plain = Settings("max", migrate=None, centre=False, correct=False)
    moved = (Settings(clip, migrate) for migrate in (None, 0.5, 0.7) for clip in _CLIPS)
    return plain, *moved


def calibrate(
    model: bytes,
    samples: Mapping[str, Array],
    *,
    settings: Settings | None = None,
    name: str = "model",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Quantizes a float ONNX model.

    Args:
        model: bytes of the file; existing quantizers are kept.
        samples: an array per model input, samples first; 32 to 256 typical samples.
        settings: None calibrates each of `choices` on three quarters of the samples and takes the one with
        the smallest output error on the rest, or the simplest if the gain is small.
        name: name of the model in messages.
        folder: folder of external data.
        progress: called after each settings tried.

    Returns:
        Bytes of an ONNX model with the same inputs and outputs, which `codesign.quant.lower.lowering` takes
        without calibration. External data is embedded.

    Raises:
        InputError: the file cannot be read, the samples do not fit, or the model has no integer layers.
        ToolError: the library is not installed.
    """
    check()
    chosen = settings or choose(model, samples, name=name, folder=folder, progress=progress).settings
    source = _embedded(decoded(model, name), name, folder)
    made = _once(source, each_sample(from_proto(source, name), samples), chosen, name)
    lower(from_proto(made, name))
    return bytes(made.SerializeToString())


def choose(
    model: bytes,
    samples: Mapping[str, Array],
    *,
    name: str = "model",
    folder: Path | None = None,
    progress: Progress | None = None,
) -> SettingsChoice:
    """Chooses the settings that `calibrate` uses by default; arguments and errors as there."""
    check()
    source = _embedded(decoded(model, name), name, folder)
    workload = from_proto(source, name)
    each = each_sample(workload, samples)[:_TRIED]
    cut = max(1, len(each) * 3 // 4)
    shown, held = each[:cut], each[cut:] or each

    def error(settings: Settings) -> float:
        try:
            return output_error(workload, from_proto(_once(source, shown, settings, name), name), held)
        except InputError:  # a scale that no layer can hold; where all end so, the first says why
            return math.inf

    plain, *others = choices()
    errors = {}
    for tried, settings in enumerate(choices(), start=1):
        errors[settings] = error(settings)
        if progress is not None:
            progress(tried, 1 + len(others))
    best = min(others, key=errors.__getitem__)
    chosen = best if errors[best] < _WORTH * errors[plain] else plain
    return SettingsChoice(chosen, errors[chosen], errors[plain], len(held))


def output_error(workload: Workload, other: Workload, each: Sequence[Sample]) -> float:
    """Squared error of another model's outputs over samples, relative to the squares of this one's."""
    error = power = 0.0
    for sample in each:
        got = other.evaluate(sample)
        for name, value in workload.evaluate(sample).items():
            error += float(np.square(got[name] - value).sum())
            power += float(np.square(value).sum())
    return error / power if power else error


def _embedded(model: onnx.ModelProto, name: str, folder: Path | None) -> onnx.ModelProto:
    """The model with its external data embedded."""
    constants = graph_of(model, name, folder).constants
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name].astype(dtype), tensor.name))
    return model


def _once(model: onnx.ModelProto, each: Sequence[Sample], settings: Settings, name: str) -> onnx.ModelProto:
    """Migrates ranges, then inserts missing quantizers in at most `_ROUNDS` rounds, until no scale is missing."""
    model = forked(model, from_proto(model, name))
    workload = from_proto(model, name)
    if settings.centre or settings.migrate is not None:
        model = migrated(model, workload, each, settings.migrate, settings.centre)
    for _ in range(_ROUNDS):
        workload = from_proto(model, name)
        if not any(unscaled(workload)) and not _float_products(Patterns(workload)):
            break
        model = _quantized(model, workload, each, settings)
    return model


def _scale(found: Range, settings: Settings) -> float:
    """Scale of an 8-bit quantizer."""
    scale = symmetric_scale(found.low, found.high, 8)
    return _power_of_two(scale) if settings.power_of_two else scale


def _power_of_two(scale: float) -> float:
    """Smallest power of two that is at least ``scale``."""
    return 2.0 ** math.ceil(math.log2(scale))


# Quantizers ------------------------------------------------------------------------------


def _float_products(patterns: Patterns) -> list[Product]:
    """Products with float weights."""
    names = [n.outputs[0] for n in patterns.workload.nodes if patterns.kinds.get(n.outputs[0]) == "product"]
    return [p for name in names if (p := patterns.product(name)).grid is None]


def _quantized(
    model: onnx.ModelProto, workload: Workload, each: Sequence[Sample], settings: Settings
) -> onnx.ModelProto:
    """Inserts a quantizer wherever one is missing."""
    patterns = Patterns(workload)
    narrow, wide = unscaled(workload)
    arguments = _arguments(patterns, narrow)
    stream = {*wide, *_parts(patterns, wide)}
    seen = ranges(
        workload, each, dict.fromkeys((*narrow, *arguments.values()), settings.clip) | dict.fromkeys(stream, "max")
    )
    scales = {name: _scale(seen[name], settings) for name in narrow if name not in arguments.values()}
    edit = Edit(model, workload)
    _quantize_weights(edit, patterns, moments(workload, each, scales), settings)
    for base in dict.fromkeys(arguments.values()):
        _quantize_argument(edit, base, seen[base], settings)
    for name, scale in scales.items():
        edit.quantize(name, scale, 8)
    if wide:
        top = max(r.top for name, r in seen.items() if name in stream) or 1.0
        top = max(top, *(largest_gain(patterns, name) for name in wide))
        for name in wide:
            edit.quantize(name, _power_of_two(_HEADROOM * symmetric_scale(-top, top, 16)), 16)
    return edit.finish()


def _parts(patterns: Patterns, wide: Iterable[str]) -> set[str]:
    """Addends of the sums of the residual stream."""
    sums = [patterns.node(name) for name in wide if patterns.kind(name) == "sum"]
    return {part for node in sums for part in node.inputs}


def _arguments(patterns: Patterns, narrow: Iterable[str]) -> dict[str, str]:
    """Float argument of each function that becomes a table, by the function's output."""
    found = {}
    for name in narrow:
        origin = patterns.affine(name).origin
        if patterns.kind(origin) == "function" and not is_clamp(patterns, name):
            base = patterns.base(origin)
            if patterns.kind(patterns.affine(base).origin) == "product":
                found[origin] = base
    return found


def _quantize_argument(edit: Edit, base: str, found: Range, settings: Settings) -> None:
    """Quantizes a function's argument so that 8 bits span its range."""
    scale, middle = _interval(found.low, found.high, settings)
    _shift_by(edit, base, "Sub", middle)
    edit.quantize(base, scale, 8)
    _shift_by(edit, base, "Add", middle)


def _interval(low: float, high: float, settings: Settings) -> tuple[float, float]:
    """Scale and shift with which 8 bits span an interval."""
    if not settings.centre:
        low, high = -max(-low, high, 0.0), max(-low, high, 0.0)
    spread = KEPT * max(abs(low), abs(high)) - (high - low)
    low, high = low - max(spread, 0.0) / 2, high + max(spread, 0.0) / 2
    scale = (high - low) / 255 or 1.0
    scale = _power_of_two(scale) if settings.power_of_two else float(np.float32(scale))
    return scale, (float(np.float32(low + 128 * scale)) if settings.centre else 0.0)


def _shift_by(edit: Edit, name: str, op: str, value: float) -> None:
    if value:
        edit.append(name, op, np.array(value))


# Weights ---------------------------------------------------------------------------------


def _quantize_weights(edit: Edit, patterns: Patterns, shown: Mapping[str, Moments], settings: Settings) -> None:
    """Quantizes float weights; biases compensate the mean error of weight and input quantizers."""
    inputs = {}
    for name, whole in shown.items():
        for reader in readers(patterns, name) or ():
            means = (_column_means(part, reader.element) for part in (whole.mean, whole.rounded, whole.square))
            inputs[reader.product.node.outputs[0]] = Moments(*means)
    for product in _float_products(patterns):
        moment = inputs.get(product.node.outputs[0])
        scales = _weight_scales(product.weights, None if moment is None else moment.square, settings)
        made = on_grid(product.weights, scales, settings.weight_bits)
        edit.weights(product, made, scales, settings.weight_bits)
        if moment is not None and settings.correct:
            edit.add(product, product.weights @ moment.mean - made @ moment.rounded)


def _column_means(x: Floats, element: Ints) -> Floats:
    """Mean over rows of the factors with these flat indices; -1 is zero."""
    return np.asarray(np.where(element < 0, 0.0, x.reshape(-1)[element]).mean(axis=0))


def _weight_scales(weights: Floats, square: Floats | None, settings: Settings) -> Floats:
    """Scale per output channel: its range, or the share of it with the smallest error of the product."""
    largest = channel_scales(weights, settings.weight_bits)
    if settings.power_of_two:
        largest = 2.0 ** np.ceil(np.log2(largest))
    power = np.ones(weights.shape[1]) if square is None else square + square.mean() / 100 + 1e-30
    best, chosen = np.full(len(weights), np.inf), largest
    for share in _shares(settings):
        scales = (largest * share).astype(np.float32).astype(np.float64)
        error = (np.square(on_grid(weights, scales, settings.weight_bits) - weights) * power).sum(axis=1)
        chosen, best = np.where(error < best, scales, chosen), np.minimum(error, best)
    return chosen


def _shares(settings: Settings) -> tuple[float, ...]:
    """Candidate shares of a channel's range; with 8 bits and free scales only the full range."""
    if settings.power_of_two:
        return 1.0, 0.5
    return tuple(np.linspace(1.0, 0.5, 21)) if settings.weight_bits == 4 else (1.0,)
