"""A node's cache and stock, who holds what without the master, rates; what is fetched ahead."""

from __future__ import annotations

import pytest

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.agent import Agent
from meshtrain.core.cache import USE_NOTED_EVERY_S, Cache, Cached, CacheLimits
from meshtrain.core.inventory import (
    CANDIDATES_MAX,
    CHANGES_TOLD_MAX,
    CacheUse,
    Holding,
    InventoryChange,
    InventoryLog,
)
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.node import Node, NodeSpec
from meshtrain.core.placement import choose
from meshtrain.core.rates import BYTES_PER_S_ASSUMED, PAIRS_MAX, Rates
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.source_book import ARTIFACTS_MAX, SOURCES_MAX, KnownSources, SourceBook
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.core.stock import PAUSE_S_MAX, RETRY_S
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, Resources, SweepSpec

A, B, C = (digest(name.encode()) for name in "abc")
MB = 1 << 20
SOURCE = cmd.ArtifactSource("n2", "http://n2")
NEEDED: frozenset[str] = frozenset()


# --- what could go ---------------------------------------------------------------------


def cache(*found: Cached, budget: int = 0, reserve: int = 0) -> Cache:
    return Cache(CacheLimits(budget, reserve), found, now_s=1000.0)


def test_of_equal_sizes_the_longest_idle_is_first() -> None:
    mine = cache(Cached(A, 10, 5.0), Cached(B, 10, 50.0), Cached(C, 10, 20.0), budget=20)
    wanted = mine.wanted(NEEDED, 0, 0, 1000.0)
    assert wanted is not None
    assert (wanted.size_bytes, wanted.candidates) == (10, (B, C, A))
    mine.use(B, 1001.0)
    again = mine.wanted({C}, 0, 0, 1002.0)
    assert again is not None and again.candidates == (A, B)


def test_one_old_base_goes_before_a_thousand_small_results() -> None:
    results = [Cached(digest(str(i).encode()), 10, 3600.0) for i in range(200)]
    mine = cache(Cached(A, 10_000, 600.0), *results, budget=11_000)
    wanted = mine.wanted(NEEDED, 0, 0, 1000.0)
    assert wanted is not None and wanted.candidates[0] == A
    # What is larger than needed is no better for it: the longer idle goes.
    mine = cache(Cached(A, 100 * MB, 60.0), Cached(B, 10 * MB, 61.0), budget=109 * MB)
    wanted = mine.wanted(NEEDED, 0, 0, 1000.0)
    assert wanted is not None and wanted.candidates == (B, A)


def test_while_there_is_room_nothing_is_asked_and_a_disk_keeps_its_reserve() -> None:
    mine = cache(Cached(A, 10), reserve=100)
    assert mine.wanted(NEEDED, 0, 0, 1000.0) is None, "nothing is known of the disk yet"
    mine.free_bytes = 100
    assert mine.wanted(NEEDED, 0, 0, 1000.0) is None
    mine.free_bytes = 99
    wanted = mine.wanted(NEEDED, 0, 0, 1000.0)
    assert wanted is not None and wanted.size_bytes == 1
    assert mine.wanted({A}, 0, 0, 1000.0) is None, "all of it is needed"
    mine.remove(A)
    assert mine.use_told() == CacheUse(0, 0, 109, 9)


def test_what_is_on_its_way_counts() -> None:
    mine = cache(Cached(A, 10), budget=15)
    assert mine.wanted(NEEDED, 5, 0, 1000.0) is None
    wanted = mine.wanted(NEEDED, 6, 0, 1000.0)
    assert wanted is not None and wanted.size_bytes == 1


def test_candidates_that_are_not_granted_make_room_for_others() -> None:
    names = [digest(str(i).encode()) for i in range(CANDIDATES_MAX + 1)]
    mine = cache(*(Cached(name, 1, 100.0 - i) for i, name in enumerate(names)), budget=1)

    def asked() -> tuple[str, ...]:
        wanted = mine.wanted(NEEDED, 0, 0, 1000.0)
        assert wanted is not None
        return wanted.candidates

    assert asked() == tuple(names[:-1])
    mine.pass_over()
    assert asked() == (names[-1],)
    mine.pass_over()
    assert asked() == tuple(names[:-1])


