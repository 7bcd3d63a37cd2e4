"""Trainable torch modules that compute the integers of `codesign.numerics.nonlinear`.

Each module starts as its float function. After ``freeze`` its output is the exact integer
result (in torch int64 arithmetic, bit-identical to `codesign.numerics.nonlinear`) times the
output scale, while gradients are those of the float function. Inputs of a frozen module
are floats that are integer multiples of its input scales, as quantizers produce.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from codesign.numerics import moe, nonlinear
from codesign.numerics.fixed_point import requantizer

Requantizer: TypeAlias = tuple[int, int]


# Integer arithmetic, int64 tensors in and out --------------------------------


def round_half_even(x: Tensor, shift: Tensor | int) -> Tensor:
    """Returns ``x / 2**shift`` rounded half to even, shift 0..63; see `codesign.numerics.fixed_point`."""
    places = torch.as_tensor(shift, dtype=torch.int64, device=x.device)
    floor = x >> places
    remainder = x - (floor << places)
    half = torch.ones_like(places) << (places - 1).clamp(min=0)
    return floor + (remainder > half - (floor & 1)).to(torch.int64)


def bit_length(x: Tensor) -> Tensor:
    """Returns the bit length of each non-negative value (0 for 0)."""
    guess = torch.frexp(x.to(torch.float64)).exponent.to(torch.int64)
    overshoot = (x >> (guess - 1).clamp(min=0, max=63)) == 0
    return guess - (overshoot & (guess > 0)).to(torch.int64)


def isqrt(x: Tensor) -> Tensor:
    """Returns the floor of the square root of each value in 0..2**62."""
    root = torch.sqrt(x.to(torch.float64)).to(torch.int64)
    root = root - (root * root > x).to(torch.int64)
    return root + (x - root * root > 2 * root).to(torch.int64)


def integer_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Returns ``a @ b`` for products whose sums of magnitudes stay below 2**53."""
    return (a.to(torch.float64) @ b.to(torch.float64)).to(torch.int64)


def integer_softmax_weights(scores: Tensor, valid: Tensor, requantize: Requantizer) -> tuple[Tensor, Tensor]:
    """Returns (e, sum of e) as `nonlinear.softmax_weights` does."""
    table = torch.as_tensor(np.array(nonlinear.exp_table()), device=scores.device)
    lowest = torch.full_like(scores, -(1 << 24))
    top = torch.where(valid, scores, lowest).amax(dim=-1, keepdim=True)
    distance = torch.where(valid, top - scores, torch.zeros_like(scores))
    index = round_half_even(distance * requantize[0], requantize[1])
    e = table[index.clamp(0, nonlinear.EXP_ENTRIES - 1)] * valid.to(torch.int64)
    return e, e.sum(dim=-1)


def integer_normalize(acc: Tensor, total: Tensor, requantize: Requantizer) -> Tensor:
    """Returns `nonlinear.normalize` of sums [..., d] by row totals [...]."""
    sums = total[..., None]
    places = bit_length(sums) - 1
    multiplier = torch.full_like(sums, requantize[0])
    quotient = torch.div(multiplier << places, sums, rounding_mode="floor")
    return round_half_even(acc * quotient, places + requantize[1]).clamp(-128, 127)


def integer_norm(r: Tensor, gain: Tensor, bias: Tensor, shift: int, eps: int, rms: bool = False) -> Tensor:
    """Returns `nonlinear.norm` over the last axis of `r`."""
    width = r.shape[-1]
    s1 = torch.zeros_like(r[..., :1]) if rms else r.sum(dim=-1, keepdim=True)
    s2 = (r * r).sum(dim=-1, keepdim=True)
    variance = (width * s2 - s1 * s1 + eps).clamp(min=1)
    e = (34 - bit_length(variance)) >> 1
    v = (variance << (2 * e).clamp(min=0)) >> (-2 * e).clamp(min=0)
    unit = torch.full_like(v, 1 << 33)
    reciprocal = torch.div(unit, isqrt(v), rounding_mode="floor").clamp(max=(1 << 17) - 1)
    z = round_half_even((width * r - s1) * reciprocal, 23 - e).clamp(-(1 << 17), (1 << 17) - 1)
    return round_half_even(z * gain + bias, shift).clamp(-128, 127)


