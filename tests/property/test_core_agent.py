"""A node's agent: commands in order and each once, no start without trust, all handed back."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core.agent import (
    AHEAD_PER_SLOT,
    COMMANDS_EARLY_MAX,
    LEAVE_ANYWAY_S,
    LEAVE_UNSAFE_S,
    Agent,
)
from meshtrain.core.job import Failure, FailureClass
from meshtrain.ids import digest
from meshtrain.spec.jobs import CommandWork

LEASE_S = 30.0
BASE = digest(b"base")
CHECKPOINT = digest(b"checkpoint")
FAILED = Failure(FailureClass.USER_ERROR, "as drawn")


def assign(number: int, *, gpus: tuple[int, ...] = (), base: bool = False) -> cmd.AssignAttempt:
    source = cmd.ArtifactSource("n2", "http://n2")
    return cmd.AssignAttempt(
        attempt_id=f"j.{number}",
        job_id="j",
        name="s/i=1",
        epoch=number,
        work=CommandWork("true"),
        gpus=gpus,
        timeout_s=None,
        recipe_hash=None,
        base=cmd.ArtifactNeed(BASE, (source,)) if base else None,
        code=None,
    )


class Host:
    """An agent, and a ledger of what it wanted done."""

    def __init__(self, slots: int = 2, holds: tuple[str, ...] = ()) -> None:
        self.now_s = 0.0
        self.agent = Agent(slots=slots, holds=holds, life="life")
        self.launched: list[str] = []
        self.ending: list[str] = []
        self.effects: list[io.AgentEffect] = []
        self.take(self.agent.start(0.0))

    def take(self, effects: list[io.AgentEffect]) -> list[io.AgentEffect]:
        for effect in effects:
            match effect:
                case io.LaunchProcess(assignment=assignment):
                    assert self.agent.trusted, "started without trust"
                    self.launched.append(assignment.attempt_id)
                case io.EndProcess(attempt_id=attempt_id):
                    self.ending.append(attempt_id)
                case _:
                    pass
        self.effects += effects
        return effects

    def do(self, event: io.AgentEvent) -> list[io.AgentEffect]:
        return self.take(self.agent.handle(event, self.now_s))

    def join(self) -> None:
        self.do(
            io.Welcomed(self.agent.session, f"{self.agent.session}@1", LEASE_S, 1000.0 + self.now_s)
        )
        self.answer()

    def answer(self) -> None:
        """The master answers the last heartbeat."""
        beat = max(e.beat for e in self.effects if isinstance(e, io.SendBeat))
        self.do(io.BeatAnswered(self.agent.session, beat, 1000.0 + self.now_s))

    def command(self, seq: int, command: cmd.Command) -> None:
        self.do(io.CommandCame(self.agent.session, seq, command))

    def grants(self) -> list[int]:
        carriers = (io.SendBeat, io.SendEnded)
        return [e.grant for e in self.effects if isinstance(e, carriers)]

    def ends(self) -> dict[str, io.Report]:
        return {e.report.attempt_id: e.report for e in self.effects if isinstance(e, io.SendEnded)}

    def left(self) -> bool:
        return any(isinstance(e, io.LeaveMesh) for e in self.effects)


@given(st.permutations(range(1, 9)), st.lists(st.integers(0, 7), max_size=8))
@settings(deadline=None)
def test_commands_are_obeyed_in_order_and_each_once_however_they_come(
    order: list[int], doubled: list[int]
) -> None:
    host = Host(slots=100)
    host.join()
    sent: dict[int, cmd.Command] = {seq: assign(seq) for seq in range(1, 5)}
    sent |= {4 + seq: cmd.EndAttempt(f"j.{seq}") for seq in range(1, 5)}
    for seq in [*order, *(order[place] for place in doubled)]:
        host.command(seq, sent[seq])
    every = [f"j.{number}" for number in range(1, 5)]
    # What is ended in the same breath never starts.
    assert host.launched == [attempt_id for attempt_id in every if attempt_id not in host.ends()]
    assert host.ending == host.launched
    host.do(io.BeatDue())
    beat = [e for e in host.effects if isinstance(e, io.SendBeat)][-1]
    assert beat.seen_seq == 8
    assert [live.attempt_id for live in beat.attempts] == every


def test_commands_that_come_far_too_early_are_bounded() -> None:
    host = Host()
    host.join()
    for seq in range(2, COMMANDS_EARLY_MAX + 50):
        host.command(seq, cmd.EndAttempt("j.9"))
    assert len(host.agent._early) == COMMANDS_EARLY_MAX
    host.command(1, cmd.EndAttempt("j.9"))
    assert not host.agent._early


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_no_more_run_than_there_are_slots_no_gpu_twice_and_grants_fit(data: st.DataObject) -> None:
    slots = data.draw(st.integers(1, 3), "slots")
    host = Host(slots)
    host.join()
    seq = 0
    running: dict[str, tuple[int, ...]] = {}
    assigned: dict[str, tuple[int, ...]] = {}
    told: set[str] = set()

    def check() -> None:
        for attempt_id in host.launched:
            running.setdefault(attempt_id, assigned[attempt_id])
        live = {a: gpus for a, gpus in running.items() if a not in told}
        assert len(live) <= slots
        used = Counter(gpu for gpus in live.values() for gpu in gpus)
        assert not used or max(used.values()) == 1, "P9"
        assert max(Counter(host.launched).values(), default=1) == 1, "launched twice"
        takes = slots * (1 + AHEAD_PER_SLOT)
        assert host.agent.active - max(0, seq - max(host.grants())) <= max(takes, seq)

    for _ in range(data.draw(st.integers(0, 25), "steps")):
        what = data.draw(st.sampled_from(["assign", "assign", "end", "fail", "forget", "cut"]))
        live = [a for a in host.launched if a not in told]
        if what == "assign":
            seq += 1
            gpus = data.draw(st.sampled_from([(), (0,), (1,), (0, 1)]))
            assigned[f"j.{seq}"] = gpus
            host.command(seq, assign(seq, gpus=gpus))
        elif what in ("end", "fail") and live:
            told.add(live[0])
            host.do(io.ProcessEnded(live[0], FAILED if what == "fail" else None, 1.0))
            host.do(io.OutputStored(live[0], None))
        elif what == "forget" and told:
            seq += 1
            host.command(seq, cmd.ForgetAttempt(sorted(told)[0]))
        elif what == "cut" and assigned:
            seq += 1
            host.command(seq, cmd.EndAttempt(data.draw(st.sampled_from(sorted(assigned)))))
        check()
    for _ in range(2 * len(assigned)):
        for attempt_id in [a for a in host.launched if a not in told]:
            told.add(attempt_id)
            host.do(io.ProcessEnded(attempt_id, None, 1.0))
            host.do(io.OutputStored(attempt_id, None))
            check()
    assert host.ends().keys() == assigned.keys(), "an attempt without an end"


@given(st.lists(st.sampled_from([0.0, 1.0, LEASE_S - 1, LEASE_S + 1]), max_size=12))
@settings(deadline=None)
def test_nothing_starts_without_trust_and_all_does_with_it(waits_s: list[float]) -> None:
    host = Host(slots=100)
    host.do(io.Welcomed(host.agent.session, host.agent.session, LEASE_S, 1000.0))
    for seq, wait_s in enumerate(waits_s, 1):
        host.now_s += wait_s
        host.command(seq, assign(seq))
        if seq % 3 == 0:
            host.do(io.BeatDue())
            host.answer()
    host.do(io.BeatDue())
    host.answer()
    assert sorted(host.launched) == sorted(f"j.{seq}" for seq in range(1, len(waits_s) + 1))


def test_an_answer_to_an_old_heartbeat_brings_no_more_trust_than_it_is_worth() -> None:
    host = Host()
    host.join()
    first = host.agent._beat
    host.now_s = LEASE_S - 1
    host.do(io.BeatDue())
    host.do(io.BeatAnswered(host.agent.session, first, 2000.0))
    host.now_s = LEASE_S + 1
    host.command(1, assign(1))
    assert not host.launched
    host.do(io.BeatAnswered(host.agent.session, first + 1, 2000.0))
    assert host.launched == ["j.1"]


def test_lost_trust_ends_nothing_that_runs() -> None:
    host = Host()
    host.join()
    host.command(1, assign(1))
    host.do(io.ProcessStarted("j.1"))
    host.now_s = 100 * LEASE_S
    host.do(io.BeatDue())
    assert not host.agent.trusted and not host.ending


def test_a_gpu_that_a_given_up_attempt_still_holds_is_waited_for() -> None:
    host = Host(slots=4)
    host.join()
    host.command(1, assign(1, gpus=(0,)))
    host.command(2, cmd.EndAttempt("j.1"))
    host.command(3, assign(2, gpus=(0,)))
    host.command(4, assign(3, gpus=(1,)))
    assert host.launched == ["j.1", "j.3"]
    host.do(io.ProcessEnded("j.1", FAILED, 1.0))
    assert host.launched == ["j.1", "j.3", "j.2"]


def test_what_is_needed_is_fetched_once_and_starts_all_that_waited() -> None:
    host = Host(slots=3)
    host.join()
    for number in (1, 2):
        host.command(number, assign(number, base=True))
    assert [
        type(e) for e in host.effects if isinstance(e, io.FetchArtifact | io.AddFetchSources)
    ] == [
        io.FetchArtifact,
        io.AddFetchSources,
    ]
    assert not host.launched
    host.do(io.ArtifactFetched(BASE))
    assert host.launched == ["j.1", "j.2"]
    host.command(3, assign(3, base=True))
    assert host.launched == ["j.1", "j.2", "j.3"]


@given(
    st.lists(st.sampled_from(["fetching", "ready", "running", "storing"]), min_size=1, max_size=5),
    st.booleans(),
)
@settings(deadline=None)
def test_a_stop_hands_back_what_has_not_ended_and_then_leaves(phases: list[str], now: bool) -> None:
    host = Host(slots=sum(phase in ("running", "storing") for phase in phases) or 1)
    host.join()
    order = sorted(phases, key=lambda phase: phase == "ready")
    for seq, phase in enumerate(order, 1):
        host.command(seq, assign(seq, base=phase == "fetching"))
    running = list(host.launched)
    for attempt_id in running:
        host.do(io.ProcessStarted(attempt_id))
    storing = [a for a in running if order[int(a[2:]) - 1] == "storing"]
    for attempt_id in storing:
        host.do(io.ProcessEnded(attempt_id, None, 1.0))
    # A slot that became free is taken at once by what was ready.
    still = [a for a in host.launched if a not in storing]
    host.do(io.StopAsked(0.0 if now else 1.0))
    assert host.ending == (still if now else [])
    if not now:
        host.now_s += 1.5
        host.do(io.BeatDue())
        assert host.ending == still
    launched = list(host.launched)
    late = len(order) + 1
    host.command(late, assign(late))
    for attempt_id in still:
        host.do(io.ProcessEnded(attempt_id, FAILED, 1.0))
    for attempt_id in storing:
        host.do(io.OutputStored(attempt_id, None))
    assert host.launched == launched, "something was started while stopping"
    ends = host.ends()
    assert ends.keys() == {f"j.{seq}" for seq in range(1, late + 1)}
    assert all(report.handed_back != (a in storing) for a, report in ends.items())
    assert host.grants()[-1] == late, "a stopping node grants nothing"
    for seq, attempt_id in enumerate(ends, late + 1):
        assert not host.left()
        host.command(seq, cmd.ForgetAttempt(attempt_id))
    assert host.left()


def handed_back_with_a_checkpoint() -> Host:
    """A stopping node whose job left a checkpoint, and whose master has that end on disk."""
    host = Host()
    host.join()
    host.command(1, msgspec.structs.replace(assign(1), checkpoint_every_s=60.0))
    host.do(io.ProcessStarted("j.1"))
    host.do(io.StopAsked(0.0))
    host.do(io.ProcessEnded("j.1", FAILED, 1.0))
    host.do(io.CheckpointStored("j.1", CHECKPOINT))
    assert host.ends()["j.1"].checkpoint == CHECKPOINT
    assert host.ends()["j.1"].handed_back
    host.command(2, cmd.ForgetAttempt("j.1"))
    return host


def test_p7_a_stopping_node_stays_until_the_master_holds_its_checkpoint() -> None:
    for command in (cmd.CheckpointSafe(CHECKPOINT), cmd.DropArtifact(CHECKPOINT)):
        host = handed_back_with_a_checkpoint()
        assert not host.left()
        assert host.agent.stays_for == 1
        host.command(3, command)
        assert host.left()


@given(st.booleans())
def test_p7_a_stopping_node_stays_for_its_checkpoint_but_not_for_ever(answered: bool) -> None:
    host = handed_back_with_a_checkpoint()
    limit_s = LEAVE_UNSAFE_S if answered else LEASE_S
    while host.now_s < limit_s - 1.0:
        host.now_s += LEAVE_ANYWAY_S / 10
        host.do(io.BeatDue())
        if answered:
            host.answer()
        assert not host.left()
    host.now_s += 2.0
    host.do(io.BeatDue())
    assert host.left()
