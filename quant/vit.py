"""A pre-norm vision transformer, as float network or with power-of-two quantizers.

Both forms have the same parameter names. The quantized one carries brevitas
quantizers whose scales are powers of two: int8 per tensor between layers, int8
narrow range per output channel for weights, and one signed 16-bit scale for the
whole residual stream. Biases are integers at input scale times weight scale.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import brevitas.nn as qnn
import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.quant.fixed_point import Int8ActPerTensorFixedPoint, Int8WeightPerChannelFixedPoint
from brevitas.quant.scaled_int import Int32Bias
from torch import Tensor, nn

from codesign.quant.qat import IntegerNorm, IntegerSoftmaxAttention, IntegerTable

RESIDUAL_BITS = 16


@dataclass(frozen=True)
class VitConfig:
    """Shape of a vision transformer.

    Attributes:
        image: Height and width in pixels.
        patch: Height and width of a patch, divides `image`.
        channels: Image channels.
        width: Token width.
        heads: Attention heads, divides `width`.
        blocks: Transformer blocks.
        mlp: Hidden width of the feed-forward layers.
        classes: Outputs.
        activation: A name of `codesign.nonlinear.function_names`.
    """

    image: int = 8
    patch: int = 2
    channels: int = 1
    width: int = 64
    heads: int = 4
    blocks: int = 4
    mlp: int = 128
    classes: int = 10
    activation: str = "gelu"

    def __post_init__(self) -> None:
        for name in ("image", "patch", "channels", "width", "heads", "blocks", "mlp", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for whole, part in (("image", "patch"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{part} must divide {whole}, got {self}")

    @property
    def tokens(self) -> int:
        """Rows of the residual stream: patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


class Layers(Protocol):
    """Makes the layers of one form of the network."""

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """A linear layer with bias."""

    def patches(self, channels: int, width: int, size: int) -> nn.Module:
        """A convolution over disjoint patches, without bias."""

    def activation(self, bits: int = 8) -> nn.Module:
        """A quantizer; its output feeds non-linear functions and sums."""

    def operand(self) -> nn.Module:
        """An 8-bit quantizer whose output feeds a linear layer."""


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
        layer: nn.Module = qnn.QuantLinear(
            inputs, outputs, weight_quant=Int8WeightPerChannelFixedPoint, bias_quant=Int32Bias
        )
        return layer

    def patches(self, channels: int, width: int, size: int) -> nn.Module:
        """See `Layers`."""
        layer: nn.Module = qnn.QuantConv2d(
            channels,
            width,
            size,
            size,
            bias=False,
            weight_quant=Int8WeightPerChannelFixedPoint,
        )
        return layer

    def activation(self, bits: int = 8) -> nn.Module:
        """See `Layers`."""
        act = Int8ActPerTensorFixedPoint
        if bits != 8:
            act = _constant(bits, self.residual_scale)
        layer: nn.Module = qnn.QuantIdentity(act_quant=act, return_quant_tensor=False)
        return layer

    def operand(self) -> nn.Module:
        """See `Layers`."""
        act = Int8ActPerTensorFixedPoint
        layer: nn.Module = qnn.QuantIdentity(act_quant=act, return_quant_tensor=True)
        return layer


def _constant(bits: int, scale: float) -> type[Int8ActPerTensorFixedPoint]:
    """Return a signed activation quantizer with a fixed power-of-two scale."""
    members = {
        "bit_width": bits,
        "scaling_impl_type": ScalingImplType.CONST,
        "scaling_init": scale * 2.0 ** (bits - 1),
    }
    base = Int8ActPerTensorFixedPoint
    made: type[Int8ActPerTensorFixedPoint] = type(base)(f"Int{bits}ActFixed", (base,), members)
    return made


def scale_of(quantizer: nn.Module) -> float:
    """Return the scale of a calibrated activation quantizer."""
    return float(quantizer.act_quant.scale().detach())


