"""Trains, quantizes and exports the shipped digit classifiers.

``python -m codesign.quant.train.train_digits --out DIR`` writes

* ``digits-vit.onnx`` (QONNX): a vision transformer with power-of-two scales;
* ``digits-mlp.onnx`` (QONNX) and ``digits-mlp-qcdq.onnx`` (QCDQ): a small ReLU network;
* ``digits-moe-vit.onnx`` (QONNX): the transformer with a mixture of 4 experts in every second block;
* ``digits-heldout.npz``: the test images, named like the models' input, and labels;
* ``digits-logits.npz``: the exact integer logits, as torch computes them, of these images
  (arrays ``vit``, ``mlp`` and ``moe-vit``).

``--models`` trains some of them; the folder's logits of the others are kept.

Data are the 1797 digits of scikit-learn, split by a fixed seed: 1197 to train, 200 for validation
(choice of epochs and scales), 400 to test. The test part is read only once, at the end.
"""

import argparse
import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from codesign.quant.interop.export import export_model
from codesign.quant.train.layers import FloatLayers, QuantLayers, scale_of
from codesign.quant.train.mlp import QuantMlp
from codesign.quant.train.vit import (
    VisionTransformer,
    VitConfig,
    float_functions,
    freeze_scales,
    largest_residual,
    load_float,
)

SPLIT_SEED = 0
TRAIN, VALIDATION = 1197, 200
MIXTURE = VitConfig(experts=4, chosen=2, expert_mlp=64)
"""The transformer with experts; two experts are as wide as the plain one's feed-forward layers."""


@dataclass(frozen=True)
class Part:
    """Images [n, 1, 8, 8] in 0..1 (multiples of 1/16) and labels [n]."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Digits:
    """Training, validation and test data."""

    train: Part
    validation: Part
    test: Part


def load_parts() -> Digits:
    """Returns the digits, split by `SPLIT_SEED`."""
    raw = load_digits()
    images = torch.tensor(raw.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(raw.target, dtype=torch.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    cuts = np.split(order, [TRAIN, TRAIN + VALIDATION])
    return Digits(*(Part(images[i], labels[i]) for i in map(torch.as_tensor, cuts)))


def augment(images: Tensor, generator: torch.Generator, strength: float = 0.7) -> Tensor:
    """Rotates, scales, shears and shifts each image at random.

    At strength 1: 12 degrees, 15 % (10 % more in x), a quarter, and one pixel.
    """

    def draw(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit * strength

    angle, size, stretch = draw(0.21), 1 + draw(0.15), 1 + draw(0.1)
    shear, right, down = draw(0.25) / strength, draw(0.25), draw(0.25)
    cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
    rows = [
        torch.stack([cos * stretch, shear - sin, right], 1),
        torch.stack([sin * stretch, cos, down], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def accuracy(model: nn.Module, part: Part) -> float:
    """Returns the share of correct answers, in percent."""
    return _evaluate(model, part)[0]


def _evaluate(model: nn.Module, part: Part) -> tuple[float, float]:
    """Returns the accuracy in percent and the negative cross entropy."""
    model.eval()
    with torch.no_grad():
        logits = model(part.images)
    right = (logits.argmax(1) == part.labels).to(torch.float64).mean()
    return 100 * float(right), -float(functional.cross_entropy(logits, part.labels))


@dataclass(frozen=True)
class Recipe:
    """Training recipe: AdamW, linear warm-up over 100 steps, cosine to 0, label smoothing 0.1."""

    epochs: int
    rate: float
    decay: float
    seed: int
    batch: int = 128
    strength: float = 0.7


def train(model: nn.Module, data: Digits, recipe: Recipe) -> Iterator[int]:
    """Trains on augmented images; yields the number of each finished epoch."""
    generator = torch.Generator().manual_seed(recipe.seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=recipe.decay)
    per_epoch = len(data.train.labels) // recipe.batch
    steps = recipe.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    for epoch in range(recipe.epochs):
        model.train()
        order = torch.randperm(len(data.train.labels), generator=generator)
        for chosen in order[: per_epoch * recipe.batch].split(recipe.batch):
            logits = model(augment(data.train.images[chosen], generator, recipe.strength))
            loss = functional.cross_entropy(logits, data.train.labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
        yield epoch + 1


def _rate(step: int, steps: int) -> float:
    """Returns the factor of the learning rate at a step."""
    return min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def fit(model: nn.Module, data: Digits, recipe: Recipe) -> None:
    """Trains and keeps the weights of the best epoch of the second half.

    Best is the highest accuracy on the validation part, then the smallest loss there.
    """
    best, kept = (-1.0, 0.0), copy.deepcopy(model.state_dict())
    for epoch in train(model, data, recipe):
        late, shown = 2 * epoch > recipe.epochs, epoch % max(1, recipe.epochs // 10) == 0
        score = _evaluate(model, data.validation) if late or shown else best
        if late and score > best:
            best, kept = score, copy.deepcopy(model.state_dict())
        if shown:
            print(f"  epoch {epoch}: validation {score[0]:.1f} %", flush=True)
    model.load_state_dict(kept)
    model.eval()


def float_vit(data: Digits, recipe: Recipe, config: VitConfig) -> VisionTransformer:
    """Returns the trained float network."""
    torch.manual_seed(recipe.seed)
    model = VisionTransformer(config, FloatLayers())
    fit(model, data, recipe)
    return model


def calibrated_vit(trained: VisionTransformer, data: Digits) -> VisionTransformer:
    """Returns the quantized network with calibrated scales, computing exact integers.

    The residual scale leaves a factor of two above the largest value seen.
    """
    images = data.train.images
    bound = 2.0 ** math.ceil(math.log2(2 * largest_residual(trained, images)))
    model = VisionTransformer(trained.config, QuantLayers(bound / 2**15))
    load_float(model, trained)
    calibrate(model, images)
    model.freeze()
    return model


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Sets activation scales from images, then stops their training."""
    with torch.no_grad(), calibration_mode(model):
        for chunk in images.split(100):
            model(chunk)
    freeze_scales(model)
    model.eval()


