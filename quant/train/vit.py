"""A pre-norm vision transformer, in float or with power-of-two quantizers.

Both forms have the same parameter names. The quantized one carries brevitas
quantizers whose scales are powers of two: int8 per tensor between layers, int8
narrow range per output channel for weights, and one signed 16-bit scale for the
whole residual stream. Biases are integers at input scale times weight scale.

Every second block may hold a mixture of experts instead of its feed-forward layers.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codesign.quant.train.layers import RESIDUAL_BITS, Layers, scale_of
from codesign.quant.train.qat import Freezable, IntegerGates, IntegerNorm, IntegerSoftmaxAttention, IntegerTable


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
        activation: A name of `codesign.numerics.nonlinear.function_names`.
        experts: Experts of the mixture in every second block; 0 for feed-forward layers there too.
        chosen: Experts per token, 1 or 2 and below `experts`; float32 sums of up to two are exact.
        expert_mlp: Hidden width of an expert.
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
    experts: int = 0
    chosen: int = 2
    expert_mlp: int = 64

    def __post_init__(self) -> None:
        for name in ("image", "patch", "channels", "width", "heads", "blocks", "mlp", "classes", "expert_mlp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for whole, part in (("image", "patch"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{part} must divide {whole}, got {self}")
        if self.experts and not (1 <= self.chosen <= 2 and self.chosen < self.experts):
            raise ValueError(f"chosen must be 1 or 2 and below experts, got {self.chosen} of {self.experts}")

    @property
    def tokens(self) -> int:
        """Rows of the residual stream: patches and the class token."""
        return (self.image // self.patch) ** 2 + 1


class Block(nn.Module):
    """A pre-norm transformer block on the residual stream; subclasses define the part after attention.

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

    def forward(self, r: Tensor, residual: nn.Module) -> Tensor:
        """Returns the residual stream after this block; `residual` quantizes to 16 bit."""
        x = self.norm1_out(self.norm1(r))
        q, k, v = self.q_out(self.q(x)), self.k_out(self.k(x)), self.v_out(self.v(x))
        x = self.attention_out(self.attention(q, k, v))
        r = residual(r + residual(self.proj(x)))
        return residual(r + residual(self.second(self.norm2_out(self.norm2(r)), residual)))

    def second(self, x: Tensor, residual: nn.Module) -> Tensor:
        """Returns the addend of the block's second half to the residual stream."""
        raise NotImplementedError

    def freeze(self, residual_scale: float) -> None:
        """Switches the non-linear functions to integers at the quantizers' scales."""
        self.norm1.freeze(residual_scale, scale_of(self.norm1_out))
        self.norm2.freeze(residual_scale, scale_of(self.norm2_out))
        q, k, v = (scale_of(x) for x in (self.q_out, self.k_out, self.v_out))
        self.attention.freeze(q, k, v, scale_of(self.attention_out))


class _FeedForward:
    """Mixin with a linear layer, a table and a linear layer."""

    def make(self, config: VitConfig, hidden: int, layers: Layers) -> None:
        """Adds the layers, with hidden width ``hidden``."""
        self.fc1, self.fc1_out = layers.linear(config.width, hidden), layers.activation()
        self.table, self.table_out = IntegerTable(config.activation), layers.operand()
        self.fc2 = layers.linear(hidden, config.width)

    def feed(self, x: Tensor) -> Tensor:
        """Returns the output of the second linear layer."""
        x = self.fc1_out(self.fc1(x))
        return self.fc2(self.table_out(self.table(x)))

    def freeze_table(self) -> None:
        """Switches the table to integers at the quantizers' scales."""
        self.table.freeze(scale_of(self.fc1_out), scale_of(self.table_out))


class DenseBlock(_FeedForward, Block):
    """A block with feed-forward layers for all tokens."""

    def __init__(self, config: VitConfig, layers: Layers) -> None:
        super().__init__(config, layers)
        self.make(config, config.mlp, layers)

    def second(self, x: Tensor, residual: nn.Module) -> Tensor:
        """See `Block`."""
        return self.feed(x)

    def freeze(self, residual_scale: float) -> None:
        """See `Block`."""
        super().freeze(residual_scale)
        self.freeze_table()


