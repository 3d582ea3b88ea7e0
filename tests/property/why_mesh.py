"""A mesh whose jobs take as long as their sweep says: the real scheduler on a virtual clock."""

from __future__ import annotations

import copy
import heapq
import shlex
from dataclasses import dataclass, field

import msgspec
from core_records import GIB, sweep_of
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshtrain.cli.context import Cli
from meshtrain.cli.main import build
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core import gpu_health
from meshtrain.core.invariants import check
from meshtrain.core.job import Job, JobKind
from meshtrain.core.node import MASTER_NODE_ID, Gpu, GpuFaults, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, MeshState, SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BudgetSpec, Resources, SweepSpec
from meshtrain.wire import messages as msg
from meshtrain_daemon.master import steering

WALL_S = 1_700_000_000.0
BASE_S = 50.0


@dataclass
class WhyMesh:
    """Runs what is given out; each run takes what `run_s` says of its sweep."""

    run_s: dict[str, float] = field(default_factory=dict)
    scheduler: Scheduler = field(
        default_factory=lambda: Scheduler(SchedulerConfig(lease_s=1e9), Loaded())
    )
    now_s: float = 0.0
    running: list[tuple[float, int, str, str, int]] = field(default_factory=list)
    #: job id → when it was given out
    given_s: dict[str, float] = field(default_factory=dict)
    count: int = 0
    replies: list[fx.Reply] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tell(ev.Tick(WALL_S + self.now_s))

    @property
    def state(self) -> MeshState:
        return self.scheduler.state

    def twin(self) -> WhyMesh:
        """The same mesh, to go another way with."""
        return copy.deepcopy(self)

    def tell(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.scheduler.handle(event, self.now_s)
        effects += self.scheduler.handle(ev.PlaceJobs(), self.now_s)
        check(self.state)
        for effect in effects:
            match effect:
                case fx.SendCommand(node_id=node_id, command=cmd.AssignAttempt() as given):
                    self._start(node_id, given)
                case fx.CollectArtifact(artifact_id=artifact_id):
                    self.tell(ev.ArtifactHeld(MASTER_NODE_ID, (artifact_id,)))
                case fx.Reply():
                    self.replies.append(effect)
                case _:
                    pass
        return effects

    def _start(self, node_id: str, given: cmd.AssignAttempt) -> None:
        self.count += 1
        self.given_s.setdefault(given.job_id, self.now_s)
        run_s = self.time_of(self.state.jobs[given.job_id])
        end = (self.now_s + run_s, self.count, node_id, given.attempt_id, given.epoch)
        heapq.heappush(self.running, end)
        self.tell(ev.AttemptStarted(node_id, given.attempt_id, given.epoch))

    def time_of(self, job: Job) -> float:
        if job.kind is JobKind.BASE or job.sweep_id is None:
            return BASE_S
        return self.run_s.get(self.state.sweeps[job.sweep_id].name, 60.0)

    def step(self) -> bool:
        """Let the next run end; False where none runs."""
        if not self.running:
            return False
        self.now_s, _, node_id, attempt_id, epoch = heapq.heappop(self.running)
        job = self.state.jobs[self.state.live[attempt_id]]
        self.tell(ev.Tick(WALL_S + self.now_s))
        left = digest(attempt_id.encode()) if job.kind is JobKind.BASE else None
        run_s = self.time_of(job)
        self.tell(ev.AttemptEnded(node_id, attempt_id, epoch, artifact_id=left, run_s=run_s))
        return True

    def run_all(self) -> None:
        while self.step():
            pass

    def join(self, spec: NodeSpec, grant: int = 10**6) -> None:
        self.tell(ev.NodeSaidHello(spec, f"{spec.node_id}/1", (), (), grant))

    def submit(self, sweep: SweepSpec) -> None:
        self.tell(ev.SweepSubmitted(sweep.sweep_id, sweep, allow_pending=True))

    # --- a person's commands, as they are typed --------------------------------------------

    def type(self, command: str) -> str:
        """Run a command of the command line on this mesh; what it prints."""
        words = shlex.split(command)
        assert words[0] == "meshtrain"
        cli = Cli(master="127.0.0.1:7470", connect=lambda way, timeout_s: _Line(self))
        result = CliRunner().invoke(build(), words[1:], obj=cli, prog_name="meshtrain")
        assert result.exit_code == 0, result.output + repr(result.exception)
        return result.stdout


class _Line:
    """Answers a command as the master would."""

    def __init__(self, mesh: WhyMesh) -> None:
        self._mesh = mesh

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def request(
        self, message: msg.FromPerson, timeout_s: float | None = None
    ) -> msg.Done | msg.Answer:
        mesh, request_id = self._mesh, message.request_id
        match message:
            case msg.Query():
                row = {
                    "name": message.names[0],
                    "running_count": 0,
                    "gpu_hours": 0.0,
                    "money": 0.0,
                    "gpu_hours_max": None,
                    "money_max": None,
                    "budget_spent": False,
                }
                return msg.Answer(request_id, rows=[row], total=1)
            case msg.Drain():
                event: ev.Event = ev.DrainRequested(request_id, message.node_id, message.drained)
            case msg.Release():
                event = ev.ReleaseRequested(request_id, message.node_id)
            case msg.Retry() | msg.Reprioritise() | msg.SetBudget():
                event = steering.event_of(mesh.state, message)(request_id)
            case _:
                raise AssertionError(message)
        mesh.replies.clear()
        mesh.tell(event)
        (reply,) = [r for r in mesh.replies if r.request_id == request_id]
        return msg.Done(request_id, reply.error, reply.done, reply.notes)


# --- drawn meshes -------------------------------------------------------------------------

NODES = st.builds(
    lambda gpus, slots, label, memory: (gpus, slots, label, memory),
    st.lists(st.sampled_from([8, 24]), max_size=3),
    st.integers(1, 3),
    st.sampled_from(["a", "b"]),
    st.sampled_from([0, 32]),
)
NEEDS = st.builds(
    Resources,
    gpus=st.sampled_from([None, 0, 1, 1, 2]),
    gpu_memory_bytes=st.sampled_from([0, 0, 12 * GIB]),
    cpus=st.integers(1, 2),
    memory_bytes=st.sampled_from([0, 0, 0, 20 * GIB]),
    labels=st.sampled_from([(), (), (), (("zone", "a"),)]),
)
TIMES_S = st.sampled_from([20.0, 45.0, 100.0])
SWEEPS = st.builds(
    lambda recipes, needs, priority, run_s, hours: (recipes, needs, priority, run_s, hours),
    st.lists(st.sampled_from(["", "", "r1", "r2"]), min_size=2, max_size=8).map(tuple),
    NEEDS,
    st.integers(0, 2),
    TIMES_S,
    st.sampled_from([None, None, None, None, 0.01]),
)


@st.composite
def meshes(draw: st.DrawFn) -> WhyMesh:
    """A mesh in the midst of its work: with history, drained nodes, GPUs out of use, budgets."""
    mesh = WhyMesh()
    for number, (gpus, slots, label, memory) in enumerate(
        [([24, 24], 2, "a", 32), *draw(st.lists(NODES, max_size=3))]
    ):
        mesh.join(
            NodeSpec(
                f"n{number}",
                f"http://n{number}",
                cpu_slots=slots,
                memory_bytes=memory * GIB,
                gpus=tuple(Gpu(index, "test", size * GIB) for index, size in enumerate(gpus)),
                labels={"zone": label} if label else {},
            )
        )
    for number in range(draw(st.integers(0, 5))):
        # Sweeps of the same name that have run before: their times are known.
        known = sweep_of(f"s{number}", ("",))
        mesh.run_s[f"s{number}"] = draw(TIMES_S)
        jobs = tuple(
            msgspec.structs.replace(job, job_id=f"known-{job.job_id}") for job in known.jobs
        )
        mesh.submit(msgspec.structs.replace(known, sweep_id=f"known{number}", jobs=jobs))
    mesh.run_all()
    for node_id in sorted(mesh.state.nodes):
        match draw(st.integers(0, 7)):
            case 0:
                mesh.tell(ev.DrainRequested("r", node_id, True))
            case 1:
                _take_out_of_use(mesh, node_id)
            case _:
                pass
    for number, (recipes, needs, priority, run_s, hours) in enumerate(
        draw(st.lists(SWEEPS, min_size=2, max_size=5))
    ):
        sweep = sweep_of(f"s{number}", recipes, resources=needs, priority=priority)
        if hours is not None:
            sweep = SweepSpec(
                sweep.sweep_id, sweep.name, sweep.jobs, sweep.bases, budget=BudgetSpec(hours)
            )
        mesh.run_s.setdefault(sweep.name, run_s)
        mesh.submit(sweep)
        for _ in range(draw(st.integers(0, 3))):
            mesh.step()
    return mesh


def _take_out_of_use(mesh: WhyMesh, node_id: str) -> None:
    """As if the first GPU of a node had failed once too often."""
    node = mesh.state.nodes[node_id]
    free = [gpu.index for gpu in node.spec.gpus if gpu.index not in node.gpus_used]
    for gpu in free[:1]:
        mesh.state.gpu_faults.setdefault(node_id, {})[gpu] = GpuFaults(node_id, gpu, 3, True)
    gpu_health.show_to(mesh.state, node)
