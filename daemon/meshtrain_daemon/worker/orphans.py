"""Finds and ends the processes of an attempt whose shim is gone."""

from __future__ import annotations

import signal
import time

from meshtrain_daemon.worker import frames, processes

ORPHAN_GRACE_S = 5.0
"""From SIGTERM to SIGKILL."""
_LOOK_AGAIN_S = 0.02


def sweep_orphans(
    mark: str, grace_s: float = ORPHAN_GRACE_S, wait_s_max: float = 60.0
) -> list[int]:
    """Ends all processes of the attempt `mark`, wherever they moved to.

    They are known by the variable in their environment that each process of an
    attempt is started with; one that was started without it is found while it
    is below one that has it. Blocks until none is left: call it in a thread.

    Arguments: `mark` as `Runner.mark_of` tells it; `grace_s` from SIGTERM to SIGKILL;
    `wait_s_max` when to give up on processes that no signal ends.
    Returns the ids of the processes found. Raises TimeoutError when some are
    still there after `wait_s_max`.
    """
    entry = f"{frames.ATTEMPT_VARIABLE}={mark}".encode()
    begun_s = time.monotonic()
    asked: set[int] = set()
    while True:
        found = _with_descendants(processes.marked(entry))
        if not found:
            return sorted(asked)
        waited_s = time.monotonic() - begun_s
        if waited_s >= wait_s_max:
            raise TimeoutError(
                f"processes {found} of attempt {mark} are still there {waited_s:.0f} s after "
                "SIGKILL; look at them with ps (state D waits for a device)"
            )
        if waited_s >= grace_s:
            processes.signal_all(found, signal.SIGKILL)
        else:
            new = [pid for pid in found if pid not in asked]
            processes.signal_all(new, signal.SIGTERM)
            processes.signal_all(new, signal.SIGCONT)
        asked.update(found)
        time.sleep(_LOOK_AGAIN_S)


def _with_descendants(pids: list[int]) -> list[int]:
    found = dict.fromkeys(pids)
    for pid in pids:
        found.update(dict.fromkeys(processes.descendants(pid)))
    return list(found)
