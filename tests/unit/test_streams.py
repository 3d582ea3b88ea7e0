"""What jobs print reaches the master's disk once and in order, over any link."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worker_records import made_folder

from meshtrain.wire.messages import StreamBytes, StreamStored
from meshtrain_daemon.master.logbook import Logbook
from meshtrain_daemon.worker import streams as streams_module
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.streams import CHUNK_BYTES, REPEAT_AFTER_S, WINDOW_BYTES, Streamer


class Link:
    """A node's streams, and what of them was sent."""

    def __init__(self, attempts: Path) -> None:
        self.sent: list[StreamBytes] = []
        self.removed: list[str] = []
        self.takes = True
        self.folder = made_folder(attempts)
        self.streamer = Streamer(self.send, remove=self.remove)
        self.streamer.watch(self.folder)
        self.log = Path(self.folder.log)

    def send(self, message: StreamBytes) -> bool:
        if self.takes:
            self.sent.append(message)
        return self.takes

    def remove(self, folder: AttemptFolder) -> None:
        self.removed.append(folder.assignment.attempt_id)
        folder.remove()

    def ship(self, now_s: float) -> list[tuple[int, int]]:
        """What goes out now: (offset, bytes)."""
        self.sent.clear()
        self.streamer.ship(now_s)
        return [(message.offset, len(message.data)) for message in self.sent]

    def confirm(self, offset: int, stream: str = "log") -> None:
        self.streamer.stored(StreamStored("j.1", stream, offset))


@pytest.fixture
def link(tmp_path: Path) -> Link:
    return Link(tmp_path)


def test_bytes_go_out_once_in_pieces_and_no_more_than_the_window(link: Link) -> None:
    link.log.write_bytes(b"x" * (WINDOW_BYTES + 5))
    went = link.ship(1.0)
    assert went == [(o, CHUNK_BYTES) for o in range(0, WINDOW_BYTES, CHUNK_BYTES)]
    assert link.ship(2.0) == []
    link.confirm(CHUNK_BYTES)
    assert link.ship(3.0) == [(WINDOW_BYTES, 5)]


def test_a_socket_that_takes_nothing_gets_the_same_bytes_later(link: Link) -> None:
    link.log.write_bytes(b"hello")
    link.takes = False
    assert link.ship(1.0) == []
    link.takes = True
    assert link.ship(1.1) == [(0, 5)]


def test_a_new_link_gets_all_that_is_not_confirmed(link: Link) -> None:
    link.log.write_bytes(b"hello world")
    link.ship(1.0)
    link.confirm(6)
    link.streamer.rewind()
    assert link.ship(1.1) == [(6, 5)]


def test_what_stays_unconfirmed_is_repeated_also_while_the_job_goes_on_printing(
    link: Link,
) -> None:
    link.log.write_bytes(b"lost")
    link.ship(1.0)
    now_s = 1.0
    repeated = False
    while now_s < 1.0 + 3 * REPEAT_AFTER_S and not repeated:
        now_s += 1.0
        with link.log.open("ab") as file:
            file.write(b".")
        repeated = (0, link.log.stat().st_size) in link.ship(now_s)
        # The master has a gap, and says so to each piece that comes.
        link.confirm(0)
    assert repeated


def test_bytes_after_a_gap_are_sent_again_at_once_but_not_for_each_answer(link: Link) -> None:
    link.log.write_bytes(b"x" * (3 * CHUNK_BYTES))
    link.ship(1.0)
    link.confirm(CHUNK_BYTES)
    # The second piece was lost: the third is answered with the same offset.
    link.confirm(CHUNK_BYTES)
    assert link.ship(1.1) == [(CHUNK_BYTES, CHUNK_BYTES), (2 * CHUNK_BYTES, CHUNK_BYTES)]
    link.confirm(CHUNK_BYTES)
    assert link.ship(1.2) == []


