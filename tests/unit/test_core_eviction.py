"""What the master lets go from a node's cache, and what it doesn't; pins."""

from __future__ import annotations

import pytest

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.eviction import EVICTION_S_MAX, REPLY_S
from meshtrain.core.invariants import check
from meshtrain.core.inventory import CacheUse, Holding, InventoryChange, RoomWanted
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, SweepSpec
from meshtrain.store.memory import MemoryStore

RECIPE = digest(b"recipe")
MODEL = digest(b"model")
JUNK = digest(b"junk")


class Mesh:
    """A scheduler whose nodes say what the test has them say; MODEL is a committed base."""

    def __init__(self, *nodes: str, at_master: bool = True) -> None:
        self.now_s = 0.0
        self.beats = 0
        self.store = MemoryStore()
        self.start()
        for node_id in nodes:
            self.hello(node_id)
        self.submit("first", jobs=0)
        (given,) = self.sent(ev.PlaceJobs(), cmd.AssignAttempt)
        ended = ev.AttemptEnded(
            nodes[0], given.attempt_id, given.epoch, artifact_id=MODEL, size_bytes=1000
        )
        self.do(ended)
        self.told(nodes[0], Holding.HELD)
        if at_master:
            self.do(ev.ArtifactHeld(MASTER_NODE_ID, (MODEL,)))

    def start(self) -> None:
        self.scheduler = Scheduler(SchedulerConfig(lease_s=30.0), self.store.load(), self.now_s)
        self.state = self.scheduler.state

    def do(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.scheduler.handle(event, self.now_s)
        self.store.save([effect for effect in effects if isinstance(effect, fx.Save)])
        self.store.commit()
        check(self.state)
        return effects

    def sent(self, event: ev.Event, kind: type) -> list:  # type: ignore[type-arg]
        commands = [e.command for e in self.do(event) if isinstance(e, fx.SendCommand)]
        return [command for command in commands if isinstance(command, kind)]

    def reply(self, event: ev.Event) -> fx.Reply | None:
        replies = [effect for effect in self.do(event) if isinstance(effect, fx.Reply)]
        return replies[0] if replies else None

    def submit(self, name: str, jobs: int) -> None:
        specs = tuple(
            JobSpec(f"{name}-{i}", f"{name}/{i}", {}, CommandWork("true"), RECIPE)
            for i in range(jobs)
        )
        bases = (BaseSpec(RECIPE, {}, "r", CommandWork("train")),)
        self.do(ev.SweepSubmitted("s", SweepSpec(name, name, specs, bases)))

    def hello(self, node_id: str, number: int = 0, holds: tuple[str, ...] = ()) -> None:
        spec = NodeSpec(node_id, f"http://{node_id}", cpu_slots=1)
        sizes_bytes = (1000,) * len(holds)
        self.do(
            ev.NodeSaidHello(
                spec, f"{node_id}/{number}", (), holds, grant=100, sizes_bytes=sizes_bytes
            )
        )

    def told(self, node_id: str, what: Holding, artifact_id: str = MODEL) -> list[fx.Effect]:
        node = self.state.nodes[node_id]
        change = InventoryChange(artifact_id, what, 1000)
        return self.do(ev.InventoryTold(node_id, node.session, node.inventory + 1, (change,)))

    def wants_room(self, node_id: str, *candidates: str) -> list[str]:
        """What is granted when a node asks for room."""
        beat = self._beat(node_id, RoomWanted(1000, candidates))
        return [command.artifact_id for command in self.sent(beat, cmd.EvictArtifact)]

    def beat(self, node_id: str) -> list[fx.Effect]:
        return self.do(self._beat(node_id, None))

    def _beat(self, node_id: str, room: RoomWanted | None) -> ev.NodeBeat:
        self.beats += 1
        node = self.state.nodes[node_id]
        jobs = [self.state.jobs[self.state.live[attempt_id]] for attempt_id in node.live]
        attempts = [job.attempt for job in jobs if job.attempt is not None]
        return ev.NodeBeat(
            node_id,
            node.session,
            self.beats,
            self.now_s,
            node.seq,
            100,
            tuple(ev.LiveAttempt(a.attempt_id, a.epoch, True) for a in attempts),
            cache=CacheUse(2000, 1000),
            room=room,
        )

    def evict(self, node_id: str) -> fx.Reply | None:
        return self.reply(ev.EvictRequested("e", RECIPE, node_id))

    def holders(self) -> list[str]:
        return self.state.holders(MODEL)


def test_what_the_master_holds_may_go_and_the_node_counts_no_more_from_then_on() -> None:
    mesh = Mesh("n1")
    assert mesh.holders() == ["n1", "master"]
    assert mesh.wants_room("n1", MODEL) == [MODEL]
    assert mesh.holders() == ["master"]
    # What it said before it obeyed changes nothing.
    mesh.told("n1", Holding.HELD)
    assert mesh.holders() == ["master"]
    mesh.told("n1", Holding.GONE)
    assert mesh.state.copies.eviction is None
    # It has come again since.
    mesh.told("n1", Holding.HELD)
    assert mesh.holders() == ["n1", "master"]


def test_p12_the_last_durable_copy_stays() -> None:
    mesh = Mesh("n1", "n2", "n3", at_master=False)
    for more in ("n2", "n3"):
        assert mesh.wants_room("n1", MODEL) == []
        mesh.told(more, Holding.HELD)
    # Two others have it: the first may go, and then nobody else.
    assert mesh.wants_room("n1", MODEL) == [MODEL]
    mesh.told("n1", Holding.GONE)
    assert mesh.wants_room("n2", MODEL) == mesh.wants_room("n3", MODEL) == []
    refused = mesh.evict("n2")
    assert refused is not None
    assert "stays on n2: the master doesn't hold it, and only one other node" in refused.error


def test_p12_nodes_that_are_away_are_no_durable_copies() -> None:
    mesh = Mesh("n1", "n2", "n3", at_master=False)
    mesh.told("n2", Holding.HELD)
    mesh.told("n3", Holding.HELD)
    mesh.do(ev.NodeLeft("n3", "n3/0"))
    assert mesh.wants_room("n1", MODEL) == []


def test_one_at_a_time_and_who_waits_longest_is_next() -> None:
    mesh = Mesh("n1", "n2", "n3")
    for node_id in ("n2", "n3"):
        mesh.told(node_id, Holding.HELD)
    assert mesh.wants_room("n1", MODEL) == [MODEL]
    assert mesh.wants_room("n2", MODEL) == mesh.wants_room("n3", MODEL) == []
    sent = [e for e in mesh.told("n1", Holding.GONE) if isinstance(e, fx.SendCommand)]
    assert [(e.node_id, e.command) for e in sent] == [("n2", cmd.EvictArtifact(MODEL))]


def test_what_a_node_keeps_counts_again() -> None:
    mesh = Mesh("n1")
    assert mesh.wants_room("n1", MODEL) == [MODEL]
    mesh.told("n1", Holding.KEPT)
    assert mesh.holders() == ["n1", "master"]
    assert mesh.state.nodes["n1"].evicting is None


def test_what_a_disk_refuses_to_drop_is_listed_and_can_go_later() -> None:
    mesh = Mesh("n1")
    assert JUNK not in mesh.state.nodes["n1"].holds
    mesh.told("n1", Holding.KEPT, JUNK)
    assert JUNK in mesh.state.nodes["n1"].holds
    assert mesh.wants_room("n1", JUNK) == [JUNK]


def test_p5_what_an_attempt_needs_stays() -> None:
    mesh = Mesh("n1")
    mesh.submit("second", jobs=1)
    mesh.do(ev.PlaceJobs())
    assert mesh.wants_room("n1", MODEL) == []
    refused = mesh.evict("n1")
    assert refused is not None and "second/0 needs it there" in refused.error


def test_a_grant_is_void_in_a_new_session() -> None:
    mesh = Mesh("n1")
    assert mesh.evict("n1") is None
    effects = mesh.scheduler.handle(
        ev.NodeSaidHello(NodeSpec("n1", "http://n1", cpu_slots=1), "n1/1", (), (MODEL,), grant=100),
        mesh.now_s,
    )
    (reply,) = [effect for effect in effects if isinstance(effect, fx.Reply)]
    assert "came back in a new session" in reply.error
    assert mesh.state.copies.eviction is None
    assert mesh.holders() == ["n1", "master"]
    # The answer of the old session says nothing about this one.
    gone = (InventoryChange(MODEL, Holding.GONE),)
    mesh.do(ev.InventoryTold("n1", "n1/0", 1, gone))
    assert mesh.holders() == ["n1", "master"]


def test_a_node_that_does_not_answer_keeps_nobody_waiting_for_ever() -> None:
    mesh = Mesh("n1", "n2")
    mesh.told("n2", Holding.HELD)
    assert mesh.evict("n1") is None
    mesh.now_s += REPLY_S
    reply = mesh.reply(ev.Tick(1e9))
    assert reply is not None and "has not said" in reply.notes[0]
    for _ in range(int(EVICTION_S_MAX)):
        mesh.now_s += 1.0
        mesh.do(ev.Tick(1e9))
        for node_id in ("n1", "n2"):
            mesh.state.nodes[node_id].heard_s = mesh.now_s
    assert mesh.wants_room("n2", MODEL) == [MODEL]
    # Whether it is gone there is not known: it counts as no holder, and gets no other grant.
    assert mesh.holders() == ["master"]
    assert mesh.wants_room("n1", JUNK) == []


def test_a_node_that_never_heard_of_its_grant_tells_what_it_has_and_gets_another() -> None:
    mesh = Mesh("n1")
    mesh.told("n1", Holding.HELD, JUNK)
    assert mesh.wants_room("n1", MODEL) == [MODEL]
    asked = fx.AskHello("n1")
    assert asked not in mesh.beat("n1"), "there is time yet"
    mesh.now_s += EVICTION_S_MAX
    mesh.state.nodes["n1"].heard_s = mesh.state.ticked_s = mesh.now_s
    mesh.do(ev.Tick(1e9))
    assert asked in mesh.beat("n1")
    mesh.hello("n1", 1, (MODEL, JUNK))
    assert mesh.holders() == ["n1", "master"]
    assert asked not in mesh.beat("n1")
    assert mesh.wants_room("n1", MODEL) == [MODEL]


def test_what_nobody_knows_goes_from_a_node_that_runs_nothing() -> None:
    mesh = Mesh("n1")
    mesh.told("n1", Holding.HELD, JUNK)
    mesh.submit("second", jobs=1)
    (given,) = mesh.sent(ev.PlaceJobs(), cmd.AssignAttempt)
    # It may be the output of that job, which has not been told yet.
    assert mesh.wants_room("n1", JUNK) == []
    mesh.do(ev.AttemptEnded("n1", given.attempt_id, given.epoch))
    assert mesh.wants_room("n1", JUNK) == [JUNK]


def test_a_result_that_the_master_lost_stays() -> None:
    mesh = Mesh("n1")
    mesh.submit("second", jobs=1)
    (given,) = mesh.sent(ev.PlaceJobs(), cmd.AssignAttempt)
    mesh.do(ev.AttemptEnded("n1", given.attempt_id, given.epoch, artifact_id=JUNK, size_bytes=5))
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (JUNK,)))
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, removed=(JUNK,)))
    mesh.told("n1", Holding.HELD, JUNK)
    assert mesh.wants_room("n1", JUNK) == []