def correct_biases(model: nn.Module, images: Tensor) -> None:
    """Shifts biases so that each layer's mean output equals that of the float layer."""
    with torch.no_grad(), bias_correction_mode(model, skip_if_no_bias=True):
        for chunk in images.split(100):
            model(chunk)


def quantized_vit(data: Digits, trained: VisionTransformer, recipe: Recipe) -> VisionTransformer:
    """Calibrates, corrects biases and trains with quantization; prints each step's accuracy."""
    model = calibrated_vit(trained, data)
    print(f"  calibrated: validation {accuracy(model, data.validation):.1f} %", flush=True)
    with float_functions(model):
        correct_biases(model, data.train.images)
    print(f"  biases corrected: validation {accuracy(model, data.validation):.1f} %", flush=True)
    fit(model, data, recipe)
    return model


def quantized_mlp(data: Digits, recipe: Recipe) -> QuantMlp:
    """Returns the small ReLU network, trained with quantization from the start."""
    torch.manual_seed(recipe.seed)
    model = QuantMlp()
    fit(model, data, recipe)
    return model


def integer_logits(model: VisionTransformer | QuantMlp, images: Tensor) -> npt.NDArray[np.int16]:
    """Returns the integer logits of each image, shape [n, classes]."""
    model.eval()
    with torch.no_grad():
        logits = model(images).to(torch.float64) / scale_of(model.logits)
    return np.asarray(torch.round(logits).numpy().astype(np.int16))


def write_heldout(folder: Path, data: Digits) -> None:
    """Writes the test images and their labels."""
    images, labels = data.test.images, data.test.labels
    np.savez_compressed(folder / "digits-heldout.npz", image=images.numpy(), label=labels.numpy())


def write(folder: Path, data: Digits, name: str, model: VisionTransformer | QuantMlp) -> None:
    """Writes a model's files, listed at the top of this module, and its integer logits."""
    images, names = data.test.images, {"inputs": "image", "outputs": "logits"}
    _add_logits(folder / "digits-logits.npz", name.removeprefix("digits-"), integer_logits(model, images))
    with float_functions(model) if isinstance(model, VisionTransformer) else nullcontext():
        export_model(model, images[:1], folder / f"{name}.onnx", form="qonnx", **names)
    if isinstance(model, QuantMlp):
        export_model(model, images[:1], folder / f"{name}-qcdq.onnx", form="qcdq", **names)


def _add_logits(path: Path, name: str, logits: npt.NDArray[np.int16]) -> None:
    """Adds or replaces one array of a file."""
    arrays: dict[str, npt.NDArray[np.int16]] = {}
    if path.exists():
        with np.load(path, allow_pickle=False) as found:
            arrays.update(found)
    np.savez_compressed(path, allow_pickle=False, **{**arrays, name: logits})


def _line(data: Digits, name: str, model: nn.Module) -> str:
    """Returns a table row: accuracy on the validation and on the test part."""
    scores = accuracy(model, data.validation), accuracy(model, data.test)
    return f"{name:<24}{scores[0]:>14.2f}{scores[1]:>10.2f}"


def train_vit(data: Digits, options: argparse.Namespace, name: str) -> Iterator[str]:
    """Trains and writes a transformer; yields its table rows."""
    mixture = name == "digits-moe-vit"
    config = MIXTURE if mixture else VitConfig()
    epochs = options.moe_quantized_epochs if mixture else options.quantized_epochs
    print(f"{name}: float", flush=True)
    trained = float_vit(data, Recipe(options.epochs, 2e-3, 0.1, seed=0), config)
    print(f"{name}: quantized", flush=True)
    model = quantized_vit(data, trained, Recipe(epochs, 2e-4, 0.1, seed=1))
    write(options.out, data, name, model)
    yield _line(data, f"{name} float", trained)
    yield _line(data, f"{name} integer", model)


def train_mlp(data: Digits, options: argparse.Namespace, name: str) -> Iterator[str]:
    """Trains and writes the small ReLU network; yields its table row."""
    print(f"{name}: quantized", flush=True)
    model = quantized_mlp(data, Recipe(options.mlp_epochs, 5e-3, 0.01, seed=2))
    write(options.out, data, name, model)
    yield _line(data, f"{name} integer", model)


def _options() -> argparse.Namespace:
    makers = {"digits-vit": train_vit, "digits-mlp": train_mlp, "digits-moe-vit": train_vit}
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--models", nargs="+", choices=makers, default=list(makers), help="which to train")
    parser.add_argument("--epochs", type=int, default=200, help="of the float transformers")
    parser.add_argument("--quantized-epochs", type=int, default=20, help="with quantization")
    parser.add_argument("--moe-quantized-epochs", type=int, default=10, help="with quantization and experts")
    parser.add_argument("--mlp-epochs", type=int, default=200, help="of the ReLU network")
    parser.set_defaults(makers=makers)
    return parser.parse_args()


def main() -> None:
    """Trains, writes the files, prints the table."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = load_parts()
    write_heldout(options.out, data)
    lines = [line for name in options.models for line in options.makers[name](data, options, name)]
    print("\n".join([f"{'model':<24}{'validation %':>14}{'test %':>10}", *lines]))


if __name__ == "__main__":
    main()
