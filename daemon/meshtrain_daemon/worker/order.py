"""A launch as a shim reads it.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

from meshtrain_daemon.worker import frames


class Order:
    """A launch as the shim reads it."""

    __slots__ = (
        "arguments",
        "attempt_id",
        "cwd",
        "environment",
        "folder",
        "is_call",
        "kill_grace_s",
        "log_path",
        "timeout_s",
    )

    def __init__(self, message: bytes) -> None:
        fields = message[1:].split(b"\0")
        self.attempt_id, mode, self.folder, self.log_path, self.cwd = fields[:5]
        self.is_call = mode == frames.CALL
        self.timeout_s = float(fields[5]) if fields[5] else None
        self.kill_grace_s = float(fields[6])
        arguments_end = 8 + int(fields[7])
        self.arguments = fields[8:arguments_end]
        self.environment = fields[arguments_end:]
