"""From the wire to events, and from effects to the wire."""

from __future__ import annotations

import msgspec
import pytest
from worker_records import assignment

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.ids import digest
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.translate import METRICS_MAX, event_of, numbered

MODEL = digest(b"model")
BAD_IDS = ["", "../etc/passwd", "x" * 32, MODEL.upper(), MODEL + "0"]


@pytest.mark.parametrize("artifact_id", BAD_IDS)
def test_an_end_with_a_result_that_nobody_can_fetch_is_no_success(artifact_id: str) -> None:
    event = event_of("n1", msg.Ended("s", "j.1", 1, artifact_id=artifact_id))
    assert isinstance(event, ev.AttemptEnded)
    assert event.artifact_id is None
    assert event.failure is not None
    assert event.failure.failure_class is FailureClass.HOST_LOST
    assert "run the same version" in event.failure.message
    own = Failure(FailureClass.USER_ERROR, "mine")
    event = event_of("n1", msg.Ended("s", "j.1", 1, artifact_id=artifact_id, failure=own))
    assert isinstance(event, ev.AttemptEnded) and event.failure == own


def test_metrics_are_finite_and_not_too_many() -> None:
    metrics = {"nan": float("nan"), "inf": float("inf"), "less": float("-inf"), "good": 1.0}
    event = event_of("n1", msg.Ended("s", "j.1", 1, artifact_id=MODEL, metrics=metrics))
    assert isinstance(event, ev.AttemptEnded)
    assert (event.metrics, event.artifact_id, event.failure) == ({"good": 1.0}, MODEL, None)
    many = {f"m{i}": 1.0 for i in range(2 * METRICS_MAX)}
    event = event_of("n1", msg.Ended("s", "j.1", 1, metrics=many))
    assert isinstance(event, ev.AttemptEnded) and len(event.metrics) == METRICS_MAX


def test_holdings_are_ids_of_artifacts() -> None:
    held = tuple(InventoryChange(name, Holding.HELD, 7) for name in (*BAD_IDS, MODEL))
    event = event_of("n1", msg.Holds("s", 4, held))
    # Each keeps its number; what nobody could fetch is held by nobody.
    nothing = tuple(InventoryChange(name, Holding.GONE, 7) for name in BAD_IDS)
    assert event == ev.InventoryTold("n1", "s", 4, (*nothing, held[-1]))
    beat = event_of("n1", msg.Beat("s", 1, 1.0, 0, 0, (), first=4, changes=held))
    assert isinstance(beat, ev.NodeBeat) and beat.changes == (*nothing, held[-1])
    spec = NodeSpec("n1", "http://n1", cpu_slots=1)
    sizes_bytes = (*range(len(BAD_IDS)), 99, 5, 5)
    hello = msg.Hello(1, spec, "s", (), (*BAD_IDS, MODEL), 0, sizes_bytes=sizes_bytes)
    event = event_of("n1", hello)
    assert isinstance(event, ev.NodeSaidHello)
    assert (event.holds, event.sizes_bytes) == ((MODEL,), (99,))
    event = event_of("n1", msgspec.structs.replace(hello, sizes_bytes=()))
    assert isinstance(event, ev.NodeSaidHello)
    assert (event.holds, event.sizes_bytes) == ((MODEL,), (0,))


def test_the_masters_address_is_filled_in_where_it_is_a_source() -> None:
    peer = cmd.ArtifactSource("n2", "http://n2")
    need = cmd.ArtifactNeed(MODEL, (peer, cmd.ArtifactSource(MASTER_NODE_ID, "")), 7)
    filled = (peer, cmd.ArtifactSource(MASTER_NODE_ID, "http://master"))
    command = assignment(base=need)
    message = numbered(fx.SendCommand("n1", "s", 3, command), "http://master")
    assert isinstance(message.command, cmd.AssignAttempt)
    assert message.command.base == cmd.ArtifactNeed(MODEL, filled, 7)
    assert message.command.code is None
    more = fx.SendCommand("n1", "s", 4, cmd.AddSources(MODEL, need.sources))
    assert numbered(more, "http://master").command == cmd.AddSources(MODEL, filled)
    ahead = fx.SendCommand("n1", "s", 4, cmd.PrefetchArtifact(need))
    filled_need = cmd.ArtifactNeed(MODEL, filled, 7)
    assert numbered(ahead, "http://master").command == cmd.PrefetchArtifact(filled_need)
    end = fx.SendCommand("n1", "s", 5, cmd.EndAttempt("j.1"))
    assert numbered(end, "http://master") == msg.Numbered("s", 5, cmd.EndAttempt("j.1"))
