"""The master's directory beside the disks of nodes, and what it lets go, in any order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.cache import Cache, Cached, CacheLimits
from meshtrain.core.invariants import check
from meshtrain.core.inventory import Holding, InventoryChange, InventoryLog, RoomWanted
from meshtrain.core.job import Base, BaseState
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork

ARTIFACTS = [digest(bytes([number])) for number in range(4)]
NODES = ("n1", "n2", "n3", "n4")


def hello(scheduler: Scheduler, node_id: str, holds: set[str], number: int = 0) -> None:
    spec = NodeSpec(node_id, f"http://{node_id}", cpu_slots=1)
    said = ev.NodeSaidHello(spec, f"{node_id}/{number}", (), tuple(sorted(holds)), grant=0)
    scheduler.handle(said, 0.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(ARTIFACTS),
            st.booleans(),
            st.sampled_from(["lost", "told", "twice", "late"]),
            st.booleans(),
        ),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_p12_a_directory_is_right_whatever_was_lost_doubled_or_late(
    steps: list[tuple[str, bool, str, bool]], random: object
) -> None:
    scheduler = Scheduler(SchedulerConfig(), Loaded())
    state = scheduler.state
    hello(scheduler, "n1", set())
    log, disk = InventoryLog(), set()
    late: list[ev.InventoryTold] = []
    for artifact_id, is_there, fate, confirmed in steps:
        (disk.add if is_there else disk.discard)(artifact_id)
        what = Holding.HELD if is_there else Holding.GONE
        change = InventoryChange(artifact_id, what, 7)
        told = ev.InventoryTold("n1", "n1/0", log.note([change]), (change,))
        if fate == "late":
            late.append(told)
        for _ in range({"lost": 0, "late": 0, "told": 1, "twice": 2}[fate]):
            scheduler.handle(told, 0.0)
        if confirmed:
            log.confirm(state.nodes["n1"].inventory)
    for told in reversed(late):
        scheduler.handle(told, 0.0)
    # The next heartbeat repeats what the master has not said to have.
    first, changes = log.pending()
    effects = scheduler.handle(
        ev.NodeBeat("n1", "n1/0", 1, 0.0, 0, 0, (), first=first, changes=changes), 0.0
    )
    assert state.nodes["n1"].holds == disk
    assert all((name in disk) == (state.holders(name) == ["n1"]) for name in ARTIFACTS)
    (answer,) = [effect for effect in effects if isinstance(effect, fx.AnswerBeat)]
    assert answer.inventory == log.number
    check(state)


class Disks:
    """A master and nodes whose disks are known; it decides, they obey, at any time later."""

    def __init__(self, at_master: bool, holders: set[str]) -> None:
        self.model = ARTIFACTS[0]
        spec = BaseSpec("r", {}, "r", CommandWork("train"))
        base = Base(spec, "base", state=BaseState.COMMITTED, artifact_id=self.model)
        self.scheduler = Scheduler(SchedulerConfig(), Loaded())
        # Its job is of no interest here: a base alone has no row to start from.
        self.scheduler.state.know_base(base)
        self.disks: dict[str, set[str]] = {name: set() for name in NODES}
        self.master: set[str] = set()
        self.numbers = dict.fromkeys(NODES, 0)
        self.granted: list[tuple[str, str]] = []
        if at_master:
            self.master.add(self.model)
            self.do(ev.ArtifactHeld(MASTER_NODE_ID, (self.model,)))
        for name in sorted(holders):
            self.disks[name].add(self.model)
        for name in NODES:
            hello(self.scheduler, name, self.disks[name])

    def do(self, event: ev.Event) -> None:
        for effect in self.scheduler.handle(event, 0.0):
            if isinstance(effect, fx.SendCommand):
                assert isinstance(effect.command, cmd.EvictArtifact)
                self.granted.append((effect.node_id, effect.session))

    def tell(self, name: str, session: str, what: Holding) -> None:
        node = self.scheduler.state.nodes[name]
        change = (InventoryChange(self.model, what),)
        self.do(ev.InventoryTold(name, session, node.inventory + 1, change))

    def copies(self) -> int:
        return sum(self.model in disk for disk in self.disks.values())


@given(
    st.booleans(),
    st.sets(st.sampled_from(NODES), min_size=1),
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "obey", "keep", "restart", "leave", "fetch"]),
            st.sampled_from(NODES),
        ),
        max_size=40,
    ),
)
def test_p12_whatever_is_granted_a_base_stays_durable(
    at_master: bool, holders: set[str], steps: list[tuple[str, str]]
) -> None:
    mesh = Disks(at_master, holders)
    state = mesh.scheduler.state
    before = mesh.copies()
    for what, name in steps:
        node = state.nodes[name]
        match what:
            case "ask":
                told = ev.InventoryTold(
                    name, node.session, 0, (), cache=node.cache, room=RoomWanted(1, (mesh.model,))
                )
                mesh.do(told)
            case "obey" | "keep" if mesh.granted:
                # A grant of a former session is not obeyed.
                granted, session = mesh.granted.pop(0)
                if session != state.nodes[granted].session:
                    continue
                if what == "obey":
                    mesh.disks[granted].discard(mesh.model)
                mesh.tell(granted, session, Holding.GONE if what == "obey" else Holding.KEPT)
            case "restart":
                mesh.numbers[name] += 1
                hello(mesh.scheduler, name, mesh.disks[name], mesh.numbers[name])
            case "leave":
                mesh.do(ev.NodeLeft(name, node.session))
            case "fetch" if mesh.copies() or mesh.master:
                mesh.disks[name].add(mesh.model)
                mesh.tell(name, node.session, Holding.HELD)
            case _:
                pass
        evicting = {n.node_id for n in state.nodes.values() if n.evicting is not None}
        assert len(evicting) <= 1 or "leave" in {step for step, _ in steps}
        assert mesh.master or mesh.copies() >= min(2, before), "the last durable copy went"
        before = max(before, mesh.copies()) if mesh.copies() >= 2 else before


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1e6)), max_size=30),
    st.integers(1, 5000),
    st.sets(st.integers(0, 29)),
)
def test_what_could_go_is_enough_where_there_is_enough_and_never_what_is_needed(
    found: list[tuple[int, float]], budget: int, needed: set[int]
) -> None:
    names = [digest(bytes([number])) for number in range(len(found))]
    there = [Cached(n, size, idle) for n, (size, idle) in zip(names, found, strict=True)]
    cache = Cache(CacheLimits(budget, 0), there, now_s=1e6)
    stay = {names[number] for number in needed if number < len(names)}
    wanted = cache.wanted(stay, 0, 0, 1e6)
    used = sum(size for size, _ in found)
    assert cache.used_bytes == used
    if used <= budget:
        assert wanted is None
        return
    free = {name for name, (size, _) in zip(names, found, strict=True) if size} - stay
    assert set(wanted.candidates if wanted is not None else ()) == free
    for artifact_id in wanted.candidates if wanted is not None else ():
        cache.remove(artifact_id)
    assert cache.used_bytes == sum(
        size for name, (size, _) in zip(names, found, strict=True) if name in stay
    )