class Block(nn.Module):
    """One pre-norm transformer block on the residual stream.

    Args:
        config: Shape of the network.
        layers: Makes the layers.
    """

    def __init__(self, config: VitConfig, layers: Layers) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.norm1_out = IntegerNorm(width), layers.operand()
        self.q, self.q_out = layers.linear(width, width), layers.activation()
        self.k, self.k_out = layers.linear(width, width), layers.activation()
        self.v, self.v_out = layers.linear(width, width), layers.activation()
        self.attention, self.attention_out = IntegerSoftmaxAttention(config.heads), layers.operand()
        self.proj = layers.linear(width, width)
        self.norm2, self.norm2_out = IntegerNorm(width), layers.operand()
        self.fc1, self.fc1_out = layers.linear(width, config.mlp), layers.activation()
        self.table, self.table_out = IntegerTable(config.activation), layers.operand()
        self.fc2 = layers.linear(config.mlp, width)

    def forward(self, r: Tensor, residual: nn.Module) -> Tensor:
        """Return the residual stream after this block; `residual` quantizes to 16 bit."""
        x = self.norm1_out(self.norm1(r))
        q, k, v = self.q_out(self.q(x)), self.k_out(self.k(x)), self.v_out(self.v(x))
        x = self.attention_out(self.attention(q, k, v))
        r = residual(r + residual(self.proj(x)))
        x = self.fc1_out(self.fc1(self.norm2_out(self.norm2(r))))
        x = self.table_out(self.table(x))
        out: Tensor = residual(r + residual(self.fc2(x)))
        return out

    def freeze(self, residual_scale: float) -> None:
        """Let the non-linear functions compute integers at the quantizers' scales."""
        self.norm1.freeze(residual_scale, scale_of(self.norm1_out))
        self.norm2.freeze(residual_scale, scale_of(self.norm2_out))
        q, k, v = (scale_of(x) for x in (self.q_out, self.k_out, self.v_out))
        self.attention.freeze(q, k, v, scale_of(self.attention_out))
        self.table.freeze(scale_of(self.fc1_out), scale_of(self.table_out))


class VisionTransformer(nn.Module):
    """Patch embedding, class token, positions, blocks, and a linear head on the class token.

    Args:
        config: Shape of the network.
        layers: `FloatLayers` or `QuantLayers`.
    """

    def __init__(self, config: VitConfig, layers: Layers) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.pixels = layers.operand()
        self.embed = layers.patches(config.channels, width, config.patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, config.tokens, width) * 0.02)
        self.residual = layers.activation(RESIDUAL_BITS)
        self.blocks = nn.ModuleList(Block(config, layers) for _ in range(config.blocks))
        self.norm, self.norm_out = IntegerNorm(width), layers.operand()
        self.head = layers.linear(width, config.classes)
        self.logits = layers.activation(RESIDUAL_BITS)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [batch, classes] of images [batch, channels, height, width]."""
        patches = self.residual(self.embed(self.pixels(image)))
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.residual(self.class_token).expand(image.shape[0], -1, -1)
        r = self.residual(torch.cat([first, tokens], dim=1) + self.residual(self.positions))
        for block in self.blocks:
            r = block(r, self.residual)
        out: Tensor = self.logits(self.head(self.norm_out(self.norm(r[:, 0]))))
        return out

    def freeze(self) -> None:
        """Compute the exact integers from now on (quantized and calibrated form only)."""
        scale = scale_of(self.residual)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.freeze(scale)
        self.norm.freeze(scale, scale_of(self.norm_out))

    def release(self) -> None:
        """Compute float non-linear functions again."""
        for module in self.modules():
            if isinstance(module, IntegerNorm | IntegerSoftmaxAttention | IntegerTable):
                module.release()


@contextmanager
def float_functions(model: VisionTransformer) -> Iterator[VisionTransformer]:
    """Within the block, softmax, norms and activation functions of `model` are float."""
    model.release()
    try:
        yield model
    finally:
        model.freeze()


def load_float(model: VisionTransformer, trained: VisionTransformer) -> None:
    """Copy the parameters of a float network into the quantized form of the same shape.

    Raises:
        ValueError: a parameter has no counterpart (quantizers' own state excepted).
    """
    missing, unexpected = model.load_state_dict(trained.state_dict(), strict=False)
    lost = [name for name in missing if "_quant." not in name]
    if lost or unexpected:
        raise ValueError(f"parameters without counterpart: {sorted([*lost, *unexpected])}")


def freeze_scales(model: nn.Module) -> None:
    """Stop the training of activation scales, so that they stay as calibrated."""
    for name, parameter in model.named_parameters():
        if ".act_quant." in name or name.startswith("act_quant."):
            parameter.requires_grad_(False)


def largest_residual(model: VisionTransformer, images: Tensor) -> float:
    """Return the largest magnitude of the residual stream and logits of a float network."""
    largest = [0.0]

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        largest[0] = max(largest[0], float(output.detach().abs().max()))

    hooks = [layer.register_forward_hook(watch) for layer in (model.residual, model.logits)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return largest[0]