def integer_gates(logits: Tensor, chosen: int, requantize: Requantizer) -> Tensor:
    """Returns `moe.gates` of logits [..., experts]."""
    e, total = integer_softmax_weights(logits, torch.ones_like(logits, dtype=torch.bool), requantize)
    sums = total[..., None]
    places = bit_length(sums) - 1
    quotient = torch.div(torch.full_like(sums, 1 << 16) << places, sums, rounding_mode="floor")
    shares = round_half_even(e * quotient, places + 16 - moe.GATE_BITS)
    first = torch.sort(logits, dim=-1, descending=True, stable=True).indices[..., :chosen]
    kept = torch.zeros_like(logits).scatter(-1, first, 1)
    return kept * shares.clamp(1, moe.MAX_GATE)


# Modules ---------------------------------------------------------------------


class _StraightThrough(torch.autograd.Function):
    """Returns the exact value and passes the gradient to the float value unchanged."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(smooth: Tensor, integers: Tensor, scale: float) -> Tensor:
    """Returns ``integers * scale`` with the gradient of `smooth`."""
    exact = (integers.to(torch.float64) * scale).to(smooth.dtype)
    return _StraightThrough.apply(smooth, exact)


def to_integers(x: Tensor, scale: float) -> Tensor:
    """Returns ``x / scale`` as int64; `x` holds multiples of `scale` up to rounding noise."""
    return torch.round(x.detach().to(torch.float64) / scale).to(torch.int64)


class Freezable(nn.Module):
    """A module that computes floats until frozen, then exact integers; subclasses define ``freeze``.

    Attributes:
        scales: scales of inputs, then of the output, as far as the module needs them; None computes floats.
    """

    scales: tuple[float, ...] | None = None

    def release(self) -> None:
        """Switches back to the float function."""
        self.scales = None


class IntegerSoftmaxAttention(Freezable):
    """Multi-head softmax attention: float until frozen, then exact integers.

    Args:
        heads: Number of heads; divides the width.
        mask: "full", "causal" or "sliding", see `nonlinear.mask_interval`.
        window: Window of "sliding".
    """

    def __init__(self, heads: int, mask: str = "full", window: int | None = None) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}")
        self.heads, self.mask, self.window = heads, mask, window

    def freeze(self, scale_q: float, scale_k: float, scale_v: float, scale_out: float) -> None:
        """Switches to exact integers, with these scales of inputs and output."""
        self.scales = (scale_q, scale_k, scale_v, scale_out)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Computes attention: q [..., rows, width], k and v [..., keys, width] -> [..., rows, width]."""
        smooth = self._merge(self._smooth(*(self._split(x) for x in (q, k, v))))
        if self.scales is None:
            return smooth
        parts = zip((q, k, v), self.scales, strict=False)
        exact = self._exact(*(self._split(to_integers(x, scale)) for x, scale in parts))
        return straight_through(smooth, self._merge(exact), self.scales[3])

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(-3, -2)

    def _merge(self, x: Tensor) -> Tensor:
        return x.transpose(-3, -2).flatten(-2)

    def _valid(self, rows: int, keys: int, device: torch.device) -> Tensor:
        lo, hi = nonlinear.mask_interval(self.mask, rows, keys, self.window)
        column = np.arange(keys)
        return torch.as_tensor((lo[:, None] <= column) & (column < hi[:, None]), device=device)

    def _smooth(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]))
        if self.mask != "full":
            valid = self._valid(q.shape[-2], k.shape[-2], q.device)
            scores = scores.masked_fill(~valid, -math.inf)
        return functional.softmax(scores, dim=-1) @ v

    def _exact(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self.scales is not None
        scale_q, scale_k, scale_v, scale_out = self.scales
        step = 128 * scale_q * scale_k / math.sqrt(q.shape[-1])
        valid = self._valid(q.shape[-2], k.shape[-2], q.device)
        scores = integer_matmul(q, k.transpose(-2, -1))
        e, total = integer_softmax_weights(scores, valid, requantizer(step))
        return integer_normalize(integer_matmul(e, v), total, requantizer(scale_v / scale_out))


class IntegerNorm(Freezable):
    """Layer norm or RMS norm over the last axis: float until frozen, then exact integers.

    The integer gain and bias follow `weight` and `bias` as these are trained.

    Args:
        width: Row length, 2..1024.
        eps: Added to the variance.
        rms: RMS norm: no mean is subtracted, and there is no bias.
    """

    def __init__(self, width: int, eps: float = 1e-5, rms: bool = False) -> None:
        super().__init__()
        self.width, self.eps, self.rms = width, eps, rms
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = None if rms else nn.Parameter(torch.zeros(width))

    def freeze(self, scale_in: float, scale_out: float) -> None:
        """Switches to exact integers, with these scales of input and output."""
        self.scales = (scale_in, scale_out)

    def parameters_of(self, scale_in: float, scale_out: float) -> tuple[Tensor, Tensor, int, int]:
        """Returns the integers (gain, bias, shift, eps) of `nonlinear.norm_parameters`."""
        # ONNX stores epsilon in 32 bits: use the value that an importer reads.
        eps = float(np.float32(self.eps))
        beta = np.zeros(self.width) if self.bias is None else self.bias.detach().cpu().numpy()
        gain, bias, shift, units = nonlinear.norm_parameters(
            self.weight.detach().cpu().numpy(), beta, eps, scale_in, scale_out, self.width
        )
        device = self.weight.device
        return torch.as_tensor(gain, device=device), torch.as_tensor(bias, device=device), shift, units

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis of `x`, any leading shape."""
        if self.rms:
            smooth = functional.rms_norm(x, (self.width,), self.weight, self.eps)
        else:
            smooth = functional.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)
        if self.scales is None:
            return smooth
        gain, bias, shift, eps = self.parameters_of(*self.scales)
        exact = integer_norm(to_integers(x, self.scales[0]), gain, bias, shift, eps, self.rms)
        return straight_through(smooth, exact, self.scales[1])


class IntegerGates(Freezable):
    """Gates of a mixture of experts: float until frozen, then exact integers.

    A softmax over all experts with all but the most probable set to zero, not renormalised.

    Args:
        chosen: Experts that each token uses.
    """

    def __init__(self, chosen: int) -> None:
        super().__init__()
        if chosen < 1:
            raise ValueError(f"chosen must be at least 1, got {chosen}")
        self.chosen = chosen

    def freeze(self, scale_in: float) -> None:
        """Switches to exact integers, with this scale of the logits."""
        self.scales = (scale_in,)

    def forward(self, logits: Tensor) -> Tensor:
        """Returns the gates [..., experts] of logits [..., experts]."""
        smooth = functional.softmax(logits, dim=-1)
        if self.scales is None:
            first = smooth.topk(self.chosen, dim=-1)
            return torch.zeros_like(smooth).scatter(-1, first.indices, first.values)
        (scale,) = self.scales
        exact = integer_gates(to_integers(logits, scale), self.chosen, requantizer(128 * scale))
        return straight_through(smooth * (exact > 0), exact, moe.GATE_SCALE)


def _smooth_functions() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "identity": lambda x: x,
        "relu": functional.relu,
        "sigmoid": torch.sigmoid,
        "silu": functional.silu,
        "tanh": torch.tanh,
    }


class IntegerTable(Freezable):
    """A function of one variable: float until frozen, then a table of 256 entries.

    Args:
        function: A name of `nonlinear.function_names`.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        known = _smooth_functions()
        if function not in known:
            raise ValueError(f"function must be one of {', '.join(known)}, got {function!r}")
        self.function, self._smooth = function, known[function]

    def freeze(self, scale_in: float, scale_out: float) -> None:
        """Switches to the integer table, with these scales of input and output."""
        self.scales = (scale_in, scale_out)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the function to every element."""
        smooth = self._smooth(x)
        if self.scales is None:
            return smooth
        entries = nonlinear.table(self.function, *self.scales).astype(np.int64)
        exact = torch.as_tensor(entries, device=x.device)[to_integers(x, self.scales[0]) & 255]
        return straight_through(smooth, exact, self.scales[1])
