"""What the scheduler does with the data that jobs read: names, sources, nodes without a share."""

from __future__ import annotations

import pytest

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.invariants import check
from meshtrain.core.job import Failure, FailureClass, Job, JobState
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.shares import LACKS_S
from meshtrain.core.state import SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import CommandWork, InputData, JobSpec, Resources, SweepSpec
from meshtrain.store.memory import MemoryStore

VOC = digest(b"voc")
COCO = InputData("/mnt/coco", digest(b"listing"), on_share=True, size_bytes=1 << 30)


class Mesh:
    """A scheduler over a store, with nodes that say what the test has them say."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.store = MemoryStore()
        self.start()

    def start(self) -> None:
        config = SchedulerConfig(lease_s=1e9)
        self.scheduler = Scheduler(config, self.store.load(), self.now_s)
        self.state = self.scheduler.state

    def do(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.scheduler.handle(event, self.now_s)
        self.store.save([effect for effect in effects if isinstance(effect, fx.Save)])
        self.store.commit()
        check(self.state)
        return effects

    def tick(self, after_s: float) -> list[fx.Effect]:
        self.now_s += after_s
        return self.do(ev.Tick(wall_s=1e9 + self.now_s))

    def publish(self, name: str, artifact_id: str) -> fx.Reply:
        effects = self.do(ev.InputPublished("r", name, artifact_id, 10, 2, "ada"))
        return next(effect for effect in effects if isinstance(effect, fx.Reply))

    def hello(self, node_id: str, *holds: str, slots: int = 2) -> None:
        spec = NodeSpec(node_id, f"http://{node_id}", cpu_slots=slots)
        self.do(ev.NodeSaidHello(spec, f"{node_id}/0", (), holds, grant=1000))

    def submit(self, inputs: dict[str, InputData], jobs: int = 1, name: str = "s") -> None:
        work = CommandWork("true", inputs=inputs)
        specs = tuple(
            JobSpec(f"{name}-{i}", f"{name}/i={i}", {"i": i}, work, None, Resources())
            for i in range(jobs)
        )
        self.do(ev.SweepSubmitted("submit", SweepSpec(name, name, specs, ()), True))

    def place(self) -> list[tuple[str, cmd.AssignAttempt]]:
        return [
            (effect.node_id, effect.command)
            for effect in self.do(ev.PlaceJobs())
            if isinstance(effect, fx.SendCommand) and isinstance(effect.command, cmd.AssignAttempt)
        ]

    def lacks(self, node_id: str, given: cmd.AssignAttempt) -> None:
        failure = Failure(FailureClass.INPUT, f"{node_id} has no /mnt/coco", node_id)
        self.do(ev.AttemptEnded(node_id, given.attempt_id, given.epoch, failure=failure))

    def job(self, job_id: str) -> Job:
        return self.state.jobs[job_id]


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


# --- names ------------------------------------------------------------------------


def test_a_second_publication_is_version_2_and_the_same_bytes_are_no_other(mesh: Mesh) -> None:
    assert mesh.publish("voc", VOC).done == ("voc@1",)
    assert mesh.publish("voc", digest(b"more")).done == ("voc@2",)
    again = mesh.publish("voc", VOC)
    assert again.done == ("voc@1",)
    assert "voc alone stands for voc@2" in again.notes[0]
    assert mesh.publish("other", VOC).done == ("other@1",)


def test_p1_names_outlive_the_master(mesh: Mesh) -> None:
    mesh.publish("voc", VOC)
    mesh.publish("voc", digest(b"more"))
    before = mesh.state.named_inputs
    mesh.start()
    assert mesh.state.named_inputs == before
    assert mesh.publish("voc", digest(b"third")).done == ("voc@3",)


def test_a_master_that_lost_a_data_set_takes_it_from_a_node(mesh: Mesh) -> None:
    mesh.publish("voc", VOC)
    mesh.start()
    mesh.hello("n1", VOC)
    effects = mesh.tick(60.0)
    wanted = [e for e in effects if isinstance(e, fx.CollectArtifact)]
    assert [(e.artifact_id, e.sources[0].node_id) for e in wanted] == [(VOC, "n1")]


def test_a_data_set_is_never_dropped_as_a_checkpoint_is(mesh: Mesh) -> None:
    from meshtrain.core.checkpoints import _drop

    mesh.publish("voc", VOC)
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (VOC,)))
    _drop(mesh.state, VOC)
    assert VOC in mesh.state.held_by_master


# --- data sets that travel ------------------------------------------------------------


def test_p5_an_attempt_needs_each_data_set_once_and_is_told_who_has_it(mesh: Mesh) -> None:
    mesh.do(ev.ArtifactHeld(MASTER_NODE_ID, (VOC,)))
    mesh.hello("n1")
    mesh.hello("n2", VOC, slots=0)
    data = InputData("voc@1", VOC, size_bytes=10)
    mesh.submit({"a": data, "b": data, "c": COCO})
    ((node_id, given),) = mesh.place()
    assert node_id == "n1"
    (need,) = given.inputs
    assert need.artifact_id == VOC
    assert [source.node_id for source in need.sources] == ["n2", MASTER_NODE_ID]
    assert given.needs == (need,)


def test_jobs_go_where_their_data_is(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.hello("n2", VOC)
    mesh.submit({"a": InputData("voc@1", VOC, size_bytes=1 << 40)}, jobs=2)
    assert [node_id for node_id, _ in mesh.place()] == ["n2", "n2"]


# --- shares -----------------------------------------------------------------------


def test_a_node_without_a_share_gets_no_more_jobs_that_read_it(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.hello("n2", slots=1)
    mesh.submit({"coco": COCO}, jobs=6)
    for node_id, given in mesh.place():
        if node_id == "n1":
            mesh.lacks("n1", given)
    assert mesh.place() == [], "n2 is full, and n1 lacks it"
    waiting = [job for job in mesh.state.jobs.values() if job.state is JobState.WAITING]
    assert len(waiting) == 5
    assert all(job.losses == 0 and job.retries_used == 0 for job in waiting)
    mesh.submit({}, name="free")
    assert [node_id for node_id, _ in mesh.place()] == ["n1"], "others still go there"


def test_what_a_node_lacked_is_asked_of_it_again_after_a_while(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.hello("n2", slots=1)
    mesh.submit({"coco": COCO}, jobs=2)
    first = dict(mesh.place())
    mesh.lacks("n1", first["n1"])
    mesh.tick(LACKS_S / 2)
    assert mesh.place() == []
    mesh.tick(LACKS_S / 2 + 1)
    assert [node_id for node_id, _ in mesh.place()] == ["n1"]
    assert mesh.state.lacking_shares == {}


def test_a_share_that_no_node_has_fails_the_job_in_clear_words_and_retry_tries_all(
    mesh: Mesh,
) -> None:
    mesh.hello("n1")
    mesh.hello("n2")
    mesh.submit({"coco": COCO})
    seen = []
    for _ in range(2):
        ((node_id, given),) = mesh.place()
        seen.append(node_id)
        mesh.lacks(node_id, given)
    assert sorted(seen) == ["n1", "n2"]
    job = mesh.job("s-0")
    assert job.state is JobState.FAILED
    assert job.failure is not None
    assert job.failure.failure_class is FailureClass.INPUT
    told = job.failure.message
    assert "n1 has no /mnt/coco" in told
    assert "n2 has no /mnt/coco" in told
    assert "meshtrain retry" in told
    mesh.do(ev.RetryRequested("retry", ("s-0",)))
    assert len(mesh.place()) == 1


def test_another_listing_of_the_same_path_is_another_share(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.submit({"coco": COCO})
    ((_, given),) = mesh.place()
    mesh.lacks("n1", given)
    assert mesh.job("s-0").state is JobState.FAILED
    changed = InputData("/mnt/coco", digest(b"changed"), on_share=True)
    mesh.submit({"coco": changed}, name="t")
    assert len(mesh.place()) == 1


def test_jobs_that_wait_for_a_share_that_nobody_has_end_with_the_first(mesh: Mesh) -> None:
    mesh.hello("n1", slots=1)
    mesh.hello("n2", slots=1)
    mesh.submit({"coco": COCO}, jobs=5)
    mesh.submit({}, name="other")
    for node_id, given in mesh.place():
        mesh.lacks(node_id, given)
    states = {job.job_id: job.state for job in mesh.state.jobs.values()}
    assert states.pop("other-0") is JobState.WAITING
    assert set(states.values()) == {JobState.FAILED}
    assert [given.job_id for _, given in mesh.place()] == ["other-0"]


def test_a_node_whose_daemon_came_up_anew_is_asked_at_once(mesh: Mesh) -> None:
    mesh.hello("n1")
    mesh.hello("n2", slots=0)
    mesh.submit({"coco": COCO}, jobs=2)
    ((_, first), _) = mesh.place()
    mesh.state.nodes["n2"].spec = NodeSpec("n2", "http://n2", cpu_slots=1)
    mesh.lacks("n1", first)
    assert mesh.state.lacking_shares
    spec = NodeSpec("n1", "http://n1", cpu_slots=2)
    mesh.do(ev.NodeSaidHello(spec, "n1/1", (), (), grant=1000))
    assert "n1" in [node_id for node_id, _ in mesh.place()]