@pytest.mark.parametrize("node_id", ["", "n1"])
def test_what_is_pinned_stays_over_a_restart_of_the_master(node_id: str) -> None:
    mesh = Mesh("n1")
    mesh.do(ev.PinRequested("p", RECIPE, node_id))
    for _ in range(2):
        assert mesh.wants_room("n1", MODEL) == []
        refused = mesh.evict("n1")
        assert refused is not None and "it is pinned" in refused.error
        mesh.start()
        mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (MODEL,)))
        mesh.hello("n1", 1, holds=(MODEL,))
    mesh.do(ev.PinRequested("u", RECIPE, pinned=False))
    mesh.start()
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (MODEL,)))
    mesh.hello("n1", 2, holds=(MODEL,))
    assert mesh.wants_room("n1", MODEL) == [MODEL]


def test_pins_tell_what_they_do_not_reach() -> None:
    mesh = Mesh("n1", "n2")

    def told(event: ev.PinRequested) -> str:
        reply = mesh.reply(event)
        assert reply is not None
        return reply.error or "; ".join(reply.notes)

    assert "n9" in told(ev.PinRequested("p", RECIPE, "n9"))
    assert "no base has" in told(ev.PinRequested("p", "ff" * 16))
    assert "doesn't hold it yet" in told(ev.PinRequested("p", RECIPE, "n2"))
    assert told(ev.PinRequested("p", RECIPE)) == ""
    assert "still pinned everywhere" in told(ev.PinRequested("u", RECIPE, "n2", pinned=False))
    assert told(ev.PinRequested("u", RECIPE, pinned=False)) == ""
    assert "was not pinned" in told(ev.PinRequested("u", RECIPE, pinned=False))
    assert mesh.state.copies.pins == set()


def test_of_equal_artifacts_of_two_recipes_each_pin_counts() -> None:
    mesh = Mesh("n1")
    copies = mesh.state.copies
    copies.learn_base("other", None, MODEL)
    mesh.do(ev.PinRequested("p", RECIPE))
    assert copies.is_pinned(MODEL, "n1")
    copies.learn_base(RECIPE, MODEL, None)
    assert not copies.is_pinned(MODEL, "n1")
    assert copies.base_of[MODEL] == {"other"}
