"""Trains the base of the few-shot example: a stand-in for pre-training a backbone.

What it learns is real, if small: how much each feature tells object from
background (Fisher's ratio of the variance between to the variance within), on
generated scenes of classes that no fold of either dataset has.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from models.features import REACHES, features
from models.scenes import scene

CLASSES = 24
SCENES_PER_CLASS = 2


def fisher_weights(backbone: str) -> list[float]:
    """One weight a feature; they sum to 1."""
    ratios = [0.0] * (3 * len(REACHES[backbone]))
    for index in range(CLASSES):
        for number in range(SCENES_PER_CLASS):
            image, mask = scene(f"base-{index}", number)
            sides: dict[bool, list[list[float]]] = {True: [], False: []}
            for vectors, inside_row in zip(features(image, backbone), mask, strict=True):
                for vector, inside in zip(vectors, inside_row, strict=True):
                    sides[inside].append(vector)
            for place, ratio in enumerate(_ratios(sides[True], sides[False])):
                ratios[place] += ratio
    total = sum(ratios)
    return [ratio / total for ratio in ratios]


def _ratios(inside: list[list[float]], outside: list[list[float]]) -> list[float]:
    ratios = []
    for here, there in zip(zip(*inside, strict=True), zip(*outside, strict=True), strict=True):
        gap = _mean(here) - _mean(there)
        ratios.append(gap * gap / (_variance(here) + _variance(there)))
    return ratios


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _variance(values: tuple[float, ...]) -> float:
    mean = _mean(values)
    return sum((value - mean) ** 2 for value in values) / len(values)


def main() -> None:
    """Writes base.json into the folder --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", choices=sorted(REACHES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    weights = fisher_weights(args.backbone)
    args.out.mkdir(parents=True, exist_ok=True)
    document = {"backbone": args.backbone, "weights": weights}
    (args.out / "base.json").write_text(json.dumps(document, indent=2) + "\n")
    print(f"{args.backbone}: {len(weights)} features from {CLASSES * SCENES_PER_CLASS} scenes")


if __name__ == "__main__":
    main()
