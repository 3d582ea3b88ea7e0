"""The promises that the simulated mesh is held to while it runs, by what was told and kept.

Each check fails with the number of its promise. What holds of the scheduler's own
state is checked by `meshtrain.core.invariants`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_master import LEASE_S
from sim_sweeps import DATA, reads_of, trains_base

from meshtrain.core import effects as fx
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.job import (
    Attempt,
    AttemptState,
    BaseState,
    FailureClass,
    Job,
    JobKind,
    JobState,
)
from meshtrain.core.retry import LOSSES_MAX
from meshtrain.core.state import MeshState
from meshtrain.spec.jobs import InputData, JobSpec, SweepSpec

if TYPE_CHECKING:
    from mesh_model import SimMesh
    from sim_host import Host
    from sim_work import Process


class Promises:
    """What was told and kept so far, and what it may not be contradicted by."""

    def __init__(self, mesh: SimMesh) -> None:
        self._mesh = mesh
        #: sweeps whose submission was acknowledged
        self.acknowledged: set[str] = set()
        #: (recipe hash, generation) → artifacts ever committed for it
        self.committed: dict[tuple[str, int], set[str]] = {}
        #: (job id, generation) → how it ended
        self.terminal: dict[tuple[str, int], JobState] = {}
        #: (job id, generation) → seconds of work in the last checkpoint that the master held
        self.secured_s: dict[tuple[str, int], float] = {}
        #: recipe hash of a base that continues from another → the model that it is pinned to
        self.parents: dict[str, str] = {}
        #: job id → what people submitted, and the sweeps that they cancelled
        self.submitted: dict[str, JobSpec] = {}
        self.cancelled_sweeps: set[str] = set()
        #: (job id, generation) of what was told to be cancelled
        self.cancelled: set[tuple[str, int]] = set()
        #: recipe hash → the model that is committed now, None while there is none
        self.models: dict[str, str | None] = {}
        #: attempt → the model that it is to start from
        self.given: dict[str, str | None] = {}
        #: what jobs made that were told as succeeded
        self.results: set[str] = set()
        #: how many copies of bases were evicted
        self.evicted = 0

    # --- what people ask -----------------------------------------------------

    def note_submitted(self, sweep: SweepSpec) -> None:
        """Somebody submits a sweep."""
        self.submitted.update((job.job_id, job) for job in sweep.jobs)

    def note_cancel(self, sweep_id: str) -> None:
        """Somebody cancels a sweep."""
        self.cancelled_sweeps.add(sweep_id)

    # --- what the master keeps and tells -------------------------------------

    def note_reply(self, reply: fx.Reply) -> None:
        """The master has answered a request."""
        if reply.request_id.startswith("submit-") and not reply.error:
            self.acknowledged.update(reply.done)
        if reply.request_id.startswith("cancel-") and not reply.error:
            jobs = self._mesh.master.state.jobs
            self.cancelled.update((job_id, jobs[job_id].generation) for job_id in reply.done)

    def check_started(self, state: MeshState) -> None:
        """P1: a master that comes up knows all that was acknowledged."""
        known = state.sweeps.keys()
        assert self.acknowledged <= known, f"P1: lost {self.acknowledged - known}"

    def check_saved(self, save: fx.Save) -> None:
        """What is on the master's disk from now on."""
        match save:
            case fx.SaveBase():
                self.models[save.base.recipe_hash] = save.base.artifact_id
                if save.base.artifact_id is not None:
                    key = (save.base.recipe_hash, save.base.generation)
                    known = self.committed.setdefault(key, set())
                    known.add(save.base.artifact_id)
                    assert len(known) == 1, f"P3: base {save.base.recipe_hash} committed twice"
            case fx.UpdateJob():
                job = save.job
                if job.checkpoint_safe is not None:
                    done_s = self._mesh.artifacts.checkpoints[job.checkpoint_safe][1]
                    self.secured_s[job.job_id, job.generation] = done_s
            case fx.AddAttempt():
                self._check_model(save.attempt)
                self._check_goes_on(save.attempt)
            case fx.UpdateAttempt():
                if save.attempt.state is AttemptState.LOST:
                    self._check_lost(save.attempt.node_id, save.attempt.attempt_id)
            case _:
                pass

    def _check_model(self, attempt: Attempt) -> None:
        """P5: a job starts from the model that is committed for its recipe, not without it."""
        self.given[attempt.attempt_id] = attempt.base_artifact
        spec = self.submitted.get(attempt.job_id)
        if spec is None:
            return
        recipe_hash = spec.recipe_hash
        model = None if recipe_hash is None else self.models.get(recipe_hash)
        assert model is not None or recipe_hash is None, f"P5: {spec.name} is given out too early"
        assert attempt.base_artifact == model, f"P5: {spec.name} starts from another model"

    def _check_goes_on(self, attempt: Attempt) -> None:
        """P7: an attempt begins with what the master held of the job's work."""
        secured_s = self.secured_s.get((attempt.job_id, attempt.generation), 0.0)
        known = self._mesh.artifacts.checkpoints
        goes_on_s = known.get(attempt.resumed_from or "", ("", 0.0))[1]
        # One that the last attempt kept is newer, whatever came to the master meanwhile.
        newest = self._mesh.master.state.jobs[attempt.job_id].checkpoint
        is_newest = newest is not None and attempt.resumed_from == newest
        assert is_newest or goes_on_s >= secured_s, (
            f"P7: {attempt.attempt_id} begins at {goes_on_s:.1f} s, and the master held "
            f"a checkpoint of {secured_s:.1f} s"
        )

    def _check_lost(self, name: str, attempt_id: str) -> None:
        """P12: a master that stood still takes no lease from a node that was there all along."""
        mesh = self._mesh
        host = mesh.hosts[name]
        process = host.attempts.get(attempt_id)
        troubled_s = max(
            mesh.master.since_s,
            host.beating_since_s,
            host.paused_until_s,
            mesh.network.mended_s,
        )
        weather = mesh.weather
        calm = weather.loss == 0 and weather.delay_max_s <= 0.5 and not mesh.network.cut
        if not calm or mesh.now_s - troubled_s < 2 * LEASE_S or host.agent is None:
            return
        assert process is None or not process.alive, (
            f"P12: {attempt_id} is given up, and it runs on a node that was never silent"
        )

    def check_finished(self, job: Job) -> None:
        """The master tells that a job has ended."""
        key = (job.job_id, job.generation)
        assert key not in self.terminal, f"P2: {job.name} ended twice"
        self.terminal[key] = job.state
        assert key not in self.cancelled or job.state is JobState.CANCELLED, (
            f"P8: {job.name} was told to be cancelled, and {job.state}"
        )
        attempt = job.attempt
        if job.state is JobState.SUCCEEDED:
            assert attempt is not None
            completed = self._mesh.work.completed
            assert attempt.attempt_id in completed, f"P2: {job.name} never ran to its end"
            epochs = [a.epoch for a in self._mesh.master.store.attempts_of(job.job_id)]
            assert attempt.epoch == max(epochs), f"P2: {job.name} counts an old epoch"
            self._check_result(job, attempt)
        elif job.state is JobState.FAILED:
            self._check_failed(job)
        elif job.kind is JobKind.EXPERIMENT:
            is_asked = job.sweep_id in self.cancelled_sweeps
            assert is_asked, f"P12: {job.name} is cancelled, and nobody asked for that"
        if job.state in (JobState.CANCELLED, JobState.FAILED) and attempt is not None:
            self._check_nothing_runs(attempt.attempt_id, attempt.state)

    def _check_result(self, job: Job, attempt: Attempt) -> None:
        """P1: what is told as succeeded is on the master: what this attempt made."""
        result = attempt.artifact_id
        made = self._mesh.artifacts.outputs.get(attempt.attempt_id)
        assert result is not None and result == made, f"P2: {job.name} counts another's result"
        if job.kind is JobKind.EXPERIMENT:
            self.results.add(result)
            assert result in self._mesh.master.holds, f"P1: {job.name} is told, its result not here"

    def _check_failed(self, job: Job) -> None:
        """P12: a job fails by what its own processes did; what befalls its hosts delays it."""
        assert job.failure is not None
        work, state = self._mesh.work, self._mesh.master.state
        attempts = [
            attempt
            for attempt in self._mesh.master.store.attempts_of(job.job_id)
            if attempt.generation == job.generation
        ]
        told = job.failure.failure_class
        match told:
            case FailureClass.USER_ERROR | FailureClass.TIMEOUT | FailureClass.OUT_OF_MEMORY:
                fitting = [one for one in attempts if work.failed.get(one.attempt_id) is told]
                tries = 1
                if told is FailureClass.OUT_OF_MEMORY:
                    tries += job.spec.limits.retries_max
                is_true = len(fitting) >= tries
            case FailureClass.BASE_FAILED if job.kind is JobKind.BASE:
                is_true = not state.is_held(self.parents.get(state.base_of_job[job.job_id]))
            case FailureClass.BASE_FAILED:
                base = state.bases[job.spec.recipe_hash or ""]
                is_true = base.state is BaseState.FAILED
            case FailureClass.INPUT:
                there = {node.node_id for node in state.nodes.values() if node.connected}
                is_true = there <= set(work.lacked)
            case _:
                lost = (AttemptState.LOST, AttemptState.FAILED)
                is_true = sum(one.state in lost for one in attempts) >= LOSSES_MAX
        assert is_true, (
            f"P12: {job.name} is given up after {len(attempts)} attempts, with no fault of its "
            f"own: {told}, {job.failure.message}"
        )

    def _check_nothing_runs(self, attempt_id: str, state: AttemptState) -> None:
        # What was lost with its host may run on, until that hears of it.
        if state in (AttemptState.LOST, AttemptState.LIVE):
            return
        for host in self._mesh.hosts.values():
            process = host.attempts.get(attempt_id)
            assert process is None or not process.alive, f"P8: {attempt_id} is told, and runs"

    # --- what a node starts and ends -----------------------------------------

    def check_start(self, host: Host, assignment: AssignAttempt) -> None:
        """An attempt begins, and is the only one of its name, with all that it needs."""
        attempt_id = assignment.attempt_id
        assert attempt_id not in host.attempts, f"P2: {attempt_id} is started twice"
        for need in assignment.needs:
            assert need.artifact_id in host.holds, "P5: started without what it needs"
        needed = {need.artifact_id for need in assignment.needs}
        read = {data.digest for data in reads_of(assignment) if not data.on_share}
        assert read <= needed, f"P5: {assignment.name} is told nothing of the data that it reads"
        assert attempt_id in self.given, f"P1: {attempt_id} is given out, and is on no disk"
        given = None if assignment.base is None else assignment.base.artifact_id
        assert given == self.given[attempt_id], f"P5: {assignment.name} is told another model"

    def check_run(self, host: Host, assignment: AssignAttempt) -> None:
        """A process begins, on GPUs of its own, from the model that it is to begin from."""
        for other in host.running:
            shared = set(other.assignment.gpus) & set(assignment.gpus)
            assert not shared, f"P9: GPU {shared} of {host.name} is given out twice"
        # As far as its last look goes: somebody may have come since.
        assert host.agent is not None
        seen = set(host.agent.held.gpus_busy)
        assert not set(assignment.gpus) & seen, "P9: a GPU that somebody else uses"
        if trains_base(assignment):
            self._check_single_trainer(host, assignment)
            assert assignment.recipe_hash is not None
            pin = self.parents.get(assignment.recipe_hash)
            given = None if assignment.base is None else assignment.base.artifact_id
            assert given == pin, "P5: a base continues from another model than it is pinned to"

    def _check_single_trainer(self, host: Host, assignment: AssignAttempt) -> None:
        """P3: while the lease of a base lives, nobody else trains it."""
        mesh = self._mesh
        if not mesh.master.is_up:
            return
        live = mesh.master.state.live
        for other_host in mesh.hosts.values():
            for process in other_host.running:
                other = process.assignment
                if other.recipe_hash != assignment.recipe_hash or not trains_base(other):
                    continue
                if other.attempt_id == assignment.attempt_id and other_host is host:
                    continue
                both_live = other.attempt_id in live and assignment.attempt_id in live
                assert not both_live, f"P3: {assignment.name} is trained twice at once"

    def check_may_end(self, host: Host, attempt_id: str) -> None:
        """P7: what runs under a lease that the master holds up is ended on its word alone."""
        mesh = self._mesh
        agent = host.agent
        if not mesh.master.is_up or agent is None or agent.held.by_id[attempt_id].handing_back:
            return
        job_id = mesh.master.state.live.get(attempt_id)
        if job_id is not None:
            job = mesh.master.state.jobs[job_id]
            assert job.cancelling, f"P7: {attempt_id} is ended under its lease"

    def check_told(self, host: Host, attempt_id: str) -> None:
        """P8: an end is told when nothing of the attempt runs any more."""
        process = host.attempts.get(attempt_id)
        assert process is None or not process.alive, f"P8: {attempt_id} is told as ended, and runs"

    # --- what a node removes -------------------------------------------------

    def check_removable(self, host: Host, artifact_id: str) -> None:
        """What goes is needed by nothing that runs, and isn't a result on its way."""
        for process in host.running:
            needs = {need.artifact_id for need in process.assignment.needs}
            assert artifact_id not in needs, (
                f"P5: {artifact_id} goes from under a job on {host.name}"
            )
        made = [
            process.assignment.attempt_id
            for process in host.attempts.values()
            if process.output == artifact_id and not self._counts_for_nothing(host, process)
        ]
        assert not made, f"P7: what {made} made goes before the master has taken it in"

    def _counts_for_nothing(self, host: Host, process: Process) -> bool:
        """Whether what an attempt made counts for nothing any more.

        It was told as ended without it, since it was cancelled, say; or the job was given
        to another since: a result counts only with the current epoch.
        """
        assert host.agent is not None
        attempt_id = process.assignment.attempt_id
        held = host.agent.held.by_id.get(attempt_id)
        if held is not None and held.report is not None and held.report.artifact_id is None:
            return True
        master = self._mesh.master
        if not master.is_up:
            return True
        is_collected = process.output in master.state.collecting
        return attempt_id not in master.state.live and not is_collected

    def check_removed(self, host: Host, artifact_id: str) -> None:
        """P12: the last durable copy of a base that is committed and not superseded never goes."""
        mesh = self._mesh
        for base in mesh.master.store.load().bases:
            if base.artifact_id != artifact_id or base.state is not BaseState.COMMITTED:
                continue
            self.evicted += 1
            left = sum(artifact_id in other.holds for other in mesh.hosts.values())
            if artifact_id not in mesh.master.holds:
                # A copy that was granted to go before the same bytes became a base counted
                # for none: then the one that was just made is left, and none was durable yet.
                least = 2 if base.durable else 1
                assert left >= least, f"the last durable copy went from {host.name}, {left} left"

    # --- what is left when all has ended -------------------------------------

    def misplaced(self) -> str:
        """Where the master's directory and the disks differ; empty where they agree."""
        mesh = self._mesh
        if mesh.master.state.held_by_master != mesh.master.holds:
            return "the master"
        for name, host in mesh.hosts.items():
            if mesh.master.state.nodes[name].holds != host.holds:
                return name
        return ""

    def check_over(self, inputs: tuple[InputData, ...]) -> None:
        """Nothing runs and nothing is left over, some time after the last job has ended.

        Args:
            inputs: what the jobs have read.
        """
        mesh = self._mesh
        if DATA in inputs:
            (named,) = mesh.master.state.named_inputs["voc"]
            assert named.artifact_id == DATA.digest, "P1: the data set lost its name"
            assert DATA.digest in mesh.master.holds, "a data set with a name stays with the master"
        for name, host in mesh.hosts.items():
            assert not host.running, f"P8: {name} still runs {host.running}"
            assert host.agent is not None and not host.agent.held.by_id, f"{name} forgot nothing"
            assert not host.attempts, f"{name} keeps the folders of {list(host.attempts)}"
        lost = self.results - mesh.master.holds
        assert not lost, f"P1: the master has lost {len(lost)} results that it told"
        where = self.misplaced()
        assert not where, f"P1: what lies on {where} is not what the directory says"
        left = mesh.master.holds & mesh.artifacts.checkpoints.keys()
        # A master that crashed between deciding to remove one and doing so keeps it.
        assert not left or mesh.master.life > 1, (
            f"the master keeps {len(left)} checkpoints that nobody needs"
        )