def test_a_use_is_noted_on_the_disk_now_and_then() -> None:
    mine = cache(Cached(A, 10))
    assert mine.use(A, 1000.0)
    assert not mine.use(A, 1001.0)
    assert mine.use(A, 1000.0 + USE_NOTED_EVERY_S)
    assert not mine.use(B, 1000.0)


# --- what is told ------------------------------------------------------------------------


def test_changes_are_told_again_until_they_are_taken() -> None:
    log = InventoryLog()
    changes = tuple(InventoryChange(A, Holding.HELD, number) for number in range(3))
    assert log.note(changes) == 1
    assert log.pending() == (1, changes)
    log.confirm(2)
    assert log.pending() == (3, changes[2:])
    log.confirm(99)
    assert log.pending() == (4, ())
    assert log.note(changes) == 4
    log.note(changes[:1] * CHANGES_TOLD_MAX)
    assert len(log.pending()[1]) == CHANGES_TOLD_MAX
    log.restart()
    assert log.pending() == (1, ())


# --- a node without its master ---------------------------------------------------------------


def test_a_book_of_sources_is_bounded_and_tells_what_is_new() -> None:
    book = SourceBook()
    assert book.take_news() is None
    many = tuple(cmd.ArtifactSource(f"n{i}", f"http://n{i}") for i in range(SOURCES_MAX + 9))
    book.learn(A, many[:2], 7)
    book.learn(A, (SOURCE, *many[1:]))
    kept = book.take_news()
    assert kept is not None and len(kept[0].sources) == SOURCES_MAX
    assert (kept[0].sources[0], kept[0].size_bytes, kept[0].unfinished) == (SOURCE, 7, True)
    book.learn(A, (SOURCE,))
    assert book.take_news() is None
    for i in range(ARTIFACTS_MAX):
        book.learn(digest(str(i).encode()), (SOURCE,))
    news = book.take_news()
    assert news is not None and len(news) == ARTIFACTS_MAX and book.of(A) == ()
    book = SourceBook(kept)
    assert book.take_news() is None and book.unfinished() == kept
    book.finish(A)
    assert book.unfinished() == ()


class Host:
    """An agent, and what it did last."""

    def __init__(
        self,
        *cached: Cached,
        budget: int = 0,
        known: tuple[KnownSources, ...] = (),
        adopted: tuple[io.AdoptedAttempt, ...] = (),
    ):
        self.now_s = 100.0
        self.agent = Agent(
            slots=2,
            holds=(),
            life="life",
            cached=cached,
            cache_limits=CacheLimits(budget, 0),
            known_sources=known,
            adopted=adopted,
            now_s=self.now_s,
        )
        self.seq = 0
        self.first = self.agent.start(self.now_s)

    def do(self, event: io.AgentEvent) -> list[io.AgentEffect]:
        return self.agent.handle(event, self.now_s)

    def join(self) -> None:
        session = self.agent.session
        self.do(io.Welcomed(session, session, 30.0, 5000.0))
        self.do(io.BeatAnswered(session, 1, 5000.0))

    def command(self, command: cmd.Command) -> list[io.AgentEffect]:
        self.seq += 1
        return self.do(io.CommandCame(self.agent.session, self.seq, command))

    def assign(self, base: str, job: str = "j", size_bytes: int = 10) -> list[io.AgentEffect]:
        need = cmd.ArtifactNeed(base, (SOURCE,), size_bytes)
        return self.command(
            cmd.AssignAttempt(
                f"{job}.1", job, job, 1, CommandWork("true"), (), None, "r", need, None
            )
        )


def of(effects: list[io.AgentEffect], kind: type) -> list:  # type: ignore[type-arg]
    return [effect for effect in effects if isinstance(effect, kind)]


def changes(effects: list[io.AgentEffect]) -> list[tuple[str, Holding]]:
    told = [change for holds in of(effects, io.SendHolds) for change in holds.changes]
    return [(change.artifact_id, change.holding) for change in told]


