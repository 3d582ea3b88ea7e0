"""A master without sockets, disks and nodes: the real scheduler, the real queries.

Nodes are played by hand: `run_all` starts and ends what was assigned. Requests
are answered as the master answers them, so that what the command line shows is
what it would show of a real mesh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.changes import Change
from meshtrain.core.job import Attempt, Failure, FailureClass, Job, JobKind, Sweep
from meshtrain.core.member import Member
from meshtrain.core.node import MASTER_NODE_ID, Gpu, NodeSpec
from meshtrain.core.pages import Page, PageQuery
from meshtrain.core.row_book import RowBook
from meshtrain.core.rows import snapshot
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.errors import MeshtrainError
from meshtrain.ids import digest
from meshtrain.results.metrics import Metrics
from meshtrain.security.read_tokens import Reader
from meshtrain.spec.expand import Digests, expand, needed
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, ResultsSpec, SweepSpec
from meshtrain.spec.settings import MasterSettings
from meshtrain.wire import messages as msg
from meshtrain.wire.codec import Decoder, encode
from meshtrain_daemon.master import steering
from meshtrain_daemon.master.archiving import Archiving
from meshtrain_daemon.master.estimator import Estimator
from meshtrain_daemon.master.inputs import find_inputs
from meshtrain_daemon.master.lineage import resolve_parent
from meshtrain_daemon.master.logbook import LogPiece
from meshtrain_daemon.master.names import resolve_base
from meshtrain_daemon.master.queries import Ports, answer
from meshtrain_daemon.master.translate import cache_event

WALL_S = 1_700_000_000.0
BASE_BYTES = 50_000_000
MESSAGE_BYTES_MAX = 8 << 20

Outcome = dict[str, float] | Failure


@dataclass
class MasterDouble:
    scheduler: Scheduler = field(
        default_factory=lambda: Scheduler(SchedulerConfig(lease_s=1e6), Loaded())
    )
    now_s: float = 0.0
    #: what one run takes
    run_s: float = 60.0
    #: the end of a run: its metrics, or its failure
    outcome: Callable[[Job], Outcome] = lambda job: {"accuracy": 0.5}
    attempts: dict[str, dict[str, Attempt]] = field(default_factory=dict)
    streams: dict[tuple[str, str], bytes] = field(default_factory=dict)
    #: of each stream: where a hole begins → where it ends
    lost: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    assigned: list[tuple[str, cmd.AssignAttempt]] = field(default_factory=list)
    requests: list[msg.FromPerson] = field(default_factory=list)
    #: what happens before a request is answered, one step a request
    script: list[Callable[[], None]] = field(default_factory=list)
    #: artifact id → the metrics in it, where the master has it
    left: dict[str, dict[str, float]] = field(default_factory=dict)
    home: str = "/var/lib/meshtrain"
    version: str = "0.1.0"
    https: bool = False
    members: tuple[Member, ...] = ()
    readers: tuple[Reader, ...] = ()
    ports: Ports = field(default_factory=lambda: Ports(7470, 7471, 7472, 7473))
    archiving: Any = field(default_factory=lambda: Archiving(MasterSettings()))

    def __post_init__(self) -> None:
        self.tell(ev.Tick(WALL_S))

    # --- the mesh, played by hand ------------------------------------------------------

    @property
    def state(self) -> Any:
        return self.scheduler.state

    def tell(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.scheduler.handle(event, self.now_s)
        effects += self.scheduler.handle(ev.PlaceJobs(), self.now_s)
        for effect in effects:
            match effect:
                case fx.AddAttempt() | fx.UpdateAttempt():
                    attempt = effect.attempt
                    self.attempts.setdefault(attempt.job_id, {})[attempt.attempt_id] = attempt
                case fx.SendCommand(node_id=node_id, command=cmd.AssignAttempt() as command):
                    self.assigned.append((node_id, command))
                case fx.CollectArtifact():
                    self.tell(ev.ArtifactHeld(MASTER_NODE_ID, (effect.artifact_id,)))
        return effects

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.tell(ev.Tick(WALL_S + self.now_s))

    def metrics_in(self, artifact_id: str) -> dict[str, float]:
        return self.left.get(artifact_id, {})

    def add_node(
        self, node_id: str, *, cpu_slots: int = 2, gpus: int = 0, gpu_memory: int = 24 << 30
    ) -> None:
        spec = NodeSpec(
            node_id=node_id,
            http_url=f"http://127.0.0.1/{node_id}",
            cpu_slots=cpu_slots,
            memory_bytes=16 << 30,
            gpus=tuple(Gpu(index, "RTX 4090", gpu_memory) for index in range(gpus)),
            version="0.1.0",
        )
        self.tell(ev.NodeSaidHello(spec, f"{node_id}/1", (), (), grant=1_000_000))

    def submit(self, sweep: SweepSpec) -> fx.Reply:
        request_id = f"submit-{sweep.sweep_id}"
        effects = self.tell(ev.SweepSubmitted(request_id, sweep))
        return next(e for e in effects if isinstance(e, fx.Reply))

    def start_all(self) -> None:
        for node_id, command in self.assigned:
            self.tell(ev.AttemptStarted(node_id, command.attempt_id, command.epoch))

    def run_once(self) -> None:
        """Start and end all that is assigned now."""
        self.start_all()
        ending, self.assigned = self.assigned, []
        self.wait(self.run_s)
        for node_id, command in ending:
            job = self.state.jobs[command.job_id]
            outcome = {} if job.kind is JobKind.BASE else self.outcome(job)
            failed = isinstance(outcome, Failure)
            self.tell(
                ev.AttemptEnded(
                    node_id,
                    command.attempt_id,
                    command.epoch,
                    failure=outcome if failed else None,
                    artifact_id=None if failed else digest(command.attempt_id.encode()),
                    size_bytes=0 if failed else BASE_BYTES,
                    metrics={} if failed else outcome,
                    run_s=self.run_s,
                )
            )

    def run_all(self) -> None:
        while self.assigned:
            self.run_once()

    # --- what the queries ask ------------------------------------------------------------

    @property
    def inbox(self) -> str:
        return f"{self.home}/inbox"

    def results_folder(self, sweep: Sweep) -> str:
        return f"{self.home}/results/{sweep.name}"

    def metrics_of(self, job: Job) -> Metrics:
        return Metrics(reason="no metrics.json in the result")

    def attempts_of(self, job_id: str) -> tuple[Attempt, ...]:
        return tuple(self.attempts.get(job_id, {}).values())

    def log_is_whole(self, attempt_id: str, stream: str) -> bool:
        return True

    def log_size(self, job_id: str, attempt_id: str, stream: str) -> int:
        return len(self.streams.get((attempt_id, stream), b""))

    def read_log(
        self, job_id: str, attempt_id: str, stream: str, offset: int, limit: int
    ) -> LogPiece:
        lost = self.lost.get((attempt_id, stream), {})
        offset = next((end for begin, end in lost.items() if begin <= offset < end), offset)
        end = min([offset + limit, *(begin for begin in lost if begin > offset)])
        data = self.streams.get((attempt_id, stream), b"")[offset:end]
        return LogPiece(data, lost.get(offset + len(data), offset + len(data)), offset)

    def log_file(self, job_id: str, attempt_id: str, stream: str) -> Path:
        return Path(self.home) / "logs" / job_id / f"{attempt_id}.{stream}"

    # --- what people's commands ask --------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None: ...

    def page(self, query: PageQuery) -> Page:
        return RowBook(snapshot(self.state)).page(query)

    def snapshot(self) -> tuple[int, int, list[Change]]:
        return self.state.incarnation, 0, list(snapshot(self.state))

    def request(self, message: msg.FromPerson, timeout_s: float | None = None) -> Any:
        if self.script:
            self.script.pop(0)()
        self.requests.append(message)
        if isinstance(message, msg.Query) and message.what == "why":
            return over_the_wire(asyncio.run(Estimator(self.state).why(message)))
        if isinstance(message, msg.Query):
            return over_the_wire(answer(self.state, message, self))
        if isinstance(message, msg.IssueToken):
            return msg.Done(message.request_id, done=(f"mt1.for-a-{message.kind}",))
        if isinstance(message, msg.IssueReader):
            self.readers += (Reader(message.name, "0" * 64, WALL_S + message.ttl_s, "ada", WALL_S),)
            return msg.Done(message.request_id, done=(f"mr1.for-{message.name}",))
        if isinstance(message, msg.RevokeReader):
            self.readers = tuple(r for r in self.readers if r.name != message.name)
            return msg.Done(message.request_id, done=(message.name,))
        if isinstance(message, msg.Revoke):
            named = [m for m in self.members if (m.kind, m.name) == (message.kind, message.name)]
            is_one = any(not member.revoked for member in named)
            return msg.Done(message.request_id, done=(message.name,) if is_one else ())
        try:
            if isinstance(message, msg.RestoreBase):
                base = resolve_base(self.state, message.recipe_hash)
                self.archiving.restore(base)
                return msg.Done(message.request_id, done=(base.recipe_hash,))
            reply = next(e for e in self.tell(self._event(message)) if isinstance(e, fx.Reply))
        except MeshtrainError as error:
            return msg.Done(message.request_id, error=str(error))
        return msg.Done(message.request_id, reply.error, reply.done, reply.notes)

    def _event(self, message: msg.FromPerson) -> ev.Event:
        request_id = message.request_id
        match message:
            case msg.Submit():
                job_file = parse_job_file(message.data, message.name)
                parent = needed(job_file).parent
                digests = Digests(
                    code=dict(message.code),
                    data=dict(message.data_digests),
                    parents={parent: resolve_parent(self.state, parent, self.attempts_of)}
                    if parent is not None
                    else {},
                    inputs=find_inputs(
                        needed(job_file).inputs, self.state.named_inputs, message.inputs
                    ),
                )
                again = len(self.state.sweeps) if message.again else 0
                sweep = expand(job_file, digests, again=again, bases_only=message.bases_only)
                return ev.SweepSubmitted(request_id, sweep, message.allow_pending)
            case msg.PublishInput():
                self.tell(ev.ArtifactHeld(MASTER_NODE_ID, (message.artifact_id,)))
                return ev.InputPublished(
                    request_id, message.name, message.artifact_id, 1200, 3, "ada"
                )
            case msg.Cancel() | msg.Retry() | msg.Reprioritise() | msg.SetBudget():
                return steering.event_of(self.state, message)(request_id)
            case msg.Drain():
                return ev.DrainRequested(
                    request_id, message.node_id, message.drained, message.within_s
                )
            case msg.Release():
                return ev.ReleaseRequested(request_id, message.node_id)
            case msg.Pin() | msg.Evict() | msg.Warm():
                base = resolve_base(self.state, message.recipe_hash)
                return cache_event(message, request_id, base.recipe_hash)
            case msg.Rebuild():
                base = resolve_base(self.state, message.recipe_hash)
                return ev.RebuildRequested(request_id, base.recipe_hash)
        raise AssertionError(message)


def over_the_wire(answer: msg.ToPerson) -> msg.ToPerson:
    """The answer as the asker gets it."""
    return Decoder(msg.ToPerson, MESSAGE_BYTES_MAX).decode(encode(answer, MESSAGE_BYTES_MAX))


def small_sweep(
    name: str = "mix", *, sweep_id: str = "", shares: tuple[float, ...] = (0.1, 0.5), folds: int = 2
) -> SweepSpec:
    """Commands on one base: an axis of shares and one of folds."""
    sweep_id = sweep_id or f"{name}-00000001"
    recipe = {"version": 1, "kind": "command", "command": "train", "params": {"lr": 0.001}}
    base = BaseSpec(digest(b"recipe"), recipe, "train.py · lr 0.001", CommandWork("train"))
    jobs = tuple(
        JobSpec(
            job_id=digest(f"{sweep_id}/{share}/{fold}".encode())[:16],
            name=f"{name}/share={share},fold={fold}",
            cell={"share": share, "fold": fold},
            work=CommandWork("tune {base}"),
            recipe_hash=base.recipe_hash,
        )
        for share in shares
        for fold in range(folds)
    )
    return SweepSpec(sweep_id, name, jobs, (base,), ResultsSpec("accuracy", ("fold",)))


def user_error(message: str = "exit code 1") -> Failure:
    return Failure(FailureClass.USER_ERROR, message, "node-1", 1)