class Expert(_FeedForward, nn.Module):
    """The feed-forward layers of one expert."""

    def __init__(self, config: VitConfig, layers: Layers) -> None:
        super().__init__()
        self.make(config, config.expert_mlp, layers)

    def forward(self, x: Tensor) -> Tensor:
        """See `_FeedForward.feed`."""
        return self.feed(x)


class MixtureBlock(Block):
    """A block with a router and experts, of which each token uses the most probable ones.

    Every expert is computed for every token here; gates of the others are zero.
    """

    def __init__(self, config: VitConfig, layers: Layers) -> None:
        super().__init__(config, layers)
        self.router, self.router_out = layers.linear(config.width, config.experts), layers.activation()
        self.gates, self.gates_out = IntegerGates(config.chosen), layers.gates()
        self.experts = nn.ModuleList(Expert(config, layers) for _ in range(config.experts))

    def second(self, x: Tensor, residual: nn.Module) -> Tensor:
        """See `Block`; the experts' outputs are 16 bit before they are weighted and added."""
        gates = self.gates_out(self.gates(self.router_out(self.router(x))))
        parts = [gates[..., i : i + 1] * residual(expert(x)) for i, expert in enumerate(self.experts)]
        return functools.reduce(torch.add, parts)

    def freeze(self, residual_scale: float) -> None:
        """See `Block`."""
        super().freeze(residual_scale)
        self.gates.freeze(scale_of(self.router_out))
        for expert in self.experts:
            assert isinstance(expert, Expert)
            expert.freeze_table()


def _block(config: VitConfig, index: int) -> type[Block]:
    """Block class at an index: with experts every second block is a mixture, as in M3ViT."""
    return MixtureBlock if config.experts and index % 2 else DenseBlock


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
        self.blocks = nn.ModuleList(_block(config, i)(config, layers) for i in range(config.blocks))
        self.norm, self.norm_out = IntegerNorm(width), layers.operand()
        self.head = layers.linear(width, config.classes)
        self.logits = layers.activation(RESIDUAL_BITS)

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits [batch, classes] of images [batch, channels, height, width]."""
        patches = self.residual(self.embed(self.pixels(image)))
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.residual(self.class_token).expand(image.shape[0], -1, -1)
        r = self.residual(torch.cat([first, tokens], dim=1) + self.residual(self.positions))
        for block in self.blocks:
            r = block(r, self.residual)
        return self.logits(self.head(self.norm_out(self.norm(r[:, 0]))))

    def freeze(self) -> None:
        """Switches to exact integers (quantized and calibrated form only)."""
        scale = scale_of(self.residual)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.freeze(scale)
        self.norm.freeze(scale, scale_of(self.norm_out))

    def release(self) -> None:
        """Switches back to float non-linear functions."""
        for module in self.modules():
            if isinstance(module, Freezable):
                module.release()


@contextmanager
def float_functions(model: VisionTransformer) -> Iterator[VisionTransformer]:
    """Context with float softmax, norms and activation functions in `model`; exits by `freeze`."""
    model.release()
    try:
        yield model
    finally:
        model.freeze()


def load_float(model: VisionTransformer, trained: VisionTransformer) -> None:
    """Copies the parameters of a float network into the quantized form of the same shape.

    Raises:
        ValueError: a parameter has no counterpart (quantizers' own state excepted).
    """
    missing, unexpected = model.load_state_dict(trained.state_dict(), strict=False)
    lost = [name for name in missing if "_quant." not in name]
    if lost or unexpected:
        raise ValueError(f"parameters without counterpart: {sorted([*lost, *unexpected])}")


def freeze_scales(model: nn.Module) -> None:
    """Stops the training of activation scales, so that they stay as calibrated."""
    for name, parameter in model.named_parameters():
        if ".act_quant." in name or name.startswith("act_quant."):
            parameter.requires_grad_(False)


def largest_residual(model: VisionTransformer, images: Tensor) -> float:
    """Returns the largest magnitude of the residual stream and logits of a float network."""
    largest = [0.0]

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        largest[0] = max(largest[0], float(output.detach().abs().max()))

    hooks = [layer.register_forward_hook(watch) for layer in (model.residual, model.logits)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return largest[0]
