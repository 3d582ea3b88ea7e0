"""Each action: asked about, sent as the command sends it, told, and taken back."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

import msgspec
import pytest
from tui_double import Dashboard, FakeSource, dashboard
from tui_rows import base, job, node, small_mesh

from meshtrain.core.changes import JobRow, SweepRow
from meshtrain.core.job import JobKind, JobState
from meshtrain.core.needs_change import NeedsChange
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.net.base import MasterAwayError
from meshtrain.net.zmq_client import MasterClient
from meshtrain.net.zmq_master import MasterSockets
from meshtrain.wire import messages as msg
from meshtrain_tui.screens.confirm import AskPriority, Confirm
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.screens.notice import Notice
from meshtrain_tui.standing_line import StandingLine
from meshtrain_tui.steering.action import (
    NAMES_MAX,
    cancel,
    cancel_sweep,
    drain,
    pin,
    prioritise,
    retry,
    retry_sweep,
    typed_name,
)
from meshtrain_tui.steering.result_folder import opener, show_folder
from meshtrain_tui.steering.submission import Submitter


def mesh() -> FakeSource:
    source = FakeSource()
    source.tell(small_mesh(), whole=True)
    return source


def plain(message: msg.FromPerson) -> dict[str, object]:
    """A message without the id that is drawn for it, and needs that don't change."""
    told = dict(msgspec.json.decode(msgspec.json.encode(message)))
    del told["request_id"]
    if isinstance(message, msg.Retry) and message.change == NeedsChange():
        del told["change"]
    return told


async def act(shown: Dashboard, *keys: str) -> None:
    """Press keys that open a question, and answer it with yes."""
    await shown.press(*keys)
    assert isinstance(shown.app.screen, Confirm)
    done = len(shown.master.asked)
    await shown.press("y")
    await shown.until(lambda: len(shown.master.asked) > done)
    await shown.settle()


async def to_first(shown: Dashboard, pattern: str) -> None:
    await shown.press("2", "slash", *pattern, "enter")


async def test_cancel_is_asked_about_sent_and_told() -> None:
    async with dashboard(mesh()) as shown:
        await to_first(shown, "fold=0")
        await shown.press("c")
        assert "Cancel sweep/fold=0?" in shown.text
        assert "$ meshtrain cancel sweep/fold=0" in shown.text
        assert "on a node: that ends now" in " ".join(shown.text.split())
        assert "y yes, do it" in shown.rows[-1]
        await shown.press("n")
        assert shown.master.asked == []
        await shown.press("c", "escape")
        assert shown.master.asked == []
        await act(shown, "c")
        assert [plain(m) for m in shown.master.acts()] == [{"type": "cancel", "names": ["fold=0"]}]
        assert "cancelled 1 job" in shown.said
        assert "u undo: Run 1 cancelled job again" in shown.said
        await shown.press("u")
        await shown.until(lambda: len(shown.master.asked) == 2)
        assert plain(shown.master.acts()[1]) == {"type": "retry", "names": ["fold=0"]}


async def test_what_has_ended_is_not_cancelled() -> None:
    async with dashboard(mesh()) as shown:
        await to_first(shown, "fold=3")
        await shown.press("c")
        assert isinstance(shown.app.screen, MeshScreen)
        assert "Nothing to cancel" in shown.said
        await shown.press("r")
        assert "Nothing to retry" in shown.said
        assert shown.master.asked == []


async def test_marked_jobs_are_cancelled_together() -> None:
    async with dashboard(mesh()) as shown:
        await to_first(shown, "fold")
        await act(shown, "ctrl+a", "c")
        (message,) = shown.master.acts()
        assert plain(message) == {"type": "cancel", "names": ["fold=0", "fold=1", "fold=5"]}
        assert "cancelled 3 jobs" in shown.said


async def test_retry() -> None:
    async with dashboard(mesh()) as shown:
        await to_first(shown, "fold=2")
        await act(shown, "r")
        assert plain(shown.master.acts()[0]) == {"type": "retry", "names": ["fold=2"]}
        assert "1 job again in the queue" in shown.said


async def test_priority_and_back() -> None:
    async with dashboard(mesh()) as shown:
        await to_first(shown, "fold=1")
        await shown.press("p")
        assert isinstance(shown.app.screen, AskPriority)
        await shown.press("x", "enter")
        assert "is no whole number from" in shown.text
        await shown.press("backspace", "backspace", *"-7", "enter")
        assert "$ meshtrain priority sweep/fold=1 -- -7" in shown.text
        await shown.press("y")
        await shown.until(shown.master.acts)
        await shown.settle()
        assert plain(shown.master.acts()[0]) == {
            "type": "reprioritise",
            "names": ["fold=1"],
            "priority": -7,
        }
        await shown.press("u")
        await shown.until(lambda: len(shown.master.asked) == 2)
        assert plain(shown.master.acts()[1])["priority"] == 3