def test_p7_a_new_daemon_goes_on_fetching_before_its_master_is_there() -> None:
    known = (
        KnownSources(A, (SOURCE,), 10, unfinished=True),
        KnownSources(B, (SOURCE,), 10),
        KnownSources(C, (SOURCE,), 10, unfinished=True),
    )
    host = Host(Cached(C, 10), known=known)
    assert of(host.first, io.FetchArtifact) == [io.FetchArtifact(A, (SOURCE,))]
    # Nobody could give its jobs to another node: it is tried again.
    failure = Failure(FailureClass.NETWORK, "no source answered")
    assert of(host.do(io.FetchGaveUp(A, failure)), io.FetchArtifact) == []
    host.now_s += RETRY_S
    assert of(host.do(io.BeatDue()), io.FetchArtifact) == [io.FetchArtifact(A, (SOURCE,))]
    (kept,) = of(host.do(io.ArtifactFetched(A, size_bytes=10)), io.KeepSources)
    assert not any(line.unfinished for line in kept.known if line.artifact_id == A)


def test_p7_a_fetch_that_fails_while_the_master_is_away_fails_no_job() -> None:
    host = Host()
    host.join()
    host.assign(A)
    host.now_s += 60.0
    failure = Failure(FailureClass.NETWORK, "no source answered")
    assert of(host.do(io.FetchGaveUp(A, failure)), io.SendEnded) == []
    # The master is back: what fails now fails the attempt, and its job goes elsewhere.
    effects = host.do(io.BeatDue())
    (beat,) = of(effects, io.SendBeat)
    host.do(io.BeatAnswered(host.agent.session, beat.beat, 5000.0))
    host.now_s += RETRY_S
    assert of(host.do(io.BeatDue()), io.FetchArtifact) == [io.FetchArtifact(A, (SOURCE,))]
    (ended,) = of(host.do(io.FetchGaveUp(A, failure)), io.SendEnded)
    assert ended.report.failure == failure


def test_p12_a_full_disk_pauses_a_fetch_and_says_so() -> None:
    host = Host(Cached(B, 100, 50.0))
    host.join()
    host.assign(A, size_bytes=100)
    host.do(io.DiskSeen(50))
    effects = host.do(io.FetchGaveUp(A, Failure(FailureClass.DISK, "no room")))
    assert of(effects, io.SendEnded) == []
    (beat,) = of(host.do(io.BeatDue()), io.SendBeat)
    assert beat.note == "paused: its disk has no room for 1 artifact of 0 MB"
    assert not beat.accepting and beat.fetching == (A,)
    # It asks for what could go, and goes on when that is gone.
    assert beat.room is not None and beat.room.candidates == (B,)
    assert of(host.command(cmd.EvictArtifact(B)), io.RemoveArtifact) == [io.RemoveArtifact(B)]
    effects = host.do(io.ArtifactRemoved(B))
    assert of(effects, io.FetchArtifact) == [io.FetchArtifact(A, (SOURCE,))]
    host.do(io.ArtifactFetched(A, size_bytes=100))
    (beat,) = of(host.do(io.BeatDue()), io.SendBeat)
    assert beat.accepting and beat.note == ""


def test_a_disk_that_stays_full_sends_the_job_elsewhere() -> None:
    host = Host()
    host.join()
    host.assign(A)
    full = Failure(FailureClass.DISK, "no room")
    assert of(host.do(io.FetchGaveUp(A, full)), io.SendEnded) == []
    host.now_s += PAUSE_S_MAX
    host.do(io.BeatDue())
    host.do(io.BeatAnswered(host.agent.session, 2, 5000.0))
    host.do(io.BeatDue())
    (ended,) = of(host.do(io.FetchGaveUp(A, full)), io.SendEnded)
    assert ended.report.failure == full


def test_p5_what_is_being_removed_is_fetched_anew_once_it_is_gone() -> None:
    host = Host(Cached(A, 10))
    host.join()
    assert of(host.command(cmd.EvictArtifact(A)), io.RemoveArtifact) == [io.RemoveArtifact(A)]
    effects = host.assign(A)
    assert not of(effects, io.FetchArtifact) and not of(effects, io.LaunchProcess)
    effects = host.do(io.ArtifactRemoved(A))
    assert changes(effects) == [(A, Holding.GONE)]
    assert of(effects, io.FetchArtifact) == [io.FetchArtifact(A, (SOURCE,))]
    effects = host.do(io.ArtifactFetched(A, size_bytes=10))
    assert changes(effects) == [(A, Holding.HELD)] and of(effects, io.LaunchProcess)


