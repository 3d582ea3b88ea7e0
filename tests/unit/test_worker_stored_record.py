"""A daemon may die at any point of storing an output: the next one comes to the same result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from worker_records import assignment, made_folder

from meshtrain import failpoints
from meshtrain.artifacts import adding
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.manifest import Manifest
from meshtrain_daemon.worker import outputs
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.stored_record import STORED_FILE, note_stored, stored_before


class Killed(BaseException):
    """Stands for the end of the process."""


class Node:
    def __init__(self, root: Path) -> None:
        self.root = root / "store"
        self.attempts = root
        self.folder = made_folder(root)
        for number in range(3):
            (Path(self.folder.output) / f"model-{number}").write_text(f"weights {number}")
        (Path(self.folder.output) / "metrics.json").write_text('{"accuracy": 0.5}')
        self.store = ArtifactStore(self.root)

    def store_output(self) -> io.OutputStored | io.OutputFailed:
        return outputs.store_output(self.folder, self.store, "n1")

    def next_daemon(self) -> io.OutputStored:
        """The next daemon's way: its store recovers, and the attempt's output is stored."""
        self.store = ArtifactStore(self.root)
        self.store.recover()
        self.folder = AttemptFolder(self.attempts, assignment("j.1"))
        assert not outputs.is_empty(self.folder)
        stored = self.store_output()
        assert isinstance(stored, io.OutputStored)
        return stored


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def expected(tmp_path: Path) -> io.OutputStored:
    (tmp_path / "undisturbed").mkdir()
    stored = Node(tmp_path / "undisturbed").store_output()
    assert isinstance(stored, io.OutputStored) and stored.metrics == {"accuracy": 0.5}
    return stored


def die(*arguments: object, **more: object) -> None:
    raise Killed


def at_point(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def arm(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(failpoints, "reach", lambda point: die() if point == name else None)

    return arm


def in_call(module: object, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(module, name, die)


@pytest.mark.parametrize(
    "arm",
    [
        in_call(adding, "build_manifest"),
        in_call(outputs, "note_stored"),
        in_call(adding, "write_durably"),
        in_call(adding, "seal"),
        in_call(adding, "fsync_path"),
        at_point("artifact.moved"),
        at_point("artifact.whole"),
        at_point("artifact.renamed"),
    ],
    ids=["hash", "note", "manifest", "seal", "moved", "parted", "whole", "renamed"],
)
def test_p4_p7_a_kill_at_any_step_neither_loses_nor_changes_the_result(
    node: Node,
    expected: io.OutputStored,
    monkeypatch: pytest.MonkeyPatch,
    arm: Callable[[pytest.MonkeyPatch], None],
) -> None:
    with monkeypatch.context() as patch:
        arm(patch)
        with pytest.raises(Killed):
            node.store_output()
    assert node.next_daemon() == expected
    # Also when that one is killed before the master has heard of it.
    assert node.next_daemon() == expected
    assert expected.artifact_id is not None and node.store.verify(expected.artifact_id)
    assert len(node.store.ids()) == 1


def test_p7_half_an_output_that_was_in_the_store_already_is_not_stored_as_another(
    node: Node, expected: io.OutputStored, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = node.attempts / "copy"
    shutil.copytree(node.folder.output, copy)
    node.store.add_tree(copy)

    def remove_some(folder: Path) -> None:
        next(iter(sorted(folder.iterdir()))).unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(adding, "_give_up", remove_some)
        with pytest.raises(Killed):
            node.store_output()
    assert len(os.listdir(node.folder.output)) == 3
    assert node.next_daemon() == expected
    shutil.rmtree(node.folder.output)
    assert node.next_daemon() == expected


def test_p7_a_result_across_file_systems_is_not_halved(
    node: Node, expected: io.OutputStored, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def elsewhere(path: Path, target: Path) -> Path:
        if path == Path(node.folder.output):
            raise OSError(18, "Invalid cross-device link")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", elsewhere)
        patch.setattr(adding, "_give_up", die)
        with pytest.raises(Killed):
            node.store_output()
    assert node.next_daemon() == expected


def test_a_note_of_another_attempt_or_a_spoilt_one_counts_for_nothing(node: Node) -> None:
    stored = node.store_output()
    assert isinstance(stored, io.OutputStored)
    assert stored_before(node.folder.path, "j.1", node.store) == stored
    assert stored_before(node.folder.path, "j.2", node.store) is None
    note = Path(node.folder.path, STORED_FILE)
    for text in (b"", b"{", b"[]", b'{"attempt_id":"j.1","artifact_id":"../x"}'):
        note.write_bytes(text)
        assert stored_before(node.folder.path, "j.1", node.store) is None
    note_stored(node.folder.path, io.OutputStored("j.1", None))
    assert stored_before(node.folder.path, "j.1", node.store) is None


def test_a_plan_that_can_not_be_noted_leaves_the_output_as_it_was(node: Node) -> None:
    def full(manifest: Manifest) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir(node.folder.output))
    with pytest.raises(DiskFullError):
        node.store.add_tree(Path(node.folder.output), move=True, planned=full)
    assert sorted(os.listdir(node.folder.output)) == before
    assert node.store.ids() == []
