"""What people ask for jobs and sweeps that they name: the events that their requests come to."""

from __future__ import annotations

from collections.abc import Callable

from meshtrain.core import events as ev
from meshtrain.core.state import MeshState
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.names import resolve, resolve_sweep

Steering = msg.Cancel | msg.Retry | msg.Reprioritise | msg.SetBudget


def event_of(state: MeshState, message: Steering) -> Callable[[str], ev.Event]:
    """The event of a request, once its id is known.

    Raises NotFoundError for a name that nothing has.
    """
    match message:
        case msg.Cancel():
            found = resolve(state, message.names)
            return lambda r: ev.CancelRequested(r, found.job_ids, found.sweep_ids)
        case msg.Retry():
            retried = tuple(resolve(state, message.names).all_job_ids(state))
            return lambda r: ev.RetryRequested(r, retried, message.change)
        case msg.Reprioritise():
            moved = tuple(resolve(state, message.names).all_job_ids(state))
            return lambda r: ev.PriorityRequested(r, moved, message.priority)
        case msg.SetBudget():
            sweep_id = resolve_sweep(state, message.name).sweep_id
            return lambda r: ev.BudgetRequested(
                r, sweep_id, message.gpu_hours, message.money, message.unlimited
            )