async def test_drain_and_undrain() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("6")
        await act(shown, "d")
        assert plain(shown.master.acts()[0]) == {
            "type": "drain",
            "node_id": "gpu1",
            "drained": True,
            "within_s": None,
        }
        assert "gpu1 is drained: it takes no new jobs" in shown.said
        await shown.press("u")
        await shown.until(lambda: len(shown.master.asked) == 2)
        assert plain(shown.master.acts()[1])["drained"] is False
        await shown.press("down", "d")
        assert "$ meshtrain drain gpu2 --undo" in shown.text
        await shown.press("y")
        await shown.until(lambda: len(shown.master.asked) == 3)
        assert plain(shown.master.acts()[2]) == {
            "type": "drain",
            "node_id": "gpu2",
            "drained": False,
            "within_s": None,
        }


async def test_a_sweep_is_cancelled_and_retried_from_the_overview() -> None:
    async with dashboard(mesh()) as shown:
        await act(shown, "c")
        await act(shown, "down", "r")
        assert [plain(m) for m in shown.master.acts()] == [
            {"type": "cancel", "names": ["sweep"]},
            {"type": "retry", "names": ["other-1a2b"]},
        ]
        await shown.press("enter")
        assert shown.rows[2].strip().startswith("Overview › other")
        assert "▶  one " in shown.text, "the sweep's name stands above"


async def test_the_master_s_no_is_told_in_its_words() -> None:
    async with dashboard(mesh()) as shown:
        shown.master.refuses = "no node is called gpu1; known: gpu9"
        await shown.press("6")
        await act(shown, "d")
        assert "Drain gpu1: no node is called gpu1; known: gpu9" in shown.said
        await shown.press("u")
        assert len(shown.master.asked) == 1, "there is nothing to take back"


async def test_a_master_that_is_away_is_told() -> None:
    async with dashboard(mesh()) as shown:
        shown.master.away = True
        await shown.press("6")
        await act(shown, "d")
        assert "no master answers" in shown.said


async def test_what_was_done_is_seen_at_once() -> None:
    source = mesh()
    async with dashboard(source) as shown:
        await to_first(shown, "fold=2")
        asked = len(source.asked)
        await act(shown, "r")
        assert len(source.asked) > asked


async def test_where_the_results_are(tmp_path: Path) -> None:
    async with dashboard(mesh()) as shown:
        await to_first(shown, "fold=2")
        shown.master.rows = [{"folder": "/srv/mesh/results/sweep"}]
        await shown.press("o")
        await shown.until(lambda: isinstance(shown.app.screen, Notice))
        await shown.settle()
        assert "on the master's host" in shown.text
        assert "/srv/mesh/results/sweep" in shown.text
        assert "meshtrain results sweep" in shown.text
        assert plain(shown.master.asked[0])["what"] == "sweeps"
        await shown.press("escape")
        shown.master.rows = []
        await shown.press("o")
        await shown.until(lambda: "names no result folder" in shown.said)


# --- the messages ------------------------------------------------------------------------


def view_of(*rows: SweepRow | JobRow) -> MeshView:
    view = MeshView()
    for row in rows:
        view.apply(row)
    return view


def test_a_job_of_an_older_sweep_of_the_name_is_typed_by_its_id() -> None:
    old = SweepRow("sweep-1", "sweep", 1, 0, 0, submitted_wall_s=1.0)
    new = SweepRow("sweep-2", "sweep", 1, 0, 0, submitted_wall_s=2.0)
    first = job("a", JobState.WAITING, sweep_id="sweep-1")
    last = job("b", JobState.WAITING, sweep_id="sweep-2")
    view = view_of(old, new)
    assert typed_name(first, view) == "a"
    assert typed_name(last, view) == "sweep/b"
    action = cancel([first], view)
    assert action is not None
    assert action.command == "meshtrain cancel a"


def test_many_jobs_go_in_several_messages() -> None:
    rows = [job(f"j{i}", JobState.FAILED) for i in range(NAMES_MAX + 1)]
    action = retry(rows, view_of())
    assert action is not None
    assert [len(m.names) for m in action.messages] == [NAMES_MAX, 1]  # type: ignore[union-attr]


def test_each_job_gets_its_own_priority_back() -> None:
    rows = [
        job("a", JobState.WAITING, priority=1),
        job("b", JobState.WAITING, priority=2),
        job("c", JobState.RUNNING, priority=1),
        job("d", JobState.SUCCEEDED),
        job("e", JobState.WAITING, kind=JobKind.BASE),
    ]
    action = prioritise(rows, 9, view_of())
    assert action is not None
    assert plain(action.messages[0])["names"] == ["a", "b", "c"]
    undo = action.undo([msg.Done("r", done=("a", "b", "c"))])
    assert undo is not None
    told = {(m.names, m.priority) for m in undo.messages}  # type: ignore[union-attr]
    assert told == {(("a", "c"), 1), (("b",), 2)}
    assert undo.command == (
        "meshtrain priority a 1; meshtrain priority c 1; meshtrain priority b 2"
    )
    assert prioritise(rows[3:], 9, view_of()) is None


