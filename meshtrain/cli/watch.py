"""Follows a sweep to its end: live in a terminal, else a line for each thing that ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec

from meshtrain.cli import words
from meshtrain.cli.context import LiveFeed
from meshtrain.cli.progress import MeshProgress
from meshtrain.clock import lease_now_s
from meshtrain.core.changes import BaseRow, JobRow
from meshtrain.core.job import BaseState, JobState

REDRAW_S = 0.25


class Outcome(msgspec.Struct, frozen=True):
    """How a sweep ended."""

    jobs: int
    succeeded: int
    failed: int
    cancelled: int
    bases_lacking: tuple[str, ...] = ()
    """Recipe hashes of the bases asked for that there is no model of."""

    @property
    def is_good(self) -> bool:
        """Whether everything that was asked for is there."""
        return self.succeeded == self.jobs and not self.bases_lacking

    def words(self) -> str:
        """`24 jobs succeeded`, `3 of 24 jobs failed`."""
        told = []
        if self.failed:
            told.append(f"{self.failed} of {words.count(self.jobs, 'job')} failed")
        if self.cancelled:
            told.append(f"{self.cancelled} of {words.count(self.jobs, 'job')} cancelled")
        if self.bases_lacking:
            told.append(f"{words.count(len(self.bases_lacking), 'base')} not trained")
        if not told:
            return f"{words.count(self.jobs, 'job')} succeeded" if self.jobs else "bases are there"
        return ", ".join(told)


async def watch(
    feed: LiveFeed,
    sweep_id: str,
    recipe_hashes: tuple[str, ...] = (),
    *,
    say: Callable[[str], None],
    metric: str | None = None,
    live: bool | None = None,
) -> Outcome:
    """Shows a sweep until it has ended.

    Args:
        feed: the mesh; closed at the end.
        recipe_hashes: bases that were asked for themselves.
        say: takes the lines that are printed where there is no terminal.
        metric: the metric told of each job; None takes the first ones.
        live: whether to draw in place; None does where stdout is a terminal.
    """
    progress = MeshProgress(feed.view, (sweep_id,), recipe_hashes=recipe_hashes)
    draw = sys.stdout.isatty() if live is None else live
    try:
        if draw:
            await _draw(feed, progress)
        else:
            await _tell(feed, progress, say, metric)
    finally:
        feed.close()
    return outcome_of(progress)


def outcome_of(progress: MeshProgress) -> Outcome:
    """How the sweeps shown stand."""
    sweeps = progress.sweeps()

    def total(state: JobState) -> int:
        return sum(count.by_state.get(state, 0) for count in sweeps)

    bases = progress.view.bases
    return Outcome(
        jobs=sum(count.total for count in sweeps),
        succeeded=total(JobState.SUCCEEDED),
        failed=total(JobState.FAILED),
        cancelled=total(JobState.CANCELLED),
        bases_lacking=tuple(
            recipe_hash
            for recipe_hash in sorted(progress.recipe_hashes)
            if recipe_hash not in bases or bases[recipe_hash].state is not BaseState.COMMITTED
        ),
    )


async def _draw(feed: LiveFeed, progress: MeshProgress) -> None:
    from rich.live import Live

    # Redrawn in this loop, never by a thread of rich's: it would read the view while it changes.
    with Live(progress, auto_refresh=False) as live:

        async def redraw() -> None:
            while True:
                began_s = lease_now_s()
                progress.view, progress.trouble = feed.view, feed.trouble
                live.refresh()
                # A picture of 100,000 jobs takes its time: leave most of it to the feed.
                await asyncio.sleep(max(REDRAW_S, 4 * (lease_now_s() - began_s)))

        drawing = asyncio.create_task(redraw())
        try:
            async for _ in feed.batches():
                progress.view = feed.view
                if progress.is_done():
                    break
        finally:
            drawing.cancel()
            await asyncio.wait([drawing])
        live.refresh()


async def _tell(
    feed: LiveFeed, progress: MeshProgress, say: Callable[[str], None], metric: str | None
) -> None:
    bases: dict[str, tuple[int, str]] = {}
    jobs: dict[str, tuple[int, str]] = {}
    first = True
    async for _ in feed.batches():
        progress.view = feed.view
        total = sum(count.total for count in progress.sweeps())
        for base in progress.bases():
            if _is_news(bases, base.recipe_hash, base.generation, str(base.state), first):
                _say_base(base, say)
        for job in _jobs(progress):
            if _is_news(jobs, job.job_id, job.generation, str(job.state), first):
                _say_job(job, len(jobs), total, say, metric)
        first = False
        if progress.is_done():
            return


def _jobs(progress: MeshProgress) -> list[JobRow]:
    sweep_ids = progress.sweep_ids or ()
    return [job for job in progress.view.jobs.values() if job.sweep_id in sweep_ids]


def _is_news(
    told: dict[str, tuple[int, str]], key: str, generation: int, state: str, first: bool
) -> bool:
    """Whether this end hasn't been told; what had ended before the watch began isn't news."""
    if state in (BaseState.NEEDED, *(s for s in JobState if not s.is_terminal)):
        return False
    if told.get(key) == (generation, state):
        return False
    told[key] = (generation, state)
    return not first or state != BaseState.COMMITTED


def _say_base(base: BaseRow, say: Callable[[str], None]) -> None:
    name = words.base_name(base.recipe_hash)
    if base.state is BaseState.COMMITTED:
        where = f" on {base.node_id}" if base.node_id else ""
        took = f" in {words.duration(base.trained_s)}" if base.trained_s is not None else ""
        say(f"{name} trained{where}{took}")
    else:
        say(f"{name} {base.state}")


def _say_job(
    job: JobRow, ended: int, total: int, say: Callable[[str], None], metric: str | None
) -> None:
    detail = job.failure if job.state is JobState.FAILED else words.metrics(job.metrics, metric)
    say(f"{ended}/{total} {job.state}  {job.name}{f'  {detail}' if detail else ''}")
