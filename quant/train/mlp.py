"""A small ReLU network with power-of-two quantizers, bit-identical across tools.

Every quantizer is signed 8 bit with a power-of-two scale, weights are narrow range
per tensor, and there are no biases: all accumulators are exact in float32, so
brevitas, onnxruntime and an integer golden return the same numbers.
"""

from itertools import pairwise

import brevitas.nn as qnn
from brevitas.quant.fixed_point import Int8ActPerTensorFixedPoint, Int8WeightPerTensorFixedPoint
from torch import Tensor, nn


class QuantMlp(nn.Module):
    """Linear layers with ReLU between them, quantized everywhere.

    Args:
        widths: Inputs, hidden widths and outputs, at least two numbers.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 32, 32, 10)) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths must be two or more positive numbers, got {widths}")
        layers: list[nn.Module] = [nn.Flatten(), _quantizer()]
        for inputs, outputs in pairwise(widths):
            if len(layers) > 2:
                layers += [nn.ReLU(), _quantizer()]
            layers.append(qnn.QuantLinear(inputs, outputs, bias=False, weight_quant=Int8WeightPerTensorFixedPoint))
        self.layers, self.logits = nn.Sequential(*layers), _quantizer()

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits [batch, classes] of images [batch, ...]."""
        return self.logits(self.layers(image))


def _quantizer() -> nn.Module:
    return qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint)
