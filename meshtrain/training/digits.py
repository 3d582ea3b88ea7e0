"""The built-in data: real handwritten digits, given to writers of synthetic styles.

The images are the 1,797 of scikit-learn's `load_digits` (8 x 8 pixels, the test
half of UCI's Optical Recognition of Handwritten Digits). The handwriting is
real. Who wrote what isn't recorded in the set, so the writers are made up:

- **Samples.** The images are dealt out, class by class in a fixed order, to
  `WRITERS_DISJOINT` hands of 224 or 225 images. A name ending in a number takes
  that hand (`w01` and `p01` the first, `w08` the eighth, `w09` the first again);
  any other name takes one by its digest. Writers 1 to 8 never share an image.
  Beyond them names share hands, and a run whose target shares a hand with a
  participant of the base is refused, because its test images would leak.
- **Style.** Every name has a style of its own, drawn from its digest: slant,
  rotation, width, height and weight of the stroke, the same for all its images.
  `w01` and `p01` hold the same images, written in two styles.

A run on this data shows how the method behaves when people differ in a known
way. It says nothing about how much real people differ.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from meshtrain.errors import UserError
from meshtrain.ids import digest

WRITERS_DISJOINT = 8
CLASSES = 10
SIDE_PX = 8

RAW_DIGEST = "d0ab247e7507469c7def82e9250cac7f"
"""Digest of the images and labels as scikit-learn 1.9 ships them."""

_NUMBERED = re.compile(r"(\d{1,9})\Z")

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Style(NamedTuple):
    """How a writer's digits differ from the originals."""

    slant: float
    """Sideways shift per unit of height."""
    rotation_rad: float
    width: float
    """Factor; below 1 is narrower."""
    height: float
    stroke: float
    """Above 0 thickens, below 0 thins; 1 is a whole pixel to each side."""


def style_of(writer: str) -> Style:
    """The style that belongs to a writer's name; the same on every machine.

    Args:
        writer: any name.
    """

    def uniform(trait: str, low: float, high: float) -> float:
        share = int(digest(f"style/{trait}/{writer}".encode())[:8], 16) / 0xFFFFFFFF
        return low + (high - low) * share

    return Style(
        slant=uniform("slant", -0.5, 0.5),
        rotation_rad=uniform("rotation", -0.35, 0.35),
        width=uniform("width", 0.7, 1.0),
        height=uniform("height", 0.75, 1.0),
        stroke=uniform("stroke", -0.2, 0.6),
    )


def hand_of(writer: str) -> int:
    """Which of the `WRITERS_DISJOINT` hands of images a writer holds, from 0.

    Args:
        writer: any name; a number at its end chooses the hand.
    """
    numbered = _NUMBERED.search(writer)
    if numbered is not None:
        return (int(numbered.group(1)) - 1) % WRITERS_DISJOINT
    return int(digest(f"hand/{writer}".encode())[:8], 16) % WRITERS_DISJOINT


def digits_of(writer: str) -> tuple[Images, Labels]:
    """All images of one writer, in the writer's style, and their labels.

    Args:
        writer: any name.

    Returns:
        Images of shape (N, 1, 8, 8) between 0 and 1, and N labels from 0 to 9.

    Raises:
        UserError: scikit-learn ships other images than those that results were measured on.
    """
    images, labels = read_originals()
    dealt = np.argsort(labels, kind="stable")[hand_of(writer) :: WRITERS_DISJOINT]
    styled = apply_style(images[dealt], style_of(writer))
    return styled[:, np.newaxis], labels[dealt]


def apply_style(images: Images, style: Style) -> Images:
    """Images of shape (N, H, W), redrawn in a style.

    Args:
        images: between 0 and 1, 0 being paper.
        style: how to redraw them.
    """
    return _stroke(_affine(images, style), style.stroke)


@lru_cache(maxsize=1)
def read_originals() -> tuple[Images, Labels]:
    """The images of shape (1797, 8, 8) as scikit-learn ships them, and their labels.

    Raises:
        UserError: these are other images than those that results were measured on.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    pixels = np.ascontiguousarray(raw.images.astype(np.uint8))
    labels = np.ascontiguousarray(raw.target.astype(np.int64))
    found = digest(pixels.tobytes() + labels.astype(np.uint8).tobytes())
    if found != RAW_DIGEST:
        raise UserError(
            f"scikit-learn's bundled digits have the digest {found}, not {RAW_DIGEST}: "
            "this release ships other images, and results would not compare. "
            "Install the release that constraints.txt names."
        )
    return (pixels / 16.0).astype(np.float32), labels


def _affine(images: Images, style: Style) -> Images:
    """Each output pixel looks up where it came from, between four neighbours."""
    count, height, width = images.shape
    rows, columns = np.meshgrid(
        np.arange(height, dtype=np.float64) - (height - 1) / 2,
        np.arange(width, dtype=np.float64) - (width - 1) / 2,
        indexing="ij",
    )
    cosine, sine = np.cos(style.rotation_rad), np.sin(style.rotation_rad)
    turned_rows = cosine * rows - sine * columns
    turned_columns = sine * rows + cosine * columns
    from_rows = turned_rows / style.height + (height - 1) / 2
    from_columns = (turned_columns + style.slant * turned_rows) / style.width + (width - 1) / 2

    low_rows = np.floor(from_rows).astype(np.int64)
    low_columns = np.floor(from_columns).astype(np.int64)
    row_share = from_rows - low_rows
    column_share = from_columns - low_columns
    drawn = np.zeros((count, height, width), dtype=np.float64)
    for row_step, row_weight in ((0, 1 - row_share), (1, row_share)):
        for column_step, column_weight in ((0, 1 - column_share), (1, column_share)):
            source_rows = low_rows + row_step
            source_columns = low_columns + column_step
            inside = (
                (source_rows >= 0)
                & (source_rows < height)
                & (source_columns >= 0)
                & (source_columns < width)
            )
            picked = images[:, source_rows.clip(0, height - 1), source_columns.clip(0, width - 1)]
            drawn += picked * (row_weight * column_weight * inside)
    return drawn.astype(np.float32)


def _stroke(images: Images, weight: float) -> Images:
    """Moves each pixel towards the darkest, or the lightest, of its four neighbours."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    around = np.stack(
        [
            images,
            padded[:, :-2, 1:-1],
            padded[:, 2:, 1:-1],
            padded[:, 1:-1, :-2],
            padded[:, 1:-1, 2:],
        ]
    )
    extreme = around.max(axis=0) if weight > 0 else around.min(axis=0)
    drawn: Images = (images + abs(weight) * (extreme - images)).astype(np.float32)
    return drawn