def test_the_folder_goes_when_all_its_bytes_are_stored_and_not_before(link: Link) -> None:
    link.log.write_bytes(b"abc")
    Path(link.folder.metrics).write_bytes(b"{}\n")
    link.streamer.ended("j.1")
    link.streamer.drop(link.folder)
    assert link.streamer.waiting and not link.removed
    link.ship(1.0)
    link.confirm(3)
    assert not link.removed
    link.confirm(3, "metrics")
    assert link.removed == ["j.1"] and not link.streamer.waiting
    link.confirm(3)
    assert link.ship(9.0) == []


def test_a_job_that_wrote_nothing_keeps_no_folder(link: Link) -> None:
    link.streamer.ended("j.1")
    link.streamer.drop(link.folder)
    assert link.removed == ["j.1"]


@pytest.mark.parametrize("when", ["before its end", "after its end"])
def test_a_job_that_cut_its_log_holds_nothing_up(link: Link, when: str) -> None:
    link.log.write_bytes(b"a long line")
    link.ship(1.0)
    link.confirm(6)
    if when == "before its end":
        link.log.write_bytes(b"cut")
        link.streamer.ended("j.1")
    else:
        link.streamer.ended("j.1")
        link.streamer.rewind()
        link.log.write_bytes(b"cut")
    link.streamer.drop(link.folder)
    link.ship(2.0)
    if when == "before its end":
        # What it printed since, and a line that tells of it.
        assert b"".join(message.data for message in link.sent).endswith(b"]\ncut")
        link.confirm(link.sent[-1].offset + len(link.sent[-1].data))
    assert link.removed == ["j.1"]


def as_folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.symlink_to("/proc/self/status")


def as_nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("replace", [as_folder, as_pipe, as_link, as_nothing])
@pytest.mark.parametrize("ended_first", [False, True])
def test_a_job_that_puts_something_else_in_place_of_its_log_stops_nothing(
    link: Link, replace: Callable[[Path], None], ended_first: bool
) -> None:
    link.log.write_bytes(b"first line\n")
    link.ship(1.0)
    if ended_first:
        link.streamer.ended("j.1")
        link.streamer.rewind()
    link.log.unlink()
    replace(link.log)
    assert link.ship(2.0) == []
    link.streamer.ended("j.1")
    link.streamer.drop(link.folder)
    link.streamer.rewind()
    link.ship(3.0)
    link.confirm(11)
    assert link.removed == ["j.1"]


STEPS = st.lists(
    st.sampled_from(["print", "ship", "deliver", "lose", "double", "back", "break", "wait"]),
    max_size=60,
)


@given(STEPS, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_whatever_a_link_loses_or_doubles_both_files_are_the_same_in_the_end(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[str],
    random: st.randoms,  # type: ignore[valid-type]
) -> None:
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "attempts").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streams_module, "CHUNK_BYTES", 7)
        patched.setattr(streams_module, "WINDOW_BYTES", 40)
        link = Link(folder / "attempts")
        book = Logbook(folder / "logs", ())
        back: list[StreamStored] = []
        now_s = 1.0
        lines = 0

        def deliver() -> None:
            message = link.sent.pop(0)
            book.counted(book.write([message]))
            back.append(book.confirmation(message))

        def step(what: str) -> None:
            nonlocal now_s, lines
            now_s += 0.1
            match what:
                case "print":
                    lines += 1
                    with link.log.open("ab") as file:
                        file.write(f"line {lines}\n".encode())
                case "ship":
                    link.streamer.ship(now_s)
                case "deliver" if link.sent:
                    deliver()
                case "lose" if link.sent:
                    link.sent.pop(random.randrange(len(link.sent)))
                case "double" if link.sent:
                    link.sent.append(link.sent[0])
                case "back" if back:
                    link.streamer.stored(back.pop(random.randrange(len(back))))
                case "break":
                    link.sent.clear()
                    back.clear()
                    link.streamer.rewind()
                case "wait":
                    now_s += REPEAT_AFTER_S
                case _:
                    pass

        for what in steps:
            step(what)
        written = link.log.read_bytes() if link.log.exists() else b""
        link.streamer.ended("j.1")
        link.streamer.drop(link.folder)
        for _ in range(200):
            for what in ("ship", "deliver", "back", "wait"):
                step(what)
        assert link.removed == ["j.1"]
        assert book.read("j", "j.1", "log", 0, 1 << 20).data == written