def test_a_disk_that_refuses_keeps_it_and_a_job_that_waits_for_it_starts() -> None:
    host = Host(Cached(A, 10))
    host.join()
    host.command(cmd.EvictArtifact(A))
    host.assign(A)
    effects = host.do(io.ArtifactRemoved(A, "read-only file system"))
    assert changes(effects) == [(A, Holding.KEPT)]
    assert of(effects, io.LaunchProcess)


def test_p5_a_node_keeps_what_its_job_starts_from_and_what_it_left() -> None:
    host = Host(Cached(A, 10))
    host.join()
    host.assign(A)
    assert changes(host.command(cmd.EvictArtifact(A))) == [(A, Holding.KEPT)]
    host.do(io.ProcessStarted("j.1"))
    host.do(io.ProcessEnded("j.1", None, 1.0))
    host.do(io.OutputStored("j.1", B, 10))
    # Its end is not on the master's disk: the output may be asked for again.
    assert changes(host.command(cmd.EvictArtifact(B))) == [(B, Holding.KEPT)]
    assert of(host.command(cmd.EvictArtifact(A)), io.RemoveArtifact)
    host.command(cmd.ForgetAttempt("j.1"))
    assert of(host.command(cmd.EvictArtifact(B)), io.RemoveArtifact)
    assert changes(host.command(cmd.EvictArtifact(C))) == [(C, Holding.GONE)]


def test_p7_what_is_granted_while_an_output_is_stored_goes_once_that_is_known() -> None:
    host = Host(Cached(A, 10), Cached(B, 10), Cached(C, 10))
    host.join()
    host.assign(C)
    host.do(io.ProcessStarted("j.1"))
    assert of(host.do(io.ProcessEnded("j.1", None, 1.0)), io.StoreOutput)
    for artifact_id in (A, B):
        effects = host.command(cmd.EvictArtifact(artifact_id))
        assert not of(effects, io.RemoveArtifact) and changes(effects) == []
    # The output has the very bytes of the one: that stays, and the other goes.
    effects = host.do(io.OutputStored("j.1", A, 10))
    assert changes(effects) == [(A, Holding.KEPT)]
    assert of(effects, io.RemoveArtifact) == [io.RemoveArtifact(B)]


def test_p7_an_output_is_stored_once_what_was_granted_before_it_is_gone() -> None:
    host = Host(Cached(A, 10), Cached(B, 10), Cached(C, 10))
    host.join()
    host.assign(C)
    host.do(io.ProcessStarted("j.1"))
    for artifact_id in (A, B):
        assert of(host.command(cmd.EvictArtifact(artifact_id)), io.RemoveArtifact)
    assert not of(host.do(io.ProcessEnded("j.1", None, 1.0)), io.StoreOutput)
    assert not of(host.do(io.ArtifactRemoved(A)), io.StoreOutput)
    # Where the disk refuses, its turn is over too.
    assert of(host.do(io.ArtifactRemoved(B, "read-only file system")), io.StoreOutput)


def test_p7_an_output_that_a_former_daemon_stored_stays_until_the_master_has_it() -> None:
    former = Host(Cached(C, 10))
    former.join()
    (launch,) = of(former.assign(C), io.LaunchProcess)
    adopted = io.AdoptedAttempt(launch.assignment, A)
    host = Host(Cached(A, 10), Cached(C, 10), adopted=(adopted,))
    host.join()
    # The master knows of another job that made the same bytes, and needs them no more.
    assert changes(host.command(cmd.EvictArtifact(A))) == [(A, Holding.KEPT)]
    host.do(io.ProcessEnded("j.1", None, 1.0))
    host.do(io.OutputStored("j.1", A, 10))
    host.command(cmd.ForgetAttempt("j.1"))
    assert of(host.command(cmd.EvictArtifact(A)), io.RemoveArtifact) == [io.RemoveArtifact(A)]


def test_an_output_that_waits_for_room_lets_others_go_and_make_some() -> None:
    host = Host(Cached(A, 10), Cached(C, 10))
    host.join()
    host.assign(C)
    host.do(io.ProcessStarted("j.1"))
    host.do(io.ProcessEnded("j.1", None, 1.0))
    assert not of(host.command(cmd.EvictArtifact(A)), io.RemoveArtifact)
    effects = host.do(io.OutputFailed("j.1", Failure(FailureClass.DISK, "no room")))
    assert of(effects, io.RemoveArtifact) == [io.RemoveArtifact(A)]
    assert not of(host.do(io.BeatDue()), io.StoreOutput), "not while something goes"
    assert of(host.do(io.ArtifactRemoved(A)), io.StoreOutput)


