"""Generated images with masks: a stand-in for PASCAL-5i and COCO-20i.

A class is a colour and a stripe pattern; a scene is an ellipse of that class on
a noisy background. The same names always give the same pixels.
"""

from __future__ import annotations

import math
import random

SIDE = 16
"""Pixels a side."""

Pixel = tuple[float, float, float]
Image = list[list[Pixel]]
Mask = list[list[bool]]

CLASSES_PER_FOLD = {"pascal5i": 5, "coco20i": 20}
FOLDS = 4


def classes_of(dataset: str, fold: int) -> list[str]:
    """The classes that are new in `fold`: no other fold has them, nor has the base."""
    count = CLASSES_PER_FOLD[dataset]
    return [f"{dataset}-{index}" for index in range(fold * count, (fold + 1) * count)]


def scene(class_name: str, number: int) -> tuple[Image, Mask]:
    """The image `number` of a class, and where the class is in it."""
    looks = random.Random(f"class {class_name}")
    colour = [looks.random() for _ in range(3)]
    stripe_period = looks.uniform(2.5, 6.0)
    stripe_angle = looks.uniform(0, math.pi)
    pixels = random.Random(f"scene {class_name} {number}")
    ground = [pixels.random() for _ in range(3)]
    light = pixels.uniform(0.8, 1.2)
    centre_x, centre_y = (pixels.uniform(0.35, 0.65) * SIDE for _ in range(2))
    radius_x, radius_y = (pixels.uniform(0.2, 0.4) * SIDE for _ in range(2))
    image: Image = []
    mask: Mask = []
    for y in range(SIDE):
        row: list[Pixel] = []
        inside_row: list[bool] = []
        for x in range(SIDE):
            inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1
            along = x * math.cos(stripe_angle) + y * math.sin(stripe_angle)
            stripe = 0.15 * math.sin(2 * math.pi * along / stripe_period) if inside else 0.0
            red, green, blue = (
                light * part + stripe + pixels.gauss(0, 0.2)
                for part in (colour if inside else ground)
            )
            row.append((red, green, blue))
            inside_row.append(inside)
        image.append(row)
        mask.append(inside_row)
    return image, mask
