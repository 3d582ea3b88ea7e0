"""A live picture of sweeps in a terminal: sweeps, bases, running jobs, transfers, time left.

    progress = MeshProgress(client.view, [sweep_id])
    with Live(progress, auto_refresh=False) as live:
        async for _ in client.batches():
            progress.view = client.view
            live.refresh()

It only reads the view, and draws what it finds there each time it is drawn: so
draw it in the loop that changes the view, never in a thread beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from meshtrain.cli import words
from meshtrain.clock import wall_now_s
from meshtrain.core.changes import BaseRow, JobRow, SweepRow, TransferRow
from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.view import MeshView
from meshtrain.ids import short
from meshtrain.results.formats import clip, clip_middle, plain_text

BAR_WIDTH = 20
NAME_WIDTH_MAX = 28
_EIGHTHS = " ▏▎▍▌▋▊▉"
_OPEN = (JobState.WAITING, JobState.ASSIGNED, JobState.RUNNING, JobState.COLLECTING)


class SweepCount:
    """How far a sweep is, and how long it may still take."""

    def __init__(self, row: SweepRow, jobs: Collection[JobRow], now_s: float) -> None:
        self.row = row
        self.total = row.jobs
        self.by_state: dict[JobState, int] = {}
        for job in jobs:
            self.by_state[job.state] = self.by_state.get(job.state, 0) + 1
        self.ended = sum(n for state, n in self.by_state.items() if state.is_terminal)
        self.failed = self.by_state.get(JobState.FAILED, 0)
        self.succeeded = self.by_state.get(JobState.SUCCEEDED, 0)
        self.left_s = _left_s(jobs, now_s)

    @property
    def is_done(self) -> bool:
        """Whether every job of the sweep has ended; false while rows are still missing."""
        return self.ended >= self.total


def _left_s(jobs: Collection[JobRow], now_s: float) -> float | None:
    """Seconds until the jobs have ended, at the pace of those that did; None before any did."""
    took = [
        job.ended_wall_s - job.started_wall_s
        for job in jobs
        if job.state is JobState.SUCCEEDED
        and job.started_wall_s is not None
        and job.ended_wall_s is not None
    ]
    going = [job for job in jobs if job.state in _OPEN]
    if not took or not going:
        return None
    mean_s = max(sum(took) / len(took), 0.0)
    work_s = 0.0
    at_once = 0
    for job in going:
        work_s += mean_s
        if job.state is not JobState.WAITING:
            at_once += 1
        if job.state is JobState.RUNNING and job.started_wall_s is not None:
            work_s -= min(max(now_s - job.started_wall_s, 0.0), mean_s)
    return work_s / at_once if at_once else None


class MeshProgress:
    """Draws the progress of sweeps; give it to `rich.live.Live`, or print it.

    Args:
        view: the picture of the mesh; may be replaced at any time.
        sweep_ids: the sweeps to show; None shows all of the view.
        recipe_hashes: bases to show also where no job of the sweeps starts from them.
        now_s: the wall clock, in seconds since 1970.
        jobs_shown_max: running jobs shown.
        transfers_shown_max: transfers shown, the last ones.
    """

    def __init__(
        self,
        view: MeshView,
        sweep_ids: Collection[str] | None = None,
        *,
        recipe_hashes: Collection[str] = (),
        now_s: Callable[[], float] = wall_now_s,
        jobs_shown_max: int = 6,
        transfers_shown_max: int = 3,
    ) -> None:
        self.view = view
        self.sweep_ids = sweep_ids
        self.recipe_hashes = frozenset(recipe_hashes)
        self.trouble = ""
        """Why the view isn't live; shown below. Empty when it is."""
        self._now_s = now_s
        self._jobs_shown_max = jobs_shown_max
        self._transfers_shown_max = transfers_shown_max

    # --- what there is ---------------------------------------------------------------

    def sweeps(self) -> list[SweepCount]:
        """The sweeps shown, in the order in which they came."""
        jobs: dict[str, list[JobRow]] = {}
        for job in self.view.jobs.values():
            if job.sweep_id is not None:
                jobs.setdefault(job.sweep_id, []).append(job)
        now_s = self._now_s()
        return [
            SweepCount(row, jobs.get(sweep_id, ()), now_s)
            for sweep_id, row in self.view.sweeps.items()
            if self.sweep_ids is None or sweep_id in self.sweep_ids
        ]

    def bases(self) -> list[BaseRow]:
        """The bases that the sweeps' jobs start from, and those asked for by their hash."""
        if self.sweep_ids is None:
            return list(self.view.bases.values())
        wanted = set(self.recipe_hashes)
        wanted |= {
            job.recipe_hash
            for job in self.view.jobs.values()
            if job.sweep_id in self.sweep_ids and job.recipe_hash is not None
        }
        return [base for recipe_hash, base in self.view.bases.items() if recipe_hash in wanted]

    def is_done(self) -> bool:
        """Whether all that is shown has ended: every job, and every base asked for."""
        sweeps = self.sweeps()
        if self.sweep_ids is not None and len(sweeps) < len(self.sweep_ids):
            return False
        asked = [self.view.bases.get(recipe_hash) for recipe_hash in self.recipe_hashes]
        settled = all(base is not None and base.state is not BaseState.NEEDED for base in asked)
        return settled and all(sweep.is_done for sweep in sweeps)

    # --- as it is drawn ------------------------------------------------------------------

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        for line in self.lines(width):
            line.truncate(width, overflow="ellipsis")
            yield line

    def lines(self, width: int = 80) -> Iterator[Text]:
        """The picture, line by line."""
        sweeps = self.sweeps()
        name_width = min(max((len(count.row.name) for count in sweeps), default=0), NAME_WIDTH_MAX)
        for count in sweeps:
            yield _sweep_line(count, name_width)
        bases = self.bases()
        jobs = {job.recipe_hash: job for job in self.view.jobs.values() if job.kind is JobKind.BASE}
        for base in bases:
            yield self._base_line(base, jobs.get(base.recipe_hash), width)
        yield from self._running_lines(width)
        yield from self._transfer_lines(bases)
        if self.trouble:
            yield Text(f"  stale: {plain_text(self.trouble)}", style="yellow")

    def _base_line(self, base: BaseRow, job: JobRow | None, width: int) -> Text:
        line = Text(f"  base {short(base.recipe_hash)}  ")
        if base.state is BaseState.COMMITTED:
            line.append("there", style="green")
            if base.node_id is not None and base.trained_s is not None:
                line.append(f"     trained on {base.node_id} in {words.duration(base.trained_s)}")
            if base.holders:
                line.append(f"     held by {words.listed(list(base.holders), 4)}")
            return line
        if base.state is not BaseState.NEEDED:
            line.append(str(base.state), style="red")
            if job is not None and job.failure:
                line.append(f"  {clip(plain_text(job.failure), max(width - len(line.plain), 20))}")
            return line
        if job is None or job.state is JobState.WAITING:
            line.append("waits" if job is None else plain_text(job.reason) or "waits")
        elif job.started_wall_s is None:
            line.append(f"starts on {job.node_id}", style="cyan")
        else:
            line.append("training", style="cyan")
            took = words.whole_seconds(self._now_s() - job.started_wall_s)
            line.append(f"  on {job.node_id}  for {took}")
        if base.waiting:
            line.append(f"     {words.count(base.waiting, 'job')} wait on it")
        return line

    def _running_lines(self, width: int) -> Iterator[Text]:
        running = [
            job
            for job in self.view.jobs.values()
            if job.kind is JobKind.EXPERIMENT
            and job.state in (JobState.RUNNING, JobState.COLLECTING)
            and (self.sweep_ids is None or job.sweep_id in self.sweep_ids)
        ]
        running.sort(key=lambda job: job.started_wall_s or 0.0)
        now_s = self._now_s()
        for job in running[: self._jobs_shown_max]:
            took = ""
            if job.started_wall_s is not None:
                took = words.whole_seconds(now_s - job.started_wall_s)
            verb = "fetches its result" if job.state is JobState.COLLECTING else took
            name = clip_middle(job.name, max(width - 34, 20))
            yield Text(f"    {job.node_id or '':<12}  {name}  {verb}", style="dim")
        if len(running) > self._jobs_shown_max:
            yield Text(f"    … and {len(running) - self._jobs_shown_max} more run", style="dim")

    def _transfer_lines(self, bases: Collection[BaseRow]) -> Iterator[Text]:
        labels = {base.artifact_id: base.recipe_hash for base in bases if base.artifact_id}
        shown = [
            transfer
            for transfer in self.view.transfers
            if transfer.artifact_id in labels or self.sweep_ids is None
        ]
        for transfer in shown[-self._transfers_shown_max :]:
            recipe_hash = labels.get(transfer.artifact_id)
            what = words.base_name(recipe_hash) if recipe_hash else short(transfer.artifact_id)
            yield Text(f"    {transfer_text(transfer, what)}", style="dim")


