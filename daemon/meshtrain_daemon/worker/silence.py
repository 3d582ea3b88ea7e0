"""When a worker says that its master is silent, and that it is heard again: once each."""

from __future__ import annotations

SILENT_S = 10.0
"""So long nothing may be heard before it is told; and three heartbeats, if those are longer."""
BEATS = 3


class Silence:
    """How long a master has been silent.

    Args:
        master: its address, as it is told.
        now_s: when the worker began to listen.
    """

    def __init__(self, master: str, now_s: float) -> None:
        self._master = master
        self._heard_s = now_s
        self._was_heard = False
        self._told = False

    def heard(self, now_s: float) -> str | None:
        """Something came from the master: what is to be told, if anything is."""
        lasted_s = now_s - self._heard_s
        self._heard_s = now_s
        told = self._told and self._was_heard
        self._told, self._was_heard = False, True
        return f"heard from the master again, after {lasted_s:.0f} s" if told else None

    def look(self, now_s: float, heartbeat_s: float) -> str | None:
        """Time has passed: what is to be told, if anything is."""
        silent_s = now_s - self._heard_s
        if self._told or silent_s < max(SILENT_S, BEATS * heartbeat_s):
            return None
        self._told = True
        if self._was_heard:
            return (
                f"nothing heard from the master at {self._master} for {silent_s:.0f} s: "
                "what runs goes on, nothing new is begun; trying again"
            )
        return (
            f"no master answers at {self._master} yet: see that it runs and can be reached from "
            "here, and that this host is a member (meshtrain doctor --as worker); trying again"
        )