def test_p12_a_grant_of_a_former_session_lapses_while_an_output_is_stored() -> None:
    host = Host(Cached(A, 10), Cached(C, 10))
    host.join()
    host.assign(C)
    host.do(io.ProcessStarted("j.1"))
    host.do(io.ProcessEnded("j.1", None, 1.0))
    host.command(cmd.EvictArtifact(A))
    (hello,) = of(host.do(io.HelloAsked()), io.SendHello)
    assert A in hello.holds, "the next master counts on it"
    assert not of(host.do(io.OutputStored("j.1", B, 10)), io.RemoveArtifact)


def test_what_is_dropped_while_an_output_is_stored_goes_unless_a_job_needs_it_by_then() -> None:
    host = Host(Cached(A, 10), Cached(B, 10), Cached(C, 10))
    host.join()
    host.assign(C)
    host.do(io.ProcessStarted("j.1"))
    host.do(io.ProcessEnded("j.1", None, 1.0))
    for artifact_id in (A, B):
        assert not of(host.command(cmd.DropArtifact(artifact_id)), io.RemoveArtifact)
    host.assign(A, "other")
    effects = host.do(io.OutputStored("j.1", None, 0))
    assert of(effects, io.RemoveArtifact) == [io.RemoveArtifact(B)]


def test_what_is_dropped_while_a_job_runs_on_it_goes_when_that_has_ended() -> None:
    host = Host(Cached(A, 10))
    host.join()
    host.assign(A)
    host.do(io.ProcessStarted("j.1"))
    assert not of(host.command(cmd.DropArtifact(A)), io.RemoveArtifact)
    host.do(io.ProcessEnded("j.1", None, 1.0))
    effects = host.do(io.OutputStored("j.1", B, 10))
    assert of(effects, io.RemoveArtifact) == [io.RemoveArtifact(A)]
    assert not of(host.command(cmd.ForgetAttempt("j.1")), io.RemoveArtifact), "the result stays"


def test_what_is_dropped_and_needed_once_more_stays() -> None:
    host = Host(Cached(A, 10))
    host.join()
    host.assign(A)
    host.do(io.ProcessStarted("j.1"))
    host.command(cmd.DropArtifact(A))
    host.assign(A, "other")
    host.do(io.ProcessEnded("j.1", None, 1.0))
    assert not of(host.do(io.OutputStored("j.1", B, 10)), io.RemoveArtifact)
    host.do(io.ProcessStarted("other.1"))
    host.do(io.ProcessEnded("other.1", None, 1.0))
    assert not of(host.do(io.OutputStored("other.1", C, 10)), io.RemoveArtifact)


def test_what_is_fetched_ahead_takes_no_room_from_others() -> None:
    host = Host(Cached(A, 10), budget=100)
    host.join()
    ahead = cmd.PrefetchArtifact(cmd.ArtifactNeed(B, (SOURCE,), 91))
    assert of(host.command(ahead), io.FetchArtifact) == []
    ahead = cmd.PrefetchArtifact(cmd.ArtifactNeed(B, (SOURCE,), 90))
    assert of(host.command(ahead), io.FetchArtifact) == [io.FetchArtifact(B, (SOURCE,))]
    # Nor does anything have to go for it when a job's own need comes on top.
    (holds,) = of(host.assign(C, size_bytes=10), io.FetchArtifact)
    assert holds.artifact_id == C
    (beat,) = of(host.do(io.BeatDue()), io.SendBeat)
    assert beat.room is None and beat.cache.room_bytes == 0
    host.do(io.ArtifactFetched(C, size_bytes=10))
    # No room after all: it is given up without a word.
    effects = host.do(io.FetchGaveUp(B, Failure(FailureClass.DISK, "no room")))
    assert effects == [] or not of(effects, io.SendEnded)
    assert host.agent.stock.fetching == {}


# --- how fast, and where -----------------------------------------------------------------