def transfer_text(transfer: TransferRow, what: str) -> str:
    """`base 7f3a…c21 came to node-3 in 4.1 s from node-1, node-2`."""
    sources = sorted(transfer.bytes_by_node, key=lambda node: -transfer.bytes_by_node[node])
    moved = words.size(sum(transfer.bytes_by_node.values()))
    took = words.duration(transfer.duration_s)
    origin = f" from {words.listed(sources, 4)}" if sources else ""
    reused = f", {words.size(transfer.bytes_reused)} were there" if transfer.bytes_reused else ""
    return f"{what} came to {transfer.to_node} in {took}{origin} ({moved}{reused})"


def bar(done: int, total: int, width: int = BAR_WIDTH) -> str:
    """`████████████▌░░░`."""
    if total <= 0:
        return "░" * width
    eighths = min(done, total) * width * 8 // total
    full, part = divmod(eighths, 8)
    text = "█" * full + (_EIGHTHS[part] if part else "")
    return text + "░" * (width - len(text))


def _sweep_line(count: SweepCount, name_width: int) -> Text:
    row = count.row
    line = Text(f"{clip_middle(row.name, name_width):<{name_width}}  ", style="bold")
    if not count.total:
        line.append(f"{words.count(row.bases, 'base model')}", style="not bold")
        return line
    line.append(bar(count.ended, count.total), style="not bold")
    line.append(f"  {count.ended}/{count.total}", style="not bold")
    told = []
    for state in (JobState.RUNNING, JobState.COLLECTING, JobState.ASSIGNED):
        number = count.by_state.get(state, 0)
        if number:
            told.append(f"{number} {'start' if state is JobState.ASSIGNED else state}")
    if told:
        line.append(f"  {', '.join(told)}", style="not bold cyan")
    if count.failed:
        line.append(f"  {count.failed} failed", style="not bold red")
    cancelled = count.by_state.get(JobState.CANCELLED, 0)
    if cancelled:
        line.append(f"  {cancelled} cancelled", style="not bold yellow")
    if count.left_s is not None and not count.is_done:
        line.append(f"  about {words.whole_seconds(count.left_s)} left", style="not bold")
    return line
