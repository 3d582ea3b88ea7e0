"""How much of a fine-tune lies in its base's chunks, and what finding those costs.

    python benchmarks/reuse.py [--json FILE] [--folder FOLDER]

Writes a model of 389 MB in the shape of GPT-2 with the safetensors library, changes it in the
ways that fine-tunes do, and cuts each file in five ways: at every 4 MiB, by content alone, whole
tensors, tensors in even pieces, and as meshtrain does. Takes about half a minute, 2 GB of memory
and 1 GB of disk. Needs the extra `train`.

Exit code 0: all was measured. 2: wrong use.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import xxhash

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

from tensor_files import Tensors, retrained, save, transformer, with_rows  # noqa: E402

from meshtrain.artifacts import cutting  # noqa: E402
from meshtrain.core.manifest import CHUNK_BYTES_MAX  # noqa: E402
from meshtrain.core.tensor_layout import header_size_bytes, read_layout  # noqa: E402

MIB = 1 << 20
VOCABULARY, CLASSES = 14_600, 1_400
HEAD, EMBEDDING = ("classifier.weight", "classifier.bias"), ("embeddings.word.weight",)

Pieces = Iterator[memoryview]


class Cut(NamedTuple):
    """A file in chunks: the bytes of each by its digest, and what finding them cost."""

    chunks: list[tuple[str, int]]
    cpu_s: float


# --- ways to cut -----------------------------------------------------------------------------


def every_4_mib(file: BinaryIO, size_bytes: int) -> Pieces:
    return _even(file, size_bytes, 4 * MIB)


def content_alone(file: BinaryIO, size_bytes: int) -> Pieces:
    return cutting._Window(file, size_bytes, "model").cut(size_bytes)


def whole_tensors(file: BinaryIO, size_bytes: int) -> Pieces:
    for begin, end in _tensors(file, size_bytes):
        yield from _even(file, end - begin, end - begin)


def even_tensors(file: BinaryIO, size_bytes: int) -> Pieces:
    for span in cutting._spans(file, size_bytes):
        step = MIB if span.split else span.end - span.begin
        yield from _even(file, span.end - span.begin, step)


def ours(file: BinaryIO, size_bytes: int) -> Pieces:
    return cutting.content_pieces(file, size_bytes, "model")


WAYS: dict[str, Callable[[BinaryIO, int], Pieces]] = {
    "every 4 MiB": every_4_mib,
    "content alone": content_alone,
    "whole tensors": whole_tensors,
    "even pieces of tensors": even_tensors,
    "meshtrain": ours,
}


def _even(file: BinaryIO, size_bytes: int, step_bytes: int) -> Pieces:
    """The next `size_bytes`, cut at every `step_bytes`."""
    if not size_bytes:
        return
    buffer = memoryview(bytearray(min(size_bytes, step_bytes)))
    for begin in range(0, size_bytes, step_bytes):
        piece = buffer[: size_bytes - begin]
        count = file.readinto(piece)  # type: ignore[attr-defined]
        assert count == len(piece), "nobody writes to the file meanwhile"
        yield piece


def _tensors(file: BinaryIO, size_bytes: int) -> Iterator[tuple[int, int]]:
    start = cutting._read_ahead(file.fileno(), 0, 9)
    header_bytes = header_size_bytes(start, size_bytes)
    assert header_bytes is not None, "the library writes files that we can read"
    layout = read_layout(cutting._read_ahead(file.fileno(), 8, header_bytes), size_bytes)
    assert layout is not None
    yield 0, layout.data_begin
    yield from ((tensor.begin, tensor.end) for tensor in layout.tensors)


# --- ways to change --------------------------------------------------------------------------


def biases(model: Tensors) -> list[str]:
    return [name for name in model if name.endswith(".bias")]


CHANGES: dict[str, Callable[[Tensors], Tensors]] = {
    "last layer gained 7 rows": lambda m: with_rows(m, HEAD, 7, at=CLASSES),
    "embedding gained 5 rows, last": lambda m: with_rows(m, EMBEDDING, 5, at=VOCABULARY),
    "embedding gained 5 rows, middle": lambda m: with_rows(m, EMBEDDING, 5, at=VOCABULARY // 2),
    "embedding gained 5 rows, first": lambda m: with_rows(m, EMBEDDING, 5, at=0),
    "all biases trained": lambda m: retrained(m, biases(m)),
    "one block trained": lambda m: retrained(m, [n for n in m if n.startswith("h.5.")]),
}


# --- the measurement -------------------------------------------------------------------------


def cut(path: Path, way: Callable[[BinaryIO, int], Pieces]) -> Cut:
    with path.open("rb", buffering=0) as file:
        size_bytes = path.stat().st_size
        began_s = time.thread_time()
        chunks = [(xxhash.xxh3_128_hexdigest(view), len(view)) for view in way(file, size_bytes)]
        cpu_s = time.thread_time() - began_s
    assert sum(size for _, size in chunks) == size_bytes
    return Cut(chunks, cpu_s)


def shared_percent(base: Cut, tuned: Cut) -> float:
    known = {digest for digest, _ in base.chunks}
    size_bytes = sum(size for _, size in tuned.chunks)
    return 100 * sum(size for digest, size in tuned.chunks if digest in known) / size_bytes


def measure(folder: Path) -> dict[str, Any]:
    model = transformer(width=768, blocks=12, vocabulary=VOCABULARY, classes=CLASSES)
    path = save(model, folder / "model.safetensors")
    size_bytes = path.stat().st_size
    # The first reading brings the file into memory.
    cut(path, ours)
    bases = {name: cut(path, way) for name, way in WAYS.items()}
    rows = {
        name: {
            "chunks": len(base.chunks),
            "largest_bytes": max(size for _, size in base.chunks),
            "cpu_s_per_gb": base.cpu_s / size_bytes * 1e9,
            "shared_percent": {},
        }
        for name, base in bases.items()
    }
    for change, made in CHANGES.items():
        save(made(model), path)
        for name, way in WAYS.items():
            rows[name]["shared_percent"][change] = shared_percent(bases[name], cut(path, way))
    return {"size_bytes": size_bytes, "ways": rows}


def lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"a model of {found['size_bytes'] / 1e6:.0f} MB; the share of bytes in its base's chunks"
    yield ""
    ways = found["ways"]
    yield "| | " + " | ".join(ways) + " |"
    yield "|---|" + "---|" * len(ways)
    for change in CHANGES:
        cells = (f"{row['shared_percent'][change]:.1f} %" for row in ways.values())
        yield f"| {change} | " + " | ".join(cells) + " |"
    yield "| chunks | " + " | ".join(f"{row['chunks']:,}" for row in ways.values()) + " |"
    sizes = (
        f"{row['largest_bytes'] / MIB:.1f} MiB"
        + (" (refused)" if row["largest_bytes"] > CHUNK_BYTES_MAX else "")
        for row in ways.values()
    )
    yield "| the largest | " + " | ".join(sizes) + " |"
    costs = (f"{row['cpu_s_per_gb']:.2f} s" for row in ways.values())
    yield "| CPU for each GB, with reading and one digest | " + " | ".join(costs) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every figure there")
    parser.add_argument("--folder", type=Path, help="where the files are written and removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder))
    for line in lines(found):
        print(line)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
