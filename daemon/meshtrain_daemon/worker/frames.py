"""The bytes that the daemon, the spawner and its shims exchange.

The daemon writes frames to the spawner: a length, then a message. A message is
one byte of kind and fields parted by NUL, which no path, argument or variable
can hold. The spawner hands launches on to a shim as they are. What happens
comes back as JSON lines on one pipe that all shims write to; a line is never
longer than what a pipe takes at once, so lines never mix.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

import os
import struct

LAUNCH = 1
END = 2
SIGNAL = 3

EXEC = b"exec"
CALL = b"call"

ATTEMPT_VARIABLE = "MESHTRAIN_ATTEMPT"
"""The variable whose value, the mark, each process of an attempt carries.

The mark is the attempt's id after what tells it from another node's on the same host.
"""
ATTEMPT_ID_LEN_MAX = 128
MARK_LEN_MAX = 256

MESSAGE_BYTES_MAX = 128 * 1024
"""Longest message; one of this size must fit the buffer of a Unix socket."""
EVENT_BYTES_MAX = 4096
"""What Linux writes to a pipe in one piece (PIPE_BUF)."""
REASON_CHARS_MAX = 600
"""Longest reason in an event: escaped six-fold, it still leaves the line in one piece."""

STARTED_FILE = "started.json"
EXIT_FILE = "exit.json"
RECORD_BYTES = 512
"""Size of either file: one line, and blanks; only a longer one takes what it needs."""

CAUSE_FINISHED = b"finished"
CAUSE_TIMED_OUT = b"timed_out"
CAUSE_REQUESTED = b"requested"

_LENGTH = struct.Struct("<I")
_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x20), 0x22, 0x5C, 0x7F)}


def frame(message: bytes) -> bytes:
    """A message with its length in front, as the spawner reads it."""
    return _LENGTH.pack(len(message)) + message


def take_messages(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Splits a buffer into its whole messages and the rest.

    Raises ValueError when a length is over `MESSAGE_BYTES_MAX`.
    """
    messages: list[bytes] = []
    start = 0
    while len(buffer) - start >= 4:
        (size_bytes,) = _LENGTH.unpack_from(buffer, start)
        if size_bytes > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {size_bytes} bytes; the limit is {MESSAGE_BYTES_MAX}")
        end = start + 4 + size_bytes
        if end > len(buffer):
            break
        messages.append(buffer[start + 4 : end])
        start = end
    return messages, buffer[start:]


def attempt_of(message: bytes) -> bytes:
    """The attempt that a message is about: its first field."""
    end = message.find(b"\0", 1)
    return message[1:] if end < 0 else message[1:end]


def end_message(attempt_id: bytes, grace_s: float | None, cause: bytes) -> bytes:
    """Asks a shim to end its job; `grace_s` None takes the grace of the launch."""
    grace = b"" if grace_s is None else b"%r" % grace_s
    return b"%c%b\0%b\0%b" % (END, attempt_id, grace, cause)


def signal_message(attempt_id: bytes, signal_number: int) -> bytes:
    """Asks a shim to send a signal to its job's process group."""
    return b"%c%b\0%d" % (SIGNAL, attempt_id, signal_number)


def json_string(text: str) -> bytes:
    """A JSON string, escaped to ASCII and cut to `REASON_CHARS_MAX`."""
    text = text[:REASON_CHARS_MAX].translate(_ESCAPED)
    return b'"%b"' % b"".join(
        char.encode()
        if char < "\x80"
        else b"\\ufffd"
        if char > "\uffff"
        else b"\\u%04x" % ord(char)
        for char in text.encode("utf-8", "replace").decode("utf-8")
    )


def launch_failed_line(attempt_id: bytes, reason: str) -> bytes:
    """The event of a job that never ran."""
    return b'{"type":"launch_failed","attempt_id":"%b","reason":%b}\n' % (
        attempt_id,
        json_string(reason),
    )


def tell(events_fd: int, line: bytes) -> bool:
    """Writes one event; False when the daemon is gone: `exit.json` holds the truth."""
    try:
        os.write(events_fd, line)
    except BrokenPipeError:
        return False
    return True
