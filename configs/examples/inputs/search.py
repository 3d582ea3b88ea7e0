"""Counts a word, and how often it stands again within a few words of itself."""

import argparse
import json
from itertools import pairwise
from pathlib import Path


def main() -> None:
    """Read the index that was prepared, and write metrics.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--word", required=True)
    parser.add_argument("--neighbours", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    index = json.loads((told.index / "index.json").read_text())
    places = [(file, place) for file, place in index.get(told.word, [])]
    near = sum(
        file == other and after - before <= told.neighbours
        for (file, before), (other, after) in pairwise(places)
    )
    metrics = {"found": len(places), "near": near}
    (told.out / "metrics.json").write_text(json.dumps(metrics))
    print(f"{told.word}: {metrics}")


if __name__ == "__main__":
    main()
