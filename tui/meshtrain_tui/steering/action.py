"""What can be done to the mesh from a screen: what is asked first, sent, told, and undone.

    desk.steer(cancel([row], picture.view))
    desk.steer(drain(node))
    desk.steer(pin(base))

An action holds the messages that the command of the same name sends, and that command
itself. Nothing here talks to anybody: the app does.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from meshtrain.core.changes import BaseRow, JobRow, NodeRow, SweepRow
from meshtrain.core.job import JobKind, JobState
from meshtrain.core.view import MeshView
from meshtrain.ids import new_id, short
from meshtrain.wire.messages import (
    Cancel,
    Done,
    Drain,
    FromPerson,
    Pin,
    Reprioritise,
    Retry,
)
from meshtrain_tui.words import plural

NAMES_MAX = 1000
"""That the master takes in one message."""
PRIORITY_MIN, PRIORITY_MAX = -(1 << 31), (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Action:
    """Something that changes the mesh."""

    title: str
    """What it does, as a question's first words: `Cancel 3 jobs`."""
    consequence: str
    """What comes of it, in a sentence."""
    command: str
    """The command that does the same."""
    messages: tuple[FromPerson, ...]
    told: Callable[[Sequence[Done]], str]
    """What came of it, from the master's answers, one a message."""
    undo: Callable[[Sequence[Done]], Action | None] = lambda answers: None
    """What takes it back, if anything does."""


def command_of(*words: str) -> str:
    """A command as it is typed into a shell."""
    return shlex.join(("meshtrain", *words))


def typed_name(row: JobRow, view: MeshView) -> str:
    """What to type for a job: its name, or its id where the name means a later sweep's job."""
    sweep = view.sweeps.get(row.sweep_id) if row.sweep_id else None
    if sweep is not None:
        for other in view.sweeps.values():
            if other.name == sweep.name and other.submitted_wall_s > sweep.submitted_wall_s:
                return row.job_id
    return row.name


# --- jobs ------------------------------------------------------------------------------


def cancel(rows: Sequence[JobRow], view: MeshView) -> Action | None:
    """End these jobs; None when all of them have ended."""
    live = [row for row in rows if not row.state.is_terminal]
    if not live:
        return None
    running = sum(row.state.is_leased for row in live)
    ended = f"{_they(running, 'is', 'are')} on a node: that ends now. " if running else ""
    return Action(
        f"Cancel {_jobs(live)}",
        f"{ended}A base is trained on as long as another sweep waits on it.",
        command_of("cancel", *(typed_name(row, view) for row in live)),
        tuple(Cancel(new_id("cancel"), ids) for ids in _parts(row.job_id for row in live)),
        _counted("cancelled {}", "Nothing to cancel: all of it has ended."),
        _run_again,
    )


def cancel_sweep(sweep: SweepRow) -> Action:
    """End all jobs of a sweep."""
    return Action(
        f"Cancel the sweep {sweep.name}",
        f"All of its {plural(sweep.jobs, 'job')} that have not ended are ended. A base is trained "
        "on as long as another sweep waits on it.",
        command_of("cancel", sweep.sweep_id),
        (Cancel(new_id("cancel"), (sweep.sweep_id,)),),
        _counted("cancelled {}", "Nothing to cancel: all of it has ended."),
        _run_again,
    )


def retry(rows: Sequence[JobRow], view: MeshView) -> Action | None:
    """Run these again; None when none of them failed or was cancelled."""
    over = [row for row in rows if row.state in (JobState.FAILED, JobState.CANCELLED)]
    if not over:
        return None
    return Action(
        f"Run {_jobs(over)} again",
        "A job takes its base with it, and a base the jobs that failed because of it.",
        command_of("retry", *(typed_name(row, view) for row in over)),
        tuple(Retry(new_id("retry"), ids) for ids in _parts(row.job_id for row in over)),
        _counted("{} again in the queue", "Nothing to retry: no such job failed or was cancelled."),
        _cancel_again,
    )


def retry_sweep(sweep: SweepRow) -> Action:
    """Run again what failed or was cancelled of a sweep."""
    return Action(
        f"Run again what failed of {sweep.name}",
        "Jobs that succeeded are left alone.",
        command_of("retry", sweep.sweep_id),
        (Retry(new_id("retry"), (sweep.sweep_id,)),),
        _counted("{} again in the queue", "Nothing to retry: no such job failed or was cancelled."),
        _cancel_again,
    )


def prioritise(rows: Sequence[JobRow], priority: int, view: MeshView) -> Action | None:
    """Let these go before those of lower priority; None when none of them can change."""
    open_rows = [row for row in rows if not row.state.is_terminal and row.kind is not JobKind.BASE]
    if not open_rows:
        return None
    before: dict[int, list[str]] = {}
    for row in open_rows:
        before.setdefault(row.priority, []).append(row.job_id)

    def back(answers: Sequence[Done]) -> Action:
        messages = tuple(
            Reprioritise(new_id("priority"), ids, old)
            for old, job_ids in before.items()
            for ids in _parts(job_ids)
        )
        return Action(
            f"Give {_jobs(open_rows)} the priority of before",
            "",
            "; ".join(priority_command(old, ids) for old, ids in before.items()),
            messages,
            _counted("{} with the priority of before", "No job has that priority to give back."),
        )

    return Action(
        f"Give {_jobs(open_rows)} priority {priority}",
        "Waiting jobs of a higher priority start first; what runs goes on.",
        priority_command(priority, [typed_name(row, view) for row in open_rows]),
        tuple(
            Reprioritise(new_id("priority"), ids, priority)
            for ids in _parts(row.job_id for row in open_rows)
        ),
        _counted(f"{{}} with priority {priority}", "No job changed: all of them have ended."),
        back,
    )


