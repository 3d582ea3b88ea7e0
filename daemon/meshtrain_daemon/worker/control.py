"""What a shim is told when no spawner can: signals, some of which carry a number.

A shim whose spawner is gone has no link any more. It takes these signals from
a descriptor, so none ever interrupts it, and a signal that carries a number
waits in a queue: two of them never merge.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import signal

from meshtrain_daemon.worker import frames

END = int(signal.SIGTERM)
"""End the job's tree, with the grace of its launch."""
END_AT_ONCE = int(signal.SIGUSR1)
END_WITHIN = int(signal.SIGRTMIN) + 1
"""End the job's tree; the number is the grace in milliseconds."""
PASS_ON = int(signal.SIGRTMIN) + 2
"""Send the signal of that number to the job's process group."""
TAKEN = (int(signal.SIGCHLD), END, END_AT_ONCE, END_WITHIN, PASS_ON)
"""All that a shim takes from its descriptor."""
NUMBER_MAX = 2**31 - 1

RECORD_BYTES = 128
"""Size of `struct signalfd_siginfo`, signalfd(2)."""
_NUMBER_AT = 44
"""Where its `ssi_int` lies, the number that was sent along."""


def orders_of(records: bytes) -> list[bytes]:
    """The orders in what was read from the descriptor; a child's end is none."""
    orders = []
    for start in range(0, len(records) - RECORD_BYTES + 1, RECORD_BYTES):
        record = records[start : start + RECORD_BYTES]
        kind = int.from_bytes(record[:4], "little")
        number = int.from_bytes(record[_NUMBER_AT : _NUMBER_AT + 4], "little")
        if kind == END:
            orders.append(frames.end_message(b"", None, frames.CAUSE_REQUESTED))
        elif kind == END_AT_ONCE:
            orders.append(frames.end_message(b"", 0.0, frames.CAUSE_REQUESTED))
        elif kind == END_WITHIN:
            orders.append(frames.end_message(b"", number / 1000, frames.CAUSE_REQUESTED))
        elif kind == PASS_ON:
            orders.append(frames.signal_message(b"", number))
    return orders
