"""When sweeps end and jobs start: worked out beside the loop, on copies of the state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from meshtrain.clock import lease_now_s
from meshtrain.core.estimate import estimate_ends
from meshtrain.core.run_times import RunTimes, learn_from
from meshtrain.core.span import Span
from meshtrain.core.state import MeshState
from meshtrain.core.what_if import copy_of
from meshtrain.core.why import Why, explain
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.wire.messages import Answer, Query
from meshtrain_daemon.master.defects import defect
from meshtrain_daemon.master.names import resolve_job

ENDS_EVERY_S = 15.0
"""Between two estimates of when sweeps end."""
SHARE_MAX = 0.05
"""The share of a core that they may take: where they take long, they come less often."""
CHANGE_S_MIN = 5.0
CHANGE_SHARE_MIN = 0.05
"""An end that moves by less is not told anew."""


_Told = TypeVar("_Told")


class Estimator:
    """Answers `why`, and keeps the ends of sweeps up to date in the scheduler's state.

    One question is worked on at a time; its thread looks at a copy alone. No decision
    hangs on it, so a defect here is told, and takes no master down with it.

    Args:
        note: tells people a line.
    """

    def __init__(self, state: MeshState, note: Callable[[str], None] = lambda text: None) -> None:
        self._state = state
        self._tell = note
        self._told = ""
        self._times = RunTimes()
        self._turn = asyncio.Lock()

    async def why(self, query: Query) -> Answer:
        """The answer to the query `why`: one row, as core.why.Why."""
        try:
            if len(query.names) != 1:
                raise UserError("the query why takes the name of a job, and nothing else")
            async with self._turn:
                job_id = resolve_job(self._state, query.names[0])
                copied = copy_of(self._state)
                told = await _beside(self._explain, copied, job_id)
        except MeshtrainError as error:
            return Answer(query.request_id, error=str(error))
        return Answer(query.request_id, rows=[msgspec.to_builtins(told)], total=1)

    def _explain(self, copied: MeshState, job_id: str) -> Why:
        learn_from(self._times, copied)
        return explain(copied, self._times, job_id)

    async def run(self) -> None:
        """Estimate the ends of open sweeps, for ever."""
        while True:
            took_s = 0.0
            if any(self._state.sweep_open.values()) and self._state.nodes:
                async with self._turn:
                    copied = copy_of(self._state)
                    began_s = lease_now_s()
                    try:
                        self._note(await _beside(self._ends, copied))
                    except MeshtrainError as error:
                        self._tell_once(str(error))
                    took_s = lease_now_s() - began_s
            elif self._state.sweep_ends:
                self._note({})
            await asyncio.sleep(max(ENDS_EVERY_S, took_s / SHARE_MAX))

    def _tell_once(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._tell(text)

    def _ends(self, copied: MeshState) -> dict[str, Span]:
        learn_from(self._times, copied)
        return estimate_ends(copied, self._times)

    def _note(self, ends: dict[str, Span]) -> None:
        """Show what is known now, and only what differs enough from what is shown."""
        state = self._state
        shown = state.sweep_ends
        for sweep_id in shown.keys() - ends.keys():
            del shown[sweep_id]
            state.touched_sweeps[sweep_id] = None
        for sweep_id, span in ends.items():
            if not state.sweep_open.get(sweep_id):
                shown.pop(sweep_id, None)
            elif _differs(shown.get(sweep_id), span, state.wall_s):
                shown[sweep_id] = span
                state.touched_sweeps[sweep_id] = None


async def _beside(work: Callable[..., _Told], *arguments: Any) -> _Told:
    """What some work in a thread comes to; raises MeshtrainError where it fails."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except Exception as error:
        raise MeshtrainError(defect("the estimate", error)) from error


def _differs(shown: Span | None, span: Span, now_wall_s: float) -> bool:
    if shown is None:
        return True
    least_s = max(CHANGE_S_MIN, CHANGE_SHARE_MIN * (span.mid_s - now_wall_s))
    return (
        max(
            abs(shown.mid_s - span.mid_s),
            abs(shown.low_s - span.low_s),
            abs(shown.high_s - span.high_s),
        )
        >= least_s
    )
