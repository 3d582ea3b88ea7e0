"""The built-in models, built from the shape of a sample and the number of classes.

Shape suffixes: B batch, C channels, H height, W width, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from meshtrain.errors import UserError

IMAGE_SIDE_MIN = 4
"""The convolutional models halve each side twice."""
HIDDEN_F = 64

Shape = tuple[int, ...]


def _softmax(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(_features(shape), classes))


def _mlp(shape: Shape, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(_features(shape), 2 * HIDDEN_F),
        nn.ReLU(),
        nn.Linear(2 * HIDDEN_F, HIDDEN_F),
        nn.ReLU(),
        nn.Linear(HIDDEN_F, classes),
    )


def _cnn_of_width(width: int) -> Callable[[Shape, int], nn.Module]:
    def build_cnn(shape: Shape, classes: int) -> nn.Module:
        if len(shape) != 3 or min(shape[1:]) < IMAGE_SIDE_MIN:
            raise UserError(
                f"a convolutional model needs images of at least {IMAGE_SIDE_MIN} x "
                f"{IMAGE_SIDE_MIN} pixels, but a sample has the shape {list(shape)}. "
                "Use model mlp or softmax, or give the data as (N, height, width)."
            )
        channels, height, width_px = shape
        flat_F = 2 * width * (height // 4) * (width_px // 4)
        return nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(flat_F, 4 * width),
            nn.ReLU(),
            nn.Linear(4 * width, classes),
        )

    return build_cnn


def _features(shape: Shape) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


_BUILDERS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "softmax": _softmax,
    "mlp": _mlp,
    "cnn": _cnn_of_width(16),  # 13,706 parameters on 1 x 8 x 8 digits
    "cnn_wide": _cnn_of_width(32),  # 53,002
}


def build_model(name: str, *, sample_shape: Shape, classes: int, seed: int) -> nn.Module:
    """A freshly initialised model; the same seed gives the same weights.

    Args:
        name: one of `meshtrain.spec.training_keys.MODELS`.
        sample_shape: shape of one sample, (F,) or (C, H, W).
        classes: number of classes K.
        seed: for the initial weights.

    Raises:
        UserError: there is no such model, or it can't take samples of this shape.
    """
    builder = _BUILDERS.get(name)
    if builder is None:
        raise UserError(f"there is no model {name!r}; the models are {', '.join(_BUILDERS)}.")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return builder(sample_shape, classes)


def parameter_count(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(parameter.numel() for parameter in model.parameters())
