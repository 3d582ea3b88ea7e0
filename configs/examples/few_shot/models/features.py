"""What is known of a pixel: a stand-in for the feature maps of a backbone.

The colour of the pixel and the mean colour around it; `resnet101` looks further
around than `resnet50`.
"""

from __future__ import annotations

from models.scenes import Image

REACHES = {"resnet50": (0, 1), "resnet101": (0, 1, 2)}
"""How many pixels around the pixel each group of three features averages over."""

Feature = list[float]


def features(image: Image, backbone: str) -> list[list[Feature]]:
    """One vector a pixel."""
    layers = [_mean_around(image, reach) for reach in REACHES[backbone]]
    return [
        [[value for layer in layers for value in layer[y][x]] for x in range(len(image[0]))]
        for y in range(len(image))
    ]


def _mean_around(image: Image, reach: int) -> list[list[Feature]]:
    if reach == 0:
        return [[list(pixel) for pixel in row] for row in image]
    height, width = len(image), len(image[0])
    means: list[list[Feature]] = []
    for y in range(height):
        rows = image[max(0, y - reach) : y + reach + 1]
        line: list[Feature] = []
        for x in range(width):
            near = [pixel for row in rows for pixel in row[max(0, x - reach) : x + reach + 1]]
            line.append([sum(channel) / len(near) for channel in zip(*near, strict=True)])
        means.append(line)
    return means
