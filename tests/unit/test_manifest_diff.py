"""What two artifacts share, told from their manifests and the headers of their models."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tensor_files import Tensors, filled, retrained, save, with_rows

from meshtrain.artifacts.chunking import build_manifest
from meshtrain.core.manifest import Chunk, FileEntry, Manifest, digest_of
from meshtrain.core.manifest_diff import (
    Change,
    FileDiff,
    TensorDiff,
    chunk_digests,
    diff_manifests,
    diff_tensors,
)
from meshtrain.core.tensor_layout import Layout, header_size_bytes, read_layout

CUT = 4


def entry(path: str, content: bytes, cut: int = CUT, executable: bool = False) -> FileEntry:
    chunks = tuple(
        Chunk(at, len(content[at : at + cut]), digest_of(content[at : at + cut]))
        for at in range(0, len(content), cut)
    )
    return FileEntry(path, len(content), executable, digest_of(content), chunks)


def manifest(**files: bytes) -> Manifest:
    return Manifest(tuple(entry(path, content) for path, content in sorted(files.items())))


def test_files_are_told_by_what_became_of_them() -> None:
    before = manifest(a=b"aaaabbbbcc", b=b"bbbb", gone=b"gggg", x=b"xxxx")
    after = manifest(a=b"aaaaBBBBcc", b=b"bbbb", new=b"xxxxNNNN", x=b"")
    found = diff_manifests(before, after)
    assert found.files == (
        FileDiff("a", Change.CHANGED, 10, 10, shared_bytes=6, chunks=3, new_chunks=1),
        FileDiff("b", Change.SAME, 4, 4, shared_bytes=4, chunks=1, new_chunks=0),
        FileDiff("gone", Change.GONE, 4, 0, shared_bytes=0, chunks=0, new_chunks=0),
        FileDiff("new", Change.NEW, 0, 8, shared_bytes=4, chunks=2, new_chunks=1),
        FileDiff("x", Change.CHANGED, 4, 0, shared_bytes=0, chunks=0, new_chunks=0),
    )
    assert (found.size_bytes, found.shared_bytes, found.new_bytes) == (22, 14, 8)
    assert (found.chunks, found.new_chunks) == (6, 2)
    assert found.files[0].new_bytes == 4


def test_an_artifact_shares_all_of_itself() -> None:
    one = manifest(a=b"aaaabbbb", b=b"")
    found = diff_manifests(one, one)
    assert found.new_bytes == 0 and {file.change for file in found.files} == {Change.SAME}
    assert diff_manifests(Manifest(()), one).new_bytes == 8
    assert diff_manifests(one, Manifest(())).size_bytes == 0


def test_the_same_bytes_that_were_cut_otherwise_move_all_the_same() -> None:
    before = Manifest((entry("a", b"aaaabbbb", cut=3),))
    (file,) = diff_manifests(before, Manifest((entry("a", b"aaaabbbb", cut=4),))).files
    assert file.change is Change.RECUT and file.new_bytes == 8
    now_a_program = Manifest((entry("a", b"aaaabbbb", cut=3, executable=True),))
    (file,) = diff_manifests(before, now_a_program).files
    assert file.change is Change.CHANGED and file.new_bytes == 0


# --- tensors ---------------------------------------------------------------------------------


def model() -> Tensors:
    shapes = {
        "embedding.weight": (2000, 200),
        "h.0.bias": (200,),
        "h.0.norm": (200,),
        "h.0.weight": (400, 200),
        "h.1.bias": (200,),
        "h.1.weight": (400, 200),
        "none": (0, 3),
    }
    return {name: filled(name, shape) for name, shape in shapes.items()}


def read(folder: Path, tensors: Tensors) -> tuple[Manifest, FileEntry, Layout]:
    data = save(tensors, folder / "m.safetensors").read_bytes()
    made = build_manifest(folder)
    header_bytes = header_size_bytes(data[:9], len(data))
    assert header_bytes is not None
    layout = read_layout(data[8 : 8 + header_bytes], len(data))
    assert layout is not None
    return made, made.files[0], layout


def compared(tmp_path: Path, before: Tensors, after: Tensors) -> dict[str, TensorDiff]:
    known, old_file, old_layout = read(tmp_path / "before", before)
    _, new_file, new_layout = read(tmp_path / "after", after)
    found = diff_tensors((old_file, old_layout), (new_file, new_layout), chunk_digests(known))
    assert [tensor.name for tensor in found] == sorted({*before, *after})
    return {tensor.name: tensor for tensor in found if tensor.change is not Change.SAME}


def test_tensors_that_differ_are_told_with_what_moves(tmp_path: Path) -> None:
    before = model()
    after = with_rows(before, ["embedding.weight"], 5, at=1000)
    after = retrained(after, ["h.1.weight"])
    after["extra.weight"] = filled("extra.weight", (300, 300))
    del after["none"]
    found = compared(tmp_path, before, after)
    assert {name: tensor.change for name, tensor in found.items()} == {
        "embedding.weight": Change.RESHAPED,
        "extra.weight": Change.NEW,
        "h.1.weight": Change.CHANGED,
        "none": Change.GONE,
    }
    grown = found["embedding.weight"]
    assert (grown.before, grown.after) == ("F32 [2000, 200]", "F32 [2005, 200]")
    assert 0 < grown.new_bytes <= grown.size_bytes == 2005 * 200 * 4
    assert found["h.1.weight"].new_bytes == found["h.1.weight"].size_bytes == 400 * 200 * 4
    assert found["none"].new_bytes == 0 and found["none"].after == ""


def test_a_small_tensor_beside_one_that_changed_is_told_as_unclear(tmp_path: Path) -> None:
    before = model()
    found = compared(tmp_path, before, retrained(before, ["h.0.bias"]))
    assert {name: tensor.change for name, tensor in found.items()} == {
        "h.0.bias": Change.UNCLEAR,
        "h.0.norm": Change.UNCLEAR,
    }
    assert found["h.0.bias"].new_bytes == 800


def test_nothing_differs_in_the_same_file(tmp_path: Path) -> None:
    assert compared(tmp_path, model(), model()) == {}


def test_a_diff_can_be_written_as_json() -> None:
    found = diff_manifests(manifest(a=b"aaaa"), manifest(a=b"bbbb"))
    assert msgspec.json.decode(msgspec.json.encode(found))["files"][0]["change"] == "changed"