def test_rates_follow_the_newest_fetches_and_forget() -> None:
    rates = Rates()
    assert rates.of_node("n1") == rates.of_source("n1", "n2") == BYTES_PER_S_ASSUMED
    rates.learn("n1", {"n2": 8 * MB, "n3": 2 * MB, "n4": 10}, 2.0)
    assert rates.of_source("n1", "n2") == 4 * MB
    assert rates.of_source("n1", "n3") == MB
    assert rates.of_source("n1", "n4") == BYTES_PER_S_ASSUMED, "too little to tell"
    assert rates.of_node("n1") == pytest.approx(5 * MB, rel=1e-5)
    rates.learn("n1", {"n2": MB}, 1.0)
    assert MB < rates.of_source("n1", "n2") < 4 * MB
    rates.learn("n1", {"n2": MB}, 0.0)
    rates.learn("n1", {"n2": MB}, float("nan"))
    assert MB < rates.of_source("n1", "n2") < 4 * MB
    rates.forget("n2")
    assert rates.of_source("n1", "n2") == BYTES_PER_S_ASSUMED
    for i in range(PAIRS_MAX + 1):
        rates.learn(f"x{i}", {"n2": MB}, 1.0)
    assert rates.of_source("n1", "n3") == BYTES_PER_S_ASSUMED


def a_node(node_id: str, slots: int = 2) -> Node:
    node = Node(NodeSpec(node_id, f"http://{node_id}", cpu_slots=slots), "s/0", 0.0)
    node.grant = 100
    return node


def test_a_job_goes_where_it_starts_soonest() -> None:
    nodes = [a_node("n1"), a_node("n2"), a_node("n3")]
    lacking = {"n1": 20.0, "n2": 3.0, "n3": 10.0}
    placement = choose(nodes, Resources(), lambda node: lacking[node.node_id])
    assert placement is not None and placement.node_id == "n2"
    # A slot that is free in a moment is better than a long way for the base.
    nodes[0].cpus_used = 2
    lacking["n1"] = 0.0
    for run_s, expected in ((0.4, "n1"), (20.0, "n2")):
        placement = choose(
            nodes, Resources(), lambda node: lacking[node.node_id], ahead=True, run_s=run_s
        )
        assert placement is not None and placement.node_id == expected


class Mesh:
    """A scheduler with nodes of one slot; the base of all jobs is committed on the first."""

    def __init__(self, *nodes: str, base_bytes: int = 100, config: SchedulerConfig | None = None):
        self.now_s = 0.0
        self.scheduler = Scheduler(config or SchedulerConfig(), Loaded())
        self.state = self.scheduler.state
        for node_id in nodes:
            spec = NodeSpec(node_id, f"http://{node_id}", cpu_slots=1)
            cache = CacheUse(room_bytes=1 << 40)
            self.do(ev.NodeSaidHello(spec, f"{node_id}/0", (), (), grant=100, cache=cache))
        self.submit("first", 0)
        (given,) = self.placed()
        self.do(self.ended(*given, artifact_id=A, size_bytes=base_bytes))

    def ended(self, node_id: str, given: cmd.AssignAttempt, **fields: object) -> ev.AttemptEnded:
        return ev.AttemptEnded(node_id, given.attempt_id, given.epoch, **fields)  # type: ignore[arg-type]

    def do(self, event: ev.Event) -> list[fx.Effect]:
        return self.scheduler.handle(event, self.now_s)

    def commands(self, event: ev.Event) -> list[tuple[str, cmd.Command]]:
        return [(e.node_id, e.command) for e in self.do(event) if isinstance(e, fx.SendCommand)]

    def placed(self) -> list[tuple[str, cmd.AssignAttempt]]:
        found = self.commands(ev.PlaceJobs())
        return [(name, one) for name, one in found if isinstance(one, cmd.AssignAttempt)]

    def tick(self, after_s: float = 0.5) -> list[tuple[str, str]]:
        """The nodes that are told to fetch something ahead, and what."""
        self.now_s += after_s
        found = self.commands(ev.Tick(1e9))
        return [
            (name, one.need.artifact_id)
            for name, one in found
            if isinstance(one, cmd.PrefetchArtifact)
        ]

    def submit(self, name: str, jobs: int) -> None:
        recipe = digest(b"recipe")
        specs = tuple(
            JobSpec(f"{name}-{i}", f"{name}/{i}", {}, CommandWork("true"), recipe)
            for i in range(jobs)
        )
        bases = (BaseSpec(recipe, {}, "r", CommandWork("train")),)
        self.do(ev.SweepSubmitted("s", SweepSpec(name, name, specs, bases)))

    def fill(self, node_id: str) -> None:
        """Somebody's job without a base takes a node's slot."""
        node = self.state.nodes[node_id]
        node.cpus_used = node.spec.cpu_slots

    def held(self, node_id: str) -> None:
        node = self.state.nodes[node_id]
        change = (InventoryChange(A, Holding.HELD, 100),)
        self.do(ev.InventoryTold(node_id, node.session, node.inventory + 1, change))


