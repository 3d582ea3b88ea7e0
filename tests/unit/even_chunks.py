"""Files cut at every so many bytes: for tests that count chunks, or need the largest ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pytest

from meshtrain.artifacts import chunking


def cut_evenly(monkeypatch: pytest.MonkeyPatch, piece_bytes: int) -> None:
    """Has the files of all manifests that are built from now on cut so."""

    def even_pieces(file: BinaryIO, size_bytes: int, name: str) -> Iterator[memoryview]:
        for begin in range(0, size_bytes, piece_bytes):
            wanted_bytes = min(piece_bytes, size_bytes - begin)
            piece = file.read(wanted_bytes)
            assert len(piece) == wanted_bytes, f"{name} became shorter while it was read"
            yield memoryview(piece)

    monkeypatch.setattr(chunking, "content_pieces", even_pieces)
