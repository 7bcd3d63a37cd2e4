"""Factories of network layers in two forms: float, or with power-of-two quantizers.

A network written against `Layers` has the same parameter names in both forms.
"""

import math
from typing import Protocol

import brevitas.nn as qnn
from brevitas.inject.enum import ScalingImplType
from brevitas.quant.fixed_point import (
    Int8ActPerTensorFixedPoint,
    Int8WeightPerChannelFixedPoint,
    Uint8ActPerTensorFixedPoint,
)
from brevitas.quant.scaled_int import Int32Bias
from torch import nn

RESIDUAL_BITS = 16


class Layers(Protocol):
    """Factory of the layers of one form of a network."""

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer with bias."""

    def patches(self, channels: int, width: int, size: int) -> nn.Module:
        """A convolution over disjoint patches, without bias."""

    def activation(self, bits: int = 8) -> nn.Module:
        """A quantizer whose output feeds non-linear functions and sums."""

    def operand(self) -> nn.Module:
        """An 8-bit quantizer whose output feeds a linear layer."""

    def gates(self) -> nn.Module:
        """An unsigned 8-bit quantizer of gates in 0..1."""


class FloatLayers:
    """Plain torch layers; quantizers are identities."""

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """See `Layers`."""
        return nn.Linear(inputs, outputs)

    def patches(self, channels: int, width: int, size: int) -> nn.Module:
        """See `Layers`."""
        return nn.Conv2d(channels, width, size, size, bias=False)

    def activation(self, bits: int = 8) -> nn.Module:
        """See `Layers`."""
        return nn.Identity()

    def operand(self) -> nn.Module:
        """See `Layers`."""
        return nn.Identity()

    def gates(self) -> nn.Module:
        """See `Layers`."""
        return nn.Identity()


class QuantLayers:
    """Brevitas layers with power-of-two scales.

    Args:
        residual_scale: Scale of every 16-bit quantizer, a power of two.
    """

    def __init__(self, residual_scale: float) -> None:
        if not residual_scale > 0 or math.frexp(residual_scale)[0] != 0.5:
            raise ValueError(f"residual_scale must be a power of two, got {residual_scale}")
        self.residual_scale = residual_scale

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """See `Layers`."""
        return qnn.QuantLinear(inputs, outputs, weight_quant=Int8WeightPerChannelFixedPoint, bias_quant=Int32Bias)

    def patches(self, channels: int, width: int, size: int) -> nn.Module:
        """See `Layers`."""
        weights = Int8WeightPerChannelFixedPoint
        return qnn.QuantConv2d(channels, width, size, size, bias=False, weight_quant=weights)

    def activation(self, bits: int = 8) -> nn.Module:
        """See `Layers`."""
        act = Int8ActPerTensorFixedPoint
        if bits != 8:
            act = _constant(act, bits, self.residual_scale * 2.0 ** (bits - 1))
        return qnn.QuantIdentity(act_quant=act, return_quant_tensor=False)

    def operand(self) -> nn.Module:
        """See `Layers`."""
        return qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, return_quant_tensor=True)

    def gates(self) -> nn.Module:
        """See `Layers`."""
        act = _constant(Uint8ActPerTensorFixedPoint, 8, 1.0)
        return qnn.QuantIdentity(act_quant=act, return_quant_tensor=False)


def _constant(base: type, bits: int, reach: float) -> type:
    """Returns an activation quantizer with a fixed power-of-two scale: ``reach`` is its largest magnitude."""
    members = {"bit_width": bits, "scaling_impl_type": ScalingImplType.CONST, "scaling_init": reach}
    made: type = type(base)(f"Int{bits}ActFixed", (base,), members)
    return made


def scale_of(quantizer: nn.Module) -> float:
    """Returns the scale of a calibrated activation quantizer."""
    return float(quantizer.act_quant.scale().detach())