def test_a_busy_node_fetches_ahead_what_its_next_job_starts_from() -> None:
    mesh = Mesh("n1", "n2", "n3")
    for name in ("n1", "n2", "n3"):
        mesh.fill(name)
    assert mesh.tick() == [], "nothing waits"
    mesh.submit("more", 2)
    # Two jobs wait: the node that has it gets one of them, one other node the other.
    assert mesh.tick() == [("n2", A)]
    assert mesh.tick() == []


def test_nothing_is_fetched_ahead_where_there_is_no_room_or_nobody_wants_it() -> None:
    mesh = Mesh("n1", "n2", config=SchedulerConfig(prefetch=False))
    mesh.fill("n1")
    mesh.fill("n2")
    mesh.submit("more", 9)
    assert mesh.tick() == []
    mesh = Mesh("n1", "n2")
    mesh.fill("n1")
    mesh.fill("n2")
    mesh.state.nodes["n2"].cache = CacheUse(room_bytes=99)
    mesh.submit("more", 9)
    assert mesh.tick() == []
    mesh.state.nodes["n2"].cache = CacheUse(room_bytes=100)
    assert mesh.tick() == [("n2", A)]


def test_popular_bases_are_kept_on_as_many_nodes_as_the_setting_says() -> None:
    mesh = Mesh("n1", "n2", "n3", config=SchedulerConfig(warm_copies=2))
    assert mesh.tick() == [("n2", A)]
    mesh.held("n2")
    assert mesh.tick() == []
    mesh.do(ev.NodeLeft("n2", "n2/0"))
    assert mesh.tick() == [("n3", A)]


def test_a_base_is_warmed_on_the_nodes_that_can_have_it() -> None:
    mesh = Mesh("n1", "n2", "n3")
    mesh.state.nodes["n3"].cache = CacheUse()

    def warm(nodes: int) -> fx.Reply:
        effects = mesh.do(ev.WarmRequested("w", digest(b"recipe"), nodes))
        return next(effect for effect in effects if isinstance(effect, fx.Reply))

    assert "2 of 3 nodes can have it" in warm(3).notes[0]
    assert mesh.tick() == [("n2", A)]
    assert "2 nodes already, or on its way" in warm(2).notes[0]
    mesh.held("n2")
    assert mesh.tick() == [] and mesh.state.copies.warm_asked == {}
    effects = mesh.do(ev.WarmRequested("w", "ff" * 16, 1))
    assert "no base has" in next(e for e in effects if isinstance(e, fx.Reply)).error


def test_jobs_wait_for_a_busy_holder_only_where_that_is_sooner() -> None:
    minute_bytes = int(60 * BYTES_PER_S_ASSUMED)
    for mean_s, expected in ((10.0, []), (100.0, ["n2"]), (None, ["n2"])):
        mesh = Mesh("n1", "n2", base_bytes=minute_bytes)
        mesh.fill("n1")
        mesh.submit("more", 2)
        if mean_s is not None:
            mesh.state.run_s_mean["more"] = mean_s
        assert [name for name, _ in mesh.placed()] == expected
    # Nobody waits longer than fetching would have taken, whatever was expected.
    mesh = Mesh("n1", "n2", base_bytes=minute_bytes)
    mesh.fill("n1")
    mesh.submit("more", 2)
    mesh.state.run_s_mean["more"] = 10.0
    assert mesh.placed() == []
    for _ in range(13):
        mesh.tick(5.0)
        for node in mesh.state.nodes.values():
            node.heard_s = mesh.now_s
    assert [name for name, _ in mesh.placed()] == ["n2"]
