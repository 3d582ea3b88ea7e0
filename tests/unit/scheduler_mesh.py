"""A scheduler over a store, with nodes that say what a test has them say."""

from __future__ import annotations

from collections.abc import Iterable

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.invariants import check
from meshtrain.core.job import Attempt, Failure, FailureClass, Job
from meshtrain.core.node import Gpu, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, Limits, Resources, SweepSpec
from meshtrain.store.memory import MemoryStore

LEASE_S = 30.0
RECIPE = digest(b"recipe")
MODEL = digest(b"model")
LOST = Failure(FailureClass.HOST_LOST, "power cut", "n1")


class Mesh:
    """A scheduler over a store, with nodes that say what the test has them say."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = MemoryStore()
        self.beats = 0
        self.start()

    def start(self) -> None:
        config = SchedulerConfig(lease_s=LEASE_S)
        self.scheduler = Scheduler(config, self.store.load(), self.now_s)
        self.state = self.scheduler.state

    def do(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.scheduler.handle(event, self.now_s)
        self.store.save([effect for effect in effects if isinstance(effect, fx.Save)])
        self.store.commit()
        check(self.state)
        return effects

    def submit(self, name: str = "s", jobs: int = 1, *, base: bool = False, gpus: int = 0) -> None:
        needs = Resources(gpus=gpus)
        recipe_hash = RECIPE if base else None
        specs = tuple(
            JobSpec(
                f"{name}-{i}",
                f"{name}/i={i}",
                {"i": i},
                CommandWork("true"),
                recipe_hash,
                needs,
                Limits(),
            )
            for i in range(jobs)
        )
        bases = (BaseSpec(RECIPE, {}, "r", CommandWork("train"), needs),) if base else ()
        self.do(ev.SweepSubmitted("submit", SweepSpec(name, name, specs, bases), True))

    def hello(
        self,
        node_id: str = "n1",
        session: str = "life/0",
        attempts: Iterable[ev.LiveAttempt] = (),
        *,
        gpus: int = 0,
        holds: tuple[str, ...] = (),
    ) -> list[fx.Effect]:
        cards = tuple(Gpu(i, "test", 8 << 30) for i in range(gpus))
        spec = NodeSpec(node_id, f"http://{node_id}", cpu_slots=2, gpus=cards)
        return self.do(ev.NodeSaidHello(spec, session, tuple(attempts), holds, grant=1000))

    def beat(self, node_id: str = "n1", *, sent_s: float | None = None, seen: int = 0) -> None:
        self.beats += 1
        node = self.state.nodes[node_id]
        mine = [a for a in self.state.live if a in node.live]
        listed = tuple(ev.LiveAttempt(a, self.attempt(a).epoch, True) for a in mine)
        when_s = self.now_s if sent_s is None else sent_s
        self.do(ev.NodeBeat(node_id, node.session, self.beats, when_s, seen, 1000, listed))

    def attempt(self, attempt_id: str) -> Attempt:
        attempt = self.job(self.state.live[attempt_id]).attempt
        assert attempt is not None
        return attempt

    def place(self) -> list[cmd.AssignAttempt]:
        return [
            effect.command
            for effect in self.do(ev.PlaceJobs())
            if isinstance(effect, fx.SendCommand) and isinstance(effect.command, cmd.AssignAttempt)
        ]

    def end(
        self, given: cmd.AssignAttempt, node_id: str = "n1", **fields: object
    ) -> list[fx.Effect]:
        return self.do(
            ev.AttemptEnded(node_id, given.attempt_id, given.epoch, **fields)  # type: ignore[arg-type]
        )

    def tick(self, after_s: float = 0.5) -> None:
        self.now_s += after_s
        self.do(ev.Tick(wall_s=1e9 + self.now_s))

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.tick()

    def job(self, job_id: str) -> Job:
        return self.state.jobs[job_id]
