"""Random changes to training images, drawn anew for every batch.

Shape suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from meshtrain.errors import UserError

SHIFT_SHARE = 1 / 8
"""Of a side; one pixel for 8 x 8 images."""
AFFINE_ROTATION_RAD = math.radians(10)
AFFINE_SCALE = 0.1
AFFINE_SHEAR = 0.1


def augment(x_BCHW: torch.Tensor, kind: str, noise: torch.Generator) -> torch.Tensor:
    """A batch, changed at random.

    The random numbers are drawn on the CPU, so that a GPU run sees the same changes.

    Args:
        x_BCHW: the batch; with `none` it may have any shape.
        kind: one of `meshtrain.spec.training_keys.AUGMENTATIONS`: `none`; `shift`
            moves each image by up to an eighth of a side; `affine` also turns it by up
            to 10 degrees, scales it by up to a tenth, and shears it by as much.
        noise: a generator on the CPU.

    Raises:
        UserError: the samples are no images, or there is no such augmentation.
    """
    if kind == "none":
        return x_BCHW
    if x_BCHW.ndim != 4:
        raise UserError(
            f"augmentation {kind} needs images, but a sample has the shape "
            f"{list(x_BCHW.shape[1:])}. Use augmentation none."
        )
    if kind == "shift":
        return _shift(x_BCHW, noise)
    if kind == "affine":
        return _affine(x_BCHW, noise)
    raise UserError(f"there is no augmentation {kind!r}; use none, shift or affine.")


def _shift(x_BCHW: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    batch, _, height, width = x_BCHW.shape
    rows_max = max(1, round(height * SHIFT_SHARE))
    columns_max = max(1, round(width * SHIFT_SHARE))
    row_start_B = torch.randint(0, 2 * rows_max + 1, (batch,), generator=noise)
    column_start_B = torch.randint(0, 2 * columns_max + 1, (batch,), generator=noise)
    padded = functional.pad(x_BCHW, (columns_max, columns_max, rows_max, rows_max))
    rows_BH = (row_start_B[:, None] + torch.arange(height)).to(x_BCHW.device)
    columns_BW = (column_start_B[:, None] + torch.arange(width)).to(x_BCHW.device)
    images_B = torch.arange(batch, device=x_BCHW.device)
    picked_BHWC = padded.permute(0, 2, 3, 1)[
        images_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]
    ]
    return picked_BHWC.permute(0, 3, 1, 2).contiguous()


def _affine(x_BCHW: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    batch = x_BCHW.shape[0]
    turn, scale, shear, down, right = (
        2 * torch.rand((5, batch), generator=noise, dtype=torch.float32) - 1
    )
    angle = turn * AFFINE_ROTATION_RAD
    factor = 1 + scale * AFFINE_SCALE
    theta = torch.zeros((batch, 2, 3), dtype=torch.float32)
    theta[:, 0, 0] = factor * torch.cos(angle)
    theta[:, 0, 1] = -torch.sin(angle) + shear * AFFINE_SHEAR
    theta[:, 1, 0] = torch.sin(angle)
    theta[:, 1, 1] = factor * torch.cos(angle)
    # The grid spans -1 to 1, so a share of the side is twice that in its units.
    theta[:, 0, 2] = right * 2 * SHIFT_SHARE
    theta[:, 1, 2] = down * 2 * SHIFT_SHARE
    grid = functional.affine_grid(theta, list(x_BCHW.shape), align_corners=False)
    return functional.grid_sample(x_BCHW, grid.to(x_BCHW.device), align_corners=False)