def test_pin_and_unpin() -> None:
    action = pin(base())
    assert plain(action.messages[0])["pinned"] is True
    assert action.command == "meshtrain bases pin " + base().recipe_hash
    undo = action.undo([])
    assert undo is not None
    assert plain(undo.messages[0])["pinned"] is False
    assert "is pinned wherever it lies" in action.told([msg.Done("r", done=("x",))])
    back = pin(base(pinned=("",))).undo([])
    assert back is not None and plain(back.messages[0])["pinned"] is True
    assert pin(base(pinned=("gpu1",))).undo([]) is None, "a pin of all is not what was"


def test_names_are_quoted_for_the_shell() -> None:
    row = job("x", JobState.WAITING, name="sweep/a=it's,b=2")
    action = cancel([row], view_of())
    assert action is not None
    assert action.command == """meshtrain cancel 'sweep/a=it'"'"'s,b=2'"""


def test_the_master_s_notes_are_told() -> None:
    sweep = SweepRow("s-1", "s", 2, 0, 0)
    notes = ("base/7f3a is not cancelled: 4 jobs wait on it",)
    assert cancel_sweep(sweep).told([msg.Done("r", notes=notes)]) == notes[0]
    assert "all of it has ended" in cancel_sweep(sweep).told([msg.Done("r")])
    assert retry_sweep(sweep).undo([msg.Done("r")]) is None
    assert drain(node(drained=True)).title == "Let gpu1 take jobs again"


# --- the line to the master ------------------------------------------------------------------


async def test_a_message_reaches_a_master_over_its_socket() -> None:
    taken: list[object] = []

    def take(batch: list[tuple[bytes, object]]) -> None:
        for peer, message in batch:
            taken.append(message)
            assert isinstance(message, msg.Drain)
            error = "" if message.drained else "no"
            sockets.send_control(peer, [msg.Done(message.request_id, error, ("gpu1",))])

    sockets = MasterSockets("127.0.0.1", 0, 0, 0, on_control=take, on_bulk=lambda batch: None)
    try:
        line = StandingLine(partial(MasterClient, f"127.0.0.1:{sockets.control_port}"))
        done = await line.ask(msg.Drain("r1", "gpu1", True))
        assert isinstance(done, msg.Done) and done.done == ("gpu1",)
        with pytest.raises(UserError, match="no"):
            await line.ask(msg.Drain("r2", "gpu1", False))
        assert len(taken) == 2
    finally:
        sockets.close()
    with pytest.raises(MasterAwayError):
        await line.ask(msg.Drain("r3", "gpu1", True), 0.05)
    line.close()


SCRIPT = """\
import json, os, sys
assert sys.argv[1:3] == ["submit", "--json"], sys.argv
if "bad" in sys.argv[3]:
    print("bad.yaml was not accepted: 1 problem", file=sys.stderr)
    sys.exit(2)
if "odd" in sys.argv[3]:
    print("this is no receipt")
    sys.exit(0)
print(json.dumps({"sweep_id": "s-1", "sweep": os.environ["MESHTRAIN_MASTER"], "jobs": 3,
    "bases": [{"hash": "7f3a", "reused": True}], "results": "/r", "notes": ["a note"]}))
"""


async def test_a_job_file_is_submitted_by_the_command(tmp_path: Path) -> None:
    script = tmp_path / "double.py"
    script.write_text(SCRIPT)
    submitter = Submitter("127.0.0.1:7470", tmp_path, (sys.executable, str(script)))
    receipt = await submitter.submit(Path("good.yaml"))
    assert (receipt.sweep_id, receipt.jobs, receipt.notes) == ("s-1", 3, ("a note",))
    assert receipt.sweep == "127.0.0.1:7470"
    assert receipt.row().reused == 1
    with pytest.raises(UserError, match="not accepted: 1 problem"):
        await submitter.submit(Path("bad.yaml"))
    with pytest.raises(UserError, match="printed no receipt"):
        await submitter.submit(Path("odd.yaml"))


# --- the result folder -----------------------------------------------------------------------


def test_a_folder_opens_only_before_a_desktop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "xdg-open"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert opener({"DISPLAY": ":0"}, "linux") == str(program)
    assert opener({"WAYLAND_DISPLAY": "w"}, "linux") == str(program)
    assert opener({"DISPLAY": ":0", "SSH_CONNECTION": "a b"}, "linux") is None
    assert opener({}, "linux") is None
    assert opener({}, "darwin") is None


async def test_a_folder_is_shown_or_not(tmp_path: Path) -> None:
    program = tmp_path / "open"
    program.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    program.chmod(0o755)
    assert await show_folder(tmp_path, str(program))
    assert (await asyncio.to_thread((tmp_path / "opened").read_text)).strip() == str(tmp_path)
    assert not await show_folder(tmp_path / "nowhere", str(program))
    assert not await show_folder(tmp_path, None)
