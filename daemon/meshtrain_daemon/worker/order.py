"""A launch as a shim reads it.

Imported by the small processes: only what costs no memory may be imported here.
"""

from __future__ import annotations

from meshtrain_daemon.worker import frames


class Order:
    """A launch as the shim reads it."""

    __slots__ = (
        "account",
        "arguments",
        "attempt_id",
        "cgroup",
        "cwd",
        "environment",
        "folder",
        "gpu_lock_wait_s",
        "gpu_locks",
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
        self.account, self.cgroup = fields[7:9]
        self.gpu_lock_wait_s = float(fields[9])
        locks_end = 11 + int(fields[10])
        self.gpu_locks = fields[11:locks_end]
        arguments_start = locks_end + 1
        arguments_end = arguments_start + int(fields[locks_end])
        self.arguments = fields[arguments_start:arguments_end]
        self.environment = fields[arguments_end:]
