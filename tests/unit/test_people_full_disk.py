"""What people are told while the master's disk is full, and that it is done once there is room."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.manifest import artifact_id
from meshtrain.spec.settings import MasterSettings
from meshtrain.store.failures import StoreFullError
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.intake import Submission
from meshtrain_daemon.master.people import People

FULL = StoreFullError("the master's disk is full: 3 bytes are free at /home. Free some room there")
DRAIN = msg.Drain("asked", "n1", True)


class Around:
    """The master without a disk: what is posted, noted and answered."""

    def __init__(self) -> None:
        self.full: StoreFullError | None = None
        self.on_full: Callable[[StoreFullError, Sequence[str]], None]
        self.on_room: Callable[[], None]
        self.posted: list[Any] = []
        self.notes: list[str] = []
        self.sent: list[Any] = []
        self._waiting: dict[str, Callable[[fx.Reply], None]] = {}
        self._beside: list[Coroutine[Any, Any, None]] = []
        around = cast(Any, self)
        self.people = People(
            settings=MasterSettings(home=Path("/nowhere")),
            state=cast(Any, SimpleNamespace(sweeps={}, named_inputs={})),
            sockets=around,
            ports=around,
            decisions=around,
            hands=around,
            feeds=around,
            folders=around,
            artifacts=around,
            logbook=around,
            store=around,
            archiving=around,
            estimator=around,
            spawn=self._beside.append,
            membership=None,
            enrol_port=0,
        )

    async def take(self, peer: bytes, message: msg.FromPerson) -> None:
        """A message, until all is done that it has done beside."""
        self.people.take(peer, message)
        while self._beside:
            await self._beside.pop()

    # the loop of decisions

    def post(self, event: ev.Event) -> None:
        self.posted.append(event)

    # the hands

    def expect_reply(self, request_id: str, take: Callable[[fx.Reply], None]) -> None:
        self._waiting[request_id] = take

    def send(self, effects: Sequence[fx.Reply]) -> None:
        for effect in effects:
            self._waiting.pop(effect.request_id)(effect)

    def note(self, text: str) -> None:
        self.notes.append(text)

    # the sockets

    def send_control(self, peer: bytes, messages: Sequence[Any]) -> None:
        self.sent.extend(messages)

    @property
    def errors(self) -> list[str]:
        return [done.error for done in self.sent]


def test_P12_what_is_asked_while_the_disk_is_full_is_refused_at_once() -> None:
    around = Around()
    around.full = FULL
    around.people.take(b"peer", DRAIN)
    assert around.posted == []
    assert around.errors == [f"the master is read-only, nothing was done: {FULL}"]


def test_P12_a_request_that_was_not_looked_at_is_refused_and_answered_once() -> None:
    around = Around()
    around.people.take(b"peer", DRAIN)
    (event,) = around.posted
    around.full = FULL
    around.on_full(FULL, [event.request_id])
    assert around.errors == [f"the master is read-only, nothing was done: {FULL}"]
    assert around._waiting == {}
    assert around.notes == [f"the master is read-only: {FULL}"]
    around.on_room()
    assert "room again" in around.notes[-1]


def test_P12_who_asked_for_what_is_decided_and_not_on_disk_is_told_so_once() -> None:
    around = Around()
    around.people.take(b"peer", DRAIN)
    (event,) = around.posted
    around.full = FULL
    around.on_full(FULL, [])
    (error,) = around.errors
    assert "is not on its disk yet" in error and "It is done when there is room" in error
    # Then there is room, and the scheduler's reply comes.
    around.send([fx.Reply(event.request_id, done=("n1",))])
    assert len(around.sent) == 1


async def test_P12_a_dropped_file_is_not_rejected_but_taken_later() -> None:
    around = Around()
    around.full = FULL
    with pytest.raises(StoreFullError, match="nothing was done"):
        await around.people.submit_dropped(Submission("a.yaml", b"name: a\ncommand: 'true'\n"))
    assert around.posted == []


async def test_P12_a_data_set_gets_no_name_while_the_disk_is_full(tmp_path: Path) -> None:
    around = Around()
    store = ArtifactStore(tmp_path / "artifacts")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w").write_bytes(b"1")
    held = artifact_id(store.add_tree(tmp_path / "data"))
    around.people._artifacts = store
    around.full = FULL
    await around.take(b"person@ada/1", msg.PublishInput("r1", "voc", held))
    (done,) = around.sent
    assert (done.request_id, done.done) == ("r1", ())
    assert "read-only" in done.error
    around.full = None
    await around.take(b"person@ada/1", msg.PublishInput("r2", "voc", held))
    published = around.posted[-1]
    assert (published.name, published.size_bytes, published.published_by) == ("voc", 1, "ada")
