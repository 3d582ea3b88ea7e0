"""What must be so once a mesh is whole again and at rest, whatever was done to it before.

Some of it is asked of the master while it still runs, the rest is looked at
when all daemons have ended: what they left on the disk, and what still runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtrain.artifacts.tree import read_manifest
from meshtrain.chaos.jobs import BASE_FILE, STEPS_FILE, TOKEN_FILE, Submission
from meshtrain.chaos.mesh import Process
from meshtrain.chaos.verdict import Check, Verdict
from meshtrain.clock import lease_now_s
from meshtrain.core.invariants import InvariantError, check
from meshtrain.core.job import AttemptState, JobKind, JobState
from meshtrain.core.manifest import artifact_id
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.errors import MeshtrainError
from meshtrain.results.folder import cell_folder
from meshtrain.store.base import ReadableStore
from meshtrain.store.sqlite_reader import open_readonly

Ask = Callable[..., list[Any]]
"""ask(what, *names, offset=0, limit=1000): the rows that answer a query."""

PAGE_ROWS = 1000
LOG_PART_BYTES = 1 << 20
TEMPORARY = ("artifacts/temp", "artifacts/trash", "attempts")
PARTIAL = "artifacts/partial"
TEMPORARY_PATTERNS = ("state/*.new*", "results/**/*.tmp", "inbox/.*", "*.tmp", "logs/**/*.tmp")


def all_rows(ask: Ask, what: str, *names: str) -> list[Any]:
    """All rows of a query, page by page."""
    rows: list[Any] = []
    while page := ask(what, *names, offset=len(rows), limit=PAGE_ROWS):
        rows += page
    return rows


def stored_stream(ask: Ask, job_id: str, stream: str) -> tuple[bytes, bool]:
    """All stored bytes of a job's stream, and whether no more will come."""
    data = b""
    while True:
        row = ask("log", job_id, stream, offset=len(data), limit=LOG_PART_BYTES)[0]
        data += bytes(row["data"])
        if len(data) >= row["size_bytes"] or not row["data"]:
            return data, bool(row["ended"])


def attempt_of_mark(mark: str) -> str:
    """The attempt that a mark names: what follows the node's name."""
    return mark.strip().rpartition("/")[2]


class Ledger:
    """What jobs wrote down at their own ends: lines of `JOB ATTEMPT`."""

    def __init__(self, path: Path) -> None:
        text = path.read_text() if path.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        self.malformed = [line for line in lines if len(line) != 2]
        #: job id → the attempts that came to their end, as often as they did
        self.ends: dict[str, list[str]] = {}
        for job_id, mark in (line for line in lines if len(line) == 2):
            self.ends.setdefault(job_id, []).append(attempt_of_mark(mark))


# --- asked of the running master ---------------------------------------------------------


def check_submissions(
    verdict: Verdict,
    ask: Ask,
    acknowledged: Mapping[str, Submission],
    unsure: Iterable[str],
) -> None:
    """Every acknowledged submission is there, whole, once; and nothing that nobody gave.

    Args:
        acknowledged: by the names of their sweeps.
        unsure: the names of those that were given and never acknowledged.
    """
    found = verdict.check("submissions", "P1: what was acknowledged is there, once")
    sweeps = Counter(row["name"] for row in all_rows(ask, "sweeps"))
    jobs = Counter(row["name"].partition("/")[0] for row in _experiments(all_rows(ask, "jobs")))
    for name, submission in acknowledged.items():
        found.demand(sweeps[name] == 1, f"{name} was acknowledged, and is there {sweeps[name]}×")
        found.demand(
            jobs[name] == submission.jobs,
            f"{name} has {jobs[name]} jobs, and {submission.jobs} were given",
        )
    known = {*acknowledged, *unsure}
    for name in sweeps:
        found.demand(name in known, f"{name} is there, and nobody gave it")


def check_jobs(
    verdict: Verdict, ask: Ask, submissions: Mapping[str, Submission], ledger: Ledger
) -> Counter[str]:
    """Each job ended once, as it should, and what counts is of its deciding attempt.

    Returns what was counted beside: executions, and the jobs by their ends.
    """
    ends = verdict.check("ends", "P2: a job ends in exactly one terminal state")
    ledgers = verdict.check("ledger", "P2: what counts was run to its end")
    logs = verdict.check("logs", "P6: stored logs are what jobs printed, once, in order")
    counts: Counter[str] = Counter()
    for line in ledger.malformed:
        ledgers.demand(False, f"a line of the ledger makes no sense: {line}")
    for row in _experiments(all_rows(ask, "jobs")):
        submission = submissions.get(row["name"].partition("/")[0])
        if submission is None:
            continue
        job = ask("job", row["job_id"])[0]
        counts[job["state"]] += 1
        counts["jobs"] += 1
        deciding = _check_end(ends, job, submission)
        ran = ledger.ends.get(row["job_id"], [])
        counts["executions"] += len(ran)
        counts["run again"] += len(job["attempts"]) > 1
        counts["resumed"] += any(a.get("resumed_from") for a in job["attempts"])
        if submission.writes_token and deciding is not None:
            ledgers.demand(
                deciding in ran,
                f"{job['name']} succeeded as {deciding}, which never got to its end",
            )
            doubled = [attempt for attempt, times in Counter(ran).items() if times > 1]
            ledgers.demand(not doubled, f"{job['name']}: {doubled} ran twice under one lease")
        if submission.log is not None and deciding is not None:
            _check_stream(logs, ask, job, "log", submission.log)
            _check_stream(logs, ask, job, "metrics", submission.metrics)
    return counts


