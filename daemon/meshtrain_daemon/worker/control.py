"""What a shim is told when no spawner can: signals, some of which carry a number.

A shim whose spawner is gone has no link any more. It takes these signals from
a descriptor, so none ever interrupts it, and a signal that carries a number
waits in a queue: two of them never merge. What its own job sends, such as a
`kill $PPID`, is not heeded; what a person or a service manager sends, is.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from meshtrain_daemon.worker import frames

END = int(signal.SIGTERM)
"""End the job's tree, with the grace of its launch."""
END_AT_ONCE = int(signal.SIGUSR1)
END_WITHIN = int(signal.SIGRTMIN) + 1
"""End the job's tree; the number is the grace in milliseconds, or `GRACE_OF_LAUNCH`."""
PASS_ON = int(signal.SIGRTMIN) + 2
"""Send the signal of that number to the job's process group."""
TAKEN = (int(signal.SIGCHLD), END, END_AT_ONCE, END_WITHIN, PASS_ON)
"""All that a shim takes from its descriptor."""
NUMBER_MAX = 2**31 - 1
GRACE_OF_LAUNCH = -1

RECORD_BYTES = 128
"""Size of `struct signalfd_siginfo`, signalfd(2)."""
_CODE_AT = 8
_SENDER_AT = 12
_NUMBER_AT = 44
"""Where its `ssi_code`, `ssi_pid` and `ssi_int` lie, the last being what was sent along."""
SI_QUEUE = -1
"""The code of signals that a daemon sends, sigqueue(3); others use kill(2)."""


def orders_of(records: bytes, is_of_job: Callable[[int], bool]) -> list[bytes]:
    """The orders in what was read from the descriptor; a child's end is none.

    Arguments: `is_of_job` tells whether a process belongs to the shim's own job.
    """
    orders = []
    for start in range(0, len(records) - RECORD_BYTES + 1, RECORD_BYTES):
        record = records[start : start + RECORD_BYTES]
        kind = _int(record, 0)
        if kind == signal.SIGCHLD:
            continue
        if _int(record, _CODE_AT) != SI_QUEUE and is_of_job(_int(record, _SENDER_AT)):
            continue
        number = _int(record, _NUMBER_AT)
        if kind == END:
            orders.append(frames.end_message(b"", None, frames.CAUSE_REQUESTED))
        elif kind == END_AT_ONCE:
            orders.append(frames.end_message(b"", 0.0, frames.CAUSE_REQUESTED))
        elif kind == END_WITHIN:
            grace_s = None if number == GRACE_OF_LAUNCH else max(0, number) / 1000
            orders.append(frames.end_message(b"", grace_s, frames.CAUSE_REQUESTED))
        elif kind == PASS_ON:
            orders.append(frames.signal_message(b"", number))
    return orders


def _int(record: bytes, at: int) -> int:
    return int.from_bytes(record[at : at + 4], "little", signed=True)
