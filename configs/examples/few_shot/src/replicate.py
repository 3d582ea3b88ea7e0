"""Few-shot segmentation by nearest prototype, measured by the mean intersection over union.

A stand-in for replicating a paper's table: generated scenes instead of
PASCAL-5i and COCO-20i, weighted colours instead of a network's features. The
protocol is the real one: for every new class of a fold, the masked mean of the
shots is the object's prototype, each pixel of a query image goes to the nearer
of the two prototypes, and a class's intersection and union are summed over its
queries (Shaban et al. 2017, one-way; prototypes as Snell et al. 2017).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.features import Feature, features
from models.scenes import CLASSES_PER_FOLD, FOLDS, Mask, classes_of, scene

EPISODES_PER_CLASS = 2


def prototypes(
    shots: list[tuple[list[list[Feature]], Mask]],
) -> tuple[Feature, Feature]:
    """The mean feature of the object and of the background over all shots."""
    sides: dict[bool, list[Feature]] = {True: [], False: []}
    for image, mask in shots:
        for vectors, inside_row in zip(image, mask, strict=True):
            for vector, inside in zip(vectors, inside_row, strict=True):
                sides[inside].append(vector)
    inside_mean, outside_mean = (
        [sum(values) / len(values) for values in zip(*sides[side], strict=True)]
        for side in (True, False)
    )
    return inside_mean, outside_mean


def segment(
    image: list[list[Feature]], inside: Feature, outside: Feature, weights: list[float]
) -> Mask:
    """Which pixels are nearer to the object's prototype."""

    def distance(vector: Feature, prototype: Feature) -> float:
        return sum(
            weight * (value - centre) ** 2
            for weight, value, centre in zip(weights, vector, prototype, strict=True)
        )

    return [
        [distance(vector, inside) < distance(vector, outside) for vector in vectors]
        for vectors in image
    ]


def class_iou(class_name: str, shots: int, backbone: str, weights: list[float]) -> float:
    """Intersection over union of one class, summed over its episodes."""
    intersection = union = 0
    for episode in range(EPISODES_PER_CLASS):
        first = episode * 100
        support = [scene(class_name, first + number) for number in range(1, shots + 1)]
        inside, outside = prototypes([(features(image, backbone), mask) for image, mask in support])
        query, truth = scene(class_name, first)
        found = segment(features(query, backbone), inside, outside, weights)
        for found_row, true_row in zip(found, truth, strict=True):
            for is_found, is_true in zip(found_row, true_row, strict=True):
                intersection += is_found and is_true
                union += is_found or is_true
    return intersection / union


def main() -> None:
    """Writes results.json into --output-dir."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", choices=sorted(CLASSES_PER_FOLD), required=True)
    parser.add_argument("--shots", type=int, required=True)
    parser.add_argument("--folds", type=int, choices=range(FOLDS), required=True)
    parser.add_argument("--init", type=Path, required=True, help="folder of the base")
    parser.add_argument("--output-dir", type=Path, required=True)
    args = parser.parse_args()
    base = json.loads((args.init / "base.json").read_text())
    per_class = {}
    for class_name in classes_of(args.datasets, args.folds):
        iou = class_iou(class_name, args.shots, base["backbone"], base["weights"])
        per_class[class_name] = iou
        print(f"{class_name}  IoU {iou:.3f}", flush=True)
    miou = sum(per_class.values()) / len(per_class)
    print(f"mean IoU {miou:.4f} over {len(per_class)} classes")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    document = {"miou": miou, "classes": len(per_class), "iou_per_class": per_class}
    (args.output_dir / "results.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
