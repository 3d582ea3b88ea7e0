"""What a former daemon left in the folder of attempts: taken over, or ended and removed.

A folder with a readable assignment, whose shim has recorded a start or an end,
is adopted: the attempt goes on as if this daemon had launched it. One whose
end the master has may still have bytes of its log to ship. All else is fenced
(fence.py), its processes are ended by their mark, and it is removed: the
master hears of no such attempt, and has it run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.errors import ProtocolError
from meshtrain_daemon.worker import fence, frames, processes
from meshtrain_daemon.worker.assignment_record import Stage, read_assignment
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, clear_away
from meshtrain_daemon.worker.checkpoints import remove_unfinished
from meshtrain_daemon.worker.launch import (
    EndCause,
    Exited,
    LaunchFailed,
    Outcome,
    Started,
    read_outcome,
    read_started,
)
from meshtrain_daemon.worker.orphans import ORPHAN_GRACE_S, sweep_orphans
from meshtrain_daemon.worker.stored_record import stored_before


@dataclass(slots=True)
class Adopted:
    """An attempt that goes on: `started` is set, or `outcome`, when it is over already.

    A shim that has recorded a start and no end may have been killed meanwhile: the
    runner that adopts it finds that out.
    """

    folder: AttemptFolder
    started: Started | None = None
    outcome: Outcome | None = None
    #: the artifact that its output is already
    output_id: str | None = None


@dataclass(slots=True)
class Found:
    """What was found."""

    adopted: list[Adopted] = field(default_factory=list)
    #: their ends are told; what they printed may not all be
    forgotten: list[AttemptFolder] = field(default_factory=list)


def take_over(
    attempts: Path,
    node_id: str,
    store: ArtifactStore,
    say: Callable[[str], None],
    orphan_grace_s: float = ORPHAN_GRACE_S,
) -> Found:
    """Looks at what a former daemon left, and ends what can't be gone on with; blocks.

    Nothing else may use the folder meanwhile.

    Args:
        attempts: the folder of attempts' folders.
        node_id: whose attempts they are; their processes carry it in their mark.
        store: recovered, so that it holds what a crash left on its way there.
        say: shows a line to people.
        orphan_grace_s: from SIGTERM to SIGKILL for what has no shim any more.
    """
    found = Found()
    fenced: list[Path] = []
    for path in sorted(attempts.iterdir()):
        if path.name.startswith("."):
            fenced.append(path)
        elif not _adopt(path, attempts, store, found):
            renamed = fence.fence(path)
            if renamed is not None:
                fenced.append(renamed)
    for path in fenced:
        fence.end_late_shim(path)
    ended = [fence.attempt_of(path) for path in fenced]
    marks = [f"{node_id}/{attempt_id}" for attempt_id in ended if attempt_id]
    _sweep(marks, orphan_grace_s, say)
    for path in fenced:
        if path.is_dir() and not path.is_symlink():
            clear_away(str(path))
        else:
            path.unlink(missing_ok=True)
    return found


def _adopt(path: Path, attempts: Path, store: ArtifactStore, found: Found) -> bool:
    record = read_assignment(str(path))
    if record is None:
        return False
    assignment, stage = record
    attempt_id = assignment.attempt_id
    if attempt_id != path.name:
        return False
    try:
        folder = AttemptFolder(attempts, assignment)
    except ProtocolError:
        return False
    if stage is Stage.FORGOTTEN:
        found.forgotten.append(folder)
        return True
    remove_unfinished(path)
    started = read_started(path, attempt_id)
    outcome = read_outcome(path, attempt_id)
    stored = stored_before(folder.path, attempt_id, store)
    if outcome is not None:
        if not _can_be_believed(folder, started, outcome, store):
            outcome = Exited(attempt_id, EndCause.LOST)
    elif stored is not None and (started is None or started.boot_id != processes.boot_id()):
        # The note and the artifact are fsynced, the shim's records aren't: a loss of power may
        # have taken them. Only what ended with exit code 0 is stored.
        outcome = Exited(attempt_id, EndCause.FINISHED, code=0)
    elif started is None:
        return False
    elif started.boot_id != processes.boot_id():
        outcome = Exited(attempt_id, EndCause.LOST)
    output_id = stored.artifact_id if stored is not None else None
    found.adopted.append(Adopted(folder, started, outcome, output_id))
    return True


def _can_be_believed(
    folder: AttemptFolder, started: Started | None, outcome: Outcome, store: ArtifactStore
) -> bool:
    """Whether what is recorded as ended left what it says.

    After a loss of power the record may be there, and the output's bytes not:
    then only an output that was stored already counts.
    """
    if isinstance(outcome, LaunchFailed):
        return True
    if started is not None and started.boot_id == processes.boot_id():
        return True
    attempt_id = folder.assignment.attempt_id
    return stored_before(folder.path, attempt_id, store) is not None


def _sweep(marks: list[str], grace_s: float, say: Callable[[str], None]) -> None:
    """End what still carries one of these marks."""
    entries = {f"{frames.ATTEMPT_VARIABLE}={mark}".encode(): mark for mark in marks}
    if not entries:
        return
    for entry in processes.marks_found(frozenset(entries)):
        mark = entries[entry]
        try:
            ended = sweep_orphans(mark, grace_s)
        except TimeoutError as error:
            say(str(error))
        else:
            say(f"ended {len(ended)} processes that {mark.rpartition('/')[2]} had left behind")