def check_adopted(verdict: Verdict, ask: Ask, ledger: Ledger) -> None:
    """No attempt that ran was lost: whoever was killed came back before its lease was over.

    One that was on its way to a node when that was killed never ran; it is
    given out again, which costs nothing.
    """
    found = verdict.check("adopted", "P7: jobs go on when a daemon is killed or restarted")
    kept = (AttemptState.SUCCEEDED, AttemptState.CANCELLED)
    for row in all_rows(ask, "jobs"):
        for attempt in ask("job", row["job_id"])[0]["attempts"]:
            attempt_id = attempt["attempt_id"]
            ran = attempt["started_wall_s"] is not None
            ran = ran or attempt_id in ledger.ends.get(row["job_id"], ())
            failure = attempt["failure"] or {}
            found.demand(
                attempt["state"] in kept or not ran,
                f"{attempt_id} of {row['name']} ran, and is {attempt['state']}: "
                f"{failure.get('message', '')}",
            )


def _check_end(ends: Check, job: Mapping[str, Any], submission: Submission) -> str | None:
    """The attempt that decided, where the job succeeded."""
    name, state = job["name"], job["state"]
    failure = job.get("last_failure") or {}
    ends.demand(
        state == submission.end,
        f"{name} ended as {state}, not {submission.end}: {failure.get('message', '')}",
    )
    attempts = job["attempts"]
    won = [a for a in attempts if a["state"] == AttemptState.SUCCEEDED]
    live = [a["attempt_id"] for a in attempts if a["state"] == AttemptState.LIVE]
    ends.demand(len(won) <= 1, f"{name} succeeded {len(won)}×: {[a['attempt_id'] for a in won]}")
    ends.demand(not live, f"{name} is {state}, and {live} are live")
    epochs = [a["epoch"] for a in attempts]
    ends.demand(epochs == sorted(set(epochs)), f"the epochs of {name} don't rise: {epochs}")
    if state != JobState.SUCCEEDED or not won:
        ends.demand(state != JobState.SUCCEEDED, f"{name} succeeded without an attempt that did")
        return None
    ends.demand(
        won[0]["epoch"] == max(epochs), f"{name} counts the result of a former epoch: {epochs}"
    )
    return str(won[0]["attempt_id"])


def _check_stream(
    logs: Check, ask: Ask, job: Mapping[str, Any], stream: str, expected: bytes
) -> None:
    stored, _ = stored_stream(ask, job["job_id"], stream)
    if stored == expected:
        logs.demand(True, "")
        return
    pairs = zip(stored, expected, strict=False)
    same = next((at for at, (one, other) in enumerate(pairs) if one != other), None)
    at = min(len(stored), len(expected)) if same is None else same
    logs.demand(
        False,
        f"the {stream} of {job['name']} has {len(stored)} bytes of {len(expected)}, and differs "
        f"from byte {at} on: {stored[at : at + 60]!r}, not {expected[at : at + 60]!r}",
    )


def check_results(
    verdict: Verdict, ask: Ask, submissions: Mapping[str, Submission], results: Path
) -> None:
    """The result that is laid out is that of the deciding attempt, and of its base."""
    found = verdict.check("results", "P2: a result counts only with the current epoch")
    makers = {row["recipe_hash"]: _maker(ask, row) for row in all_rows(ask, "bases")}
    for row in _experiments(all_rows(ask, "jobs")):
        sweep_name = row["name"].partition("/")[0]
        submission = submissions.get(sweep_name)
        if submission is None or not submission.writes_token or row["state"] != JobState.SUCCEEDED:
            continue
        job = ask("job", row["job_id"])[0]
        won = [a["attempt_id"] for a in job["attempts"] if a["state"] == AttemptState.SUCCEEDED]
        deciding = won[-1] if won else None
        cell = cell_folder(results, sweep_name, row["name"])
        told = attempt_of_mark(_text(cell / TOKEN_FILE))
        found.demand(
            told == deciding,
            f"{row['name']} was decided by {deciding or 'nobody'}, its result is of "
            f"{told or 'nobody'}",
        )
        if submission.steps is not None:
            counted = _text(cell / STEPS_FILE).strip()
            found.demand(
                counted == str(submission.steps),
                f"{row['name']} counted {counted or 'no'} steps of {submission.steps}",
            )
        recipe_hash = row.get("recipe_hash")
        if recipe_hash is not None:
            maker = attempt_of_mark(_text(cell / BASE_FILE))
            found.demand(
                maker in makers[recipe_hash],
                f"{row['name']} started from a base that {maker or 'nobody'} made, and committed "
                f"were those of {makers[recipe_hash]}",
            )


