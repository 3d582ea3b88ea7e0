"""A base that is on no host any more is asked of the archive before it is trained anew."""

from __future__ import annotations

from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.invariants import check
from meshtrain.core.job import Base, BaseState
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, SweepSpec

RECIPE, MODEL = digest(b"recipe"), digest(b"model")
LOST_S = 60.0


class Mesh:
    """A master that knows a trained base which nobody holds, and a job that waits for it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.scheduler = Scheduler(SchedulerConfig(base_lost_s=LOST_S), Loaded(), 0.0)
        self.state = self.scheduler.state
        self.notes: list[str] = []
        self.tick()
        self.do(ev.NodeSaidHello(NodeSpec("n1", "http://n1", cpu_slots=1), "life/0", (), (), 9))
        job = JobSpec("s-0", "s/i=0", {"i": 0}, CommandWork("true"), RECIPE)
        base = BaseSpec(RECIPE, {}, "r", CommandWork("train"))
        self.do(ev.SweepSubmitted("r", SweepSpec("s", "s", (job,), (base,)), True))
        self.do(ev.PlaceJobs())
        attempt = self.state.jobs[self.base.job_id].attempt
        assert attempt is not None
        self.do(ev.AttemptEnded("n1", attempt.attempt_id, attempt.epoch, artifact_id=MODEL))
        self.do(ev.NodeLeft("n1", "life/0"))

    @property
    def base(self) -> Base:
        return self.state.bases[RECIPE]

    def do(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.scheduler.handle(event, self.now_s)
        check(self.state)
        self.notes += [note.text for note in self.state.notes]
        return effects

    def tick(self, after_s: float = 0.5) -> list[fx.Effect]:
        self.now_s += after_s
        return self.do(ev.Tick(wall_s=1e9 + self.now_s))

    def be_lost(self) -> list[fx.RestoreArtifact]:
        """Let so much time pass that the base counts as lost; what the archive is asked for."""
        asked: list[fx.RestoreArtifact] = []
        for _ in range(int(LOST_S) * 2 + 4):
            asked += [e for e in self.tick() if isinstance(e, fx.RestoreArtifact)]
        return asked

    @property
    def generation(self) -> int:
        return self.state.bases[RECIPE].generation


def test_a_lost_base_that_is_archived_is_asked_for_once_and_not_trained() -> None:
    mesh = Mesh()
    mesh.do(ev.BasesArchived((MODEL,)))
    assert mesh.be_lost() == [fx.RestoreArtifact(MODEL)]
    assert mesh.be_lost() == []
    assert mesh.state.bases[RECIPE].state is BaseState.COMMITTED
    assert mesh.generation == 1
    assert any("is fetched from the archive" in note for note in mesh.notes)

    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (MODEL,)))
    assert mesh.state.is_ready(RECIPE)
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (), (MODEL,)))
    assert mesh.be_lost() == [fx.RestoreArtifact(MODEL)], "lost again, asked for again"


def test_p3_what_the_archive_does_not_give_is_trained_anew_under_a_new_generation() -> None:
    mesh = Mesh()
    mesh.do(ev.BasesArchived((MODEL,)))
    mesh.be_lost()
    mesh.do(ev.RestoreFailed(MODEL, "the share is away"))
    assert mesh.be_lost() == []
    assert mesh.state.bases[RECIPE].state is BaseState.NEEDED
    assert mesh.generation == 2
    # It comes late: the model of the earlier generation is nobody's base any more.
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (MODEL,)))
    assert not mesh.state.is_ready(RECIPE)


def test_without_an_archive_a_lost_base_is_trained_anew() -> None:
    mesh = Mesh()
    mesh.do(ev.BasesArchived((digest(b"another"),)))
    assert mesh.be_lost() == []
    assert mesh.generation == 2


def test_a_host_that_comes_back_with_it_is_enough() -> None:
    mesh = Mesh()
    mesh.do(ev.BasesArchived((MODEL,)))
    mesh.be_lost()
    spec = NodeSpec("n2", "http://n2", cpu_slots=1)
    mesh.do(ev.NodeSaidHello(spec, "other/0", (), (MODEL,), 9))
    mesh.do(ev.RestoreFailed(MODEL, "the share is away"))
    assert mesh.be_lost() == []
    assert mesh.generation == 1
