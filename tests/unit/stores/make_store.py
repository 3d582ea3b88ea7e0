"""Makes vN.db.gz and vN.json: a store of today's schema N with a record of every kind, and what
this code reads from it.

A migration is tested on a store that the code before it wrote. So, before you add one, run this
with the code as it stands, and commit both files together with the migration:

    python tests/unit/stores/make_store.py

Then let `main` save what the migration adds: a test runs it, and asks for a row in every table.
The stores of earlier schemas were made by this script as it was then; they are never made anew.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import msgspec

from meshtrain.core import effects as fx
from meshtrain.core.job import (
    EPOCHS_PER_INCARNATION,
    Attempt,
    AttemptState,
    Base,
    BaseState,
    Failure,
    FailureClass,
    Job,
    JobKind,
    JobState,
    Placement,
    Sweep,
    attempt_id_of,
)
from meshtrain.core.named_input import NamedInput
from meshtrain.core.spending import Spending
from meshtrain.spec.jobs import (
    BaseSpec,
    CommandWork,
    JobSpec,
    Limits,
    Resources,
    ResultsSpec,
    TrainingWork,
)
from meshtrain.store.base import ArchiveEntry, ArchiveState
from meshtrain.store.migrate import known_migrations
from meshtrain.store.sqlite import SqliteStore

WALL_S = 1.75e9
ENDED = {"succeeded": AttemptState.SUCCEEDED, "failed": AttemptState.FAILED}
OUT_OF_MEMORY = Failure(FailureClass.OUT_OF_MEMORY, "8 GB were not enough", "node-1", 137)


def a_job(number: int, state: JobState) -> Job:
    spec = JobSpec(
        job_id=f"j{number}",
        name=f"sweep/fold={number}",
        cell={"fold": number, "share": 0.25, "note": None, "shuffled": True},
        work=TrainingWork({"mode": "full_fine_tuning", "recipe": {"participants": ["p01"]}}),
        recipe_hash="r0",
        resources=Resources(gpus=1, gpu_memory_bytes=1 << 34),
        limits=Limits(retries_max=3, timeout_s=60.0),
        priority=5,
        group="base alone",
    )
    return Job(
        spec,
        JobKind.EXPERIMENT,
        number,
        "s0",
        state=state,
        generation=1 + number % 2,
        priority=number,
        cancelling=state is JobState.RUNNING,
        retries_used=number,
        losses=1,
        gpu_memory_bytes=1 << 35,
        failure=OUT_OF_MEMORY if state in (JobState.FAILED, JobState.WAITING) else None,
        metrics={"accuracy": 0.5} if state is JobState.SUCCEEDED else {},
        submitted_wall_s=WALL_S,
        ended_wall_s=WALL_S + 9 if state.is_terminal else None,
        alone=state is JobState.RUNNING,
        checkpoint="c" * 32 if state is JobState.RUNNING else None,
        checkpoint_safe="d" * 32 if state is JobState.RUNNING else None,
        asked=Resources(gpus=2, labels=(("gpu", "a100"),)) if state is JobState.WAITING else None,
    )


def an_attempt(job: Job, counter: int, state: AttemptState) -> Attempt:
    epoch = EPOCHS_PER_INCARNATION + counter
    ended = state is not AttemptState.LIVE
    return Attempt(
        attempt_id=attempt_id_of(job.job_id, epoch),
        job_id=job.job_id,
        generation=job.generation,
        epoch=epoch,
        placements=(Placement("node-1", (0, 1), 0, 4096),),
        state=state,
        base_artifact="a" * 32,
        assigned_wall_s=WALL_S,
        started_wall_s=WALL_S + 1,
        ended_wall_s=WALL_S + 9 if ended else None,
        failure=OUT_OF_MEMORY if state is AttemptState.FAILED else None,
        artifact_id="b" * 32 if state is AttemptState.SUCCEEDED else None,
        resumed_from="d" * 32 if state is AttemptState.LIVE else None,
    )


def main(folder: Path) -> None:
    """Write both files into `folder`."""
    base_work = CommandWork("python base.py", env={"A": "1"})
    base_job = Job(
        JobSpec("base-r0", "base/r0", {}, base_work),
        JobKind.BASE,
        0,
        state=JobState.SUCCEEDED,
        ended_wall_s=WALL_S + 5,
    )
    jobs = [a_job(number, state) for number, state in enumerate(JobState, 1)]
    attempts = [an_attempt(base_job, 1, AttemptState.SUCCEEDED)]
    counter = 1
    for job in jobs:
        if job.state is JobState.WAITING:
            continue
        # One that went wrong, and the one that counts.
        for state in (AttemptState.LOST, ENDED.get(job.state.value)):
            counter += 1
            if state is None:
                cancelled = job.state is JobState.CANCELLED
                state = AttemptState.CANCELLED if cancelled else AttemptState.LIVE
            attempts.append(an_attempt(job, counter, state))
    bases = [
        Base(
            BaseSpec("r0", {"base": {"lr": "0.001"}}, "cnn · p01", base_work),
            "base-r0",
            state=BaseState.COMMITTED,
            artifact_id="a" * 32,
            size_bytes=5_000_000,
            durable=True,
            node_id="node-1",
            trained_s=5.0,
            committed_wall_s=WALL_S + 5,
        ),
    ]
    sweep = Sweep(
        "s0",
        "sweep",
        tuple(job.job_id for job in jobs),
        ("r0",),
        ResultsSpec(metric="accuracy", over=("fold",)),
        "name: sweep\n# écrit à la main\n",
        WALL_S,
        reused=("r0",),
    )
    with tempfile.TemporaryDirectory() as home:
        store = SqliteStore(Path(home))
        store.save(
            [
                fx.AddSweep(sweep),
                fx.AddJobs((base_job, *jobs)),
                *(fx.AddAttempt(attempt) for attempt in attempts),
                *(fx.SaveBase(base) for base in bases),
                fx.SaveDrained("node-7", True),
                fx.SaveDrained("node-8", True, WALL_S),
                fx.SaveGpuFaults("node-1", 1, 3, True),
                fx.SavePin("r0", "node-1", True),
                fx.SaveSpending(Spending("s0", 7200.0, 5.5, 20.0, 50.0)),
                fx.AddInput(NamedInput("pascal5i", 1, "e" * 32, 1 << 30, 12, "alice", WALL_S)),
            ]
        )
        for number, attempt in enumerate(attempts):
            for stream in ("log", "metrics"):
                store.set_stream_size(attempt.attempt_id, attempt.job_id, stream, number * 100)
        store.mark_archive("s3://lab/mesh", "word")
        entries = [
            ArchiveEntry(f"results/s/{state}", "b" * 32, "j1", state, 10) for state in ArchiveState
        ]
        store.save_archived("s3://lab/mesh", entries)
        store.commit()
        told = {
            "loaded": store.load(),
            "attempts": attempts,
            "streams": store.all_stream_sizes(),
        }
        store.close()
        content = (Path(home) / "jobs.db").read_bytes()
    version = known_migrations()[-1].version
    (folder / f"v{version}.db.gz").write_bytes(gzip.compress(content, mtime=0))
    (folder / f"v{version}.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(told)) + b"\n"
    )


if __name__ == "__main__":
    main(Path(__file__).parent)