def _maker(ask: Ask, base: Mapping[str, Any]) -> list[str]:
    """The attempts whose artifact became the base, one a generation."""
    attempts = ask("job", base["job_id"])[0]["attempts"]
    return [str(a["attempt_id"]) for a in attempts if a["state"] == AttemptState.SUCCEEDED]


def check_bases(verdict: Verdict, ask: Ask) -> None:
    """Each base is committed once a generation, and nobody else trained it meanwhile."""
    found = verdict.check("bases", "P3: a base is committed once per recipe and generation")
    for base in all_rows(ask, "bases"):
        job = ask("job", base["job_id"])[0]
        won: Counter[int] = Counter(
            a["generation"] for a in job["attempts"] if a["state"] == AttemptState.SUCCEEDED
        )
        name = job["name"]
        found.demand(
            all(count == 1 for count in won.values()), f"{name} was committed more than once: {won}"
        )
        if base["state"] == "committed":
            found.demand(
                won[base["generation"]] == 1,
                f"{name} is committed, but no attempt of generation {base['generation']} succeeded",
            )


def _experiments(rows: Sequence[Any]) -> list[Any]:
    return [row for row in rows if row["kind"] == JobKind.EXPERIMENT]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


# --- looked at when all daemons have ended -----------------------------------------------


def check_processes(verdict: Verdict, left: Sequence[Process]) -> None:
    """Nothing of the mesh runs any more."""
    found = verdict.check("processes", "P8: no process is left")
    found.demand(
        not left,
        "still there: " + "; ".join(f"{p.pid} {p.name} ({p.line[:80]})" for p in left[:10]),
    )


def check_folders(verdict: Verdict, homes: Iterable[Path]) -> None:
    """No temporary file is left in any home."""
    found = verdict.check("files", "P4: no temporary file is left")
    for home in homes:
        for folder in TEMPORARY:
            left = _entries(home / folder)
            found.demand(not left, f"{folder} of {home.name} holds {left[:5]}")
        for name in _entries(home / PARTIAL):
            # Who was killed while it fetched keeps what came, to go on with it when it is
            # asked for again; what nobody can go on with is waste.
            manifest = read_manifest(home / PARTIAL / name)
            found.demand(
                manifest is not None and artifact_id(manifest) == name,
                f"{PARTIAL} of {home.name} holds {name}, which nobody can go on with",
            )
        for pattern in TEMPORARY_PATTERNS:
            stray = sorted(home.glob(pattern))
            found.demand(not stray, f"{home.name} holds {[str(p.name) for p in stray[:5]]}")


def _entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def check_inbox(verdict: Verdict, inbox: Path, dropped: Iterable[Submission]) -> None:
    """Every dropped file has exactly one verdict, and lies beside it."""
    found = verdict.check("inbox", "P1: every dropped file has one verdict")
    for submission in dropped:
        accepted = sorted(path.name for path in (inbox / "accepted").glob(f"{submission.name}.*"))
        rejected = sorted(path.name for path in (inbox / "rejected").glob(f"{submission.name}.*"))
        name = submission.file_name
        found.demand(
            (accepted, rejected) == ([name, f"{name}.receipt.txt"], []),
            f"{name}: accepted {accepted}, rejected {rejected}",
        )
        found.demand(not (inbox / name).exists(), f"{name} still lies in the inbox")


def check_store(verdict: Verdict, state: Path, lease_s: float) -> None:
    """The store is sound, and a scheduler that starts from it holds its invariants."""
    found = verdict.check("store", "the store is whole, and holds the scheduler's invariants")
    try:
        store: ReadableStore = open_readonly(state)
        try:
            loaded: Loaded = store.load()
        finally:
            store.close()
        scheduler = Scheduler(SchedulerConfig(lease_s=lease_s), loaded, lease_now_s())
        check(scheduler.state)
    except (MeshtrainError, InvariantError) as error:
        found.demand(False, str(error))
    else:
        found.demand(True, "")
        found.looked_at = len(loaded.jobs)
