"""Writes which words stand in which file of a folder of texts, and where: index.py TEXTS INTO."""

import json
import re
import sys
from pathlib import Path

WORD = re.compile(r"[a-z]+")


def main(texts: Path, into: Path) -> None:
    """Index all files below `texts`."""
    index: dict[str, list[tuple[str, int]]] = {}
    paths = sorted(path for path in texts.rglob("*") if path.is_file())
    for path in paths:
        words = WORD.findall(path.read_text(errors="replace").lower())
        for place, word in enumerate(words):
            index.setdefault(word, []).append((path.relative_to(texts).as_posix(), place))
    (into / "index.json").write_text(json.dumps(index))
    print(f"{len(index)} words in {len(paths)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