def priority_command(priority: int, names: Sequence[str]) -> str:
    """The command that gives jobs a priority; a number below 0 must not look like a flag."""
    dashes = ("--",) if priority < 0 else ()
    return "; ".join(command_of("priority", name, *dashes, str(priority)) for name in names)


def _run_again(answers: Sequence[Done]) -> Action | None:
    job_ids = [job_id for answer in answers for job_id in answer.done]
    if not job_ids:
        return None
    return Action(
        f"Run {plural(len(job_ids), 'cancelled job')} again",
        "",
        command_of("retry", *job_ids),
        tuple(Retry(new_id("retry"), ids) for ids in _parts(job_ids)),
        _counted("{} again in the queue", "Nothing was run again."),
    )


def _cancel_again(answers: Sequence[Done]) -> Action | None:
    job_ids = [job_id for answer in answers for job_id in answer.done]
    if not job_ids:
        return None
    return Action(
        f"Cancel {plural(len(job_ids), 'job')} again",
        "",
        command_of("cancel", *job_ids),
        tuple(Cancel(new_id("cancel"), ids) for ids in _parts(job_ids)),
        _counted("cancelled {}", "Nothing was cancelled."),
    )


# --- nodes -----------------------------------------------------------------------------


def drain(node: NodeRow) -> Action:
    """Let a node take no new jobs, or take jobs again."""
    undo = node.drained
    flags = ("--undo",) if undo else ()
    back = Action(
        f"Drain {node.node_id}" if undo else f"Let {node.node_id} take jobs again",
        "",
        command_of("drain", node.node_id, *(() if undo else ("--undo",))),
        (Drain(new_id("drain"), node.node_id, undo),),
        lambda answers: (
            f"{node.node_id} is drained" if undo else f"{node.node_id} takes jobs again"
        ),
    )
    return Action(
        f"Let {node.node_id} take jobs again" if undo else f"Drain {node.node_id}",
        (
            "It is given jobs from now on."
            if undo
            else "It takes no new jobs; what runs there goes on to its end."
        ),
        command_of("drain", node.node_id, *flags),
        (Drain(new_id("drain"), node.node_id, not undo),),
        lambda answers: (
            f"{node.node_id} takes jobs again"
            if undo
            else f"{node.node_id} is drained: it takes no new jobs"
        ),
        lambda answers: back,
    )


# --- bases -----------------------------------------------------------------------------


def pin(base: BaseRow) -> Action:
    """Keep a base wherever it lies, or let it be evicted again."""
    pinned = bool(base.pinned)
    name = f"base {short(base.recipe_hash)}"

    def words(now_pinned: bool) -> str:
        return f"{name} is pinned wherever it lies" if now_pinned else f"{name} is not pinned"

    def made(to: bool, undo: Callable[[Sequence[Done]], Action | None]) -> Action:
        return Action(
            f"Pin {name}" if to else f"Unpin {name}",
            (
                "No node removes it to make room, until it is unpinned."
                if to
                else "It may be removed where room is needed."
            ),
            command_of("bases", "pin" if to else "unpin", base.recipe_hash),
            (Pin(new_id("pin"), base.recipe_hash, "", to),),
            lambda answers: "; ".join((words(to), *_notes(answers))),
            undo,
        )

    no_more: Callable[[Sequence[Done]], Action | None] = lambda answers: None  # noqa: E731
    # Pins to single nodes are gone with an unpin of all: a pin of all would not bring them back.
    reversible = not pinned or base.pinned == ("",)
    return made(not pinned, (lambda answers: made(pinned, no_more)) if reversible else no_more)


# --- words -----------------------------------------------------------------------------


def _jobs(rows: Sequence[JobRow]) -> str:
    return rows[0].name if len(rows) == 1 else f"{len(rows):,} jobs"


def _they(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _counted(form: str, nothing: str) -> Callable[[Sequence[Done]], str]:
    """Says how many jobs it was done to, and what the master adds."""

    def told(answers: Sequence[Done]) -> str:
        count = sum(len(answer.done) for answer in answers)
        notes = _notes(answers)
        if not count:
            return "; ".join(notes) or nothing
        return "; ".join((form.format(plural(count, "job")), *notes))

    return told


def _notes(answers: Sequence[Done]) -> list[str]:
    return [note for answer in answers for note in answer.notes]


def _parts(job_ids: Iterable[str]) -> list[tuple[str, ...]]:
    """As many in each as the master takes at once."""
    every = list(job_ids)
    return [tuple(every[i : i + NAMES_MAX]) for i in range(0, len(every), NAMES_MAX)]
