"""Points in the code where a test may have the process die, stop or fail.

For those who work on meshtrain. A point is a line, `failpoints.reach("store.committed")`,
between two steps that a crash may part. Off, it costs one look at a global.
It is switched on by the environment of the daemon:

    MESHTRAIN_FAILPOINT="store.committed"            the process kills itself there
    MESHTRAIN_FAILPOINT="store.committed:3=stop"     it stops (SIGSTOP), the third time
    MESHTRAIN_FAILPOINT="log.written=error"          an OSError is raised there
    MESHTRAIN_FAILPOINT_NOTE=FILE                    a file that is made when it happens; while
                                                     it is there, nothing happens any more

Several are parted by commas. A daemon refuses to start with a name that isn't
in `POINTS`, so that no test passes on a slip of the pen. The note lets a test
demand that the point was reached, and lets what is started again live.

The small processes import this: only what costs no memory may be imported here.
"""

from __future__ import annotations

import errno
import os
import signal

from meshtrain.errors import SettingsError

VARIABLE = "MESHTRAIN_FAILPOINT"
NOTE_VARIABLE = "MESHTRAIN_FAILPOINT_NOTE"
NTH_MAX = 1_000_000

MASTER = "master"
WORKER = "worker"

#: name → (who comes by, between which steps)
POINTS: dict[str, tuple[tuple[str, ...], str]] = {
    # The master's store and its loop.
    "store.create.made": ((MASTER,), "a new store is written, and has no name yet"),
    "store.migrate.step": ((MASTER,), "a step of the schema is written, and not committed"),
    "store.migrate.done": ((MASTER,), "the schema is brought up to date, and nothing read yet"),
    "store.written": ((MASTER,), "all rows are written, and the commit is not"),
    "store.committed": ((MASTER,), "the commit is on disk, and nothing of it was sent"),
    "loop.sent": ((MASTER,), "commands and answers were sent, others still wait for theirs"),
    "receipt.before": ((MASTER,), "a submission is on disk, and not acknowledged"),
    "receipt.after": ((MASTER,), "a submission is acknowledged"),
    # The master's inbox.
    "inbox.taken": ((MASTER,), "a dropped file's sweep is on disk, its verdict is not written"),
    "inbox.verdict": ((MASTER,), "the verdict is written, the file is still in the inbox"),
    "inbox.moved": ((MASTER,), "the file lies beside its verdict, and nothing was said"),
    # The master's logs.
    "log.written": ((MASTER,), "bytes of logs are written, and not fsynced"),
    "log.fsynced": ((MASTER,), "bytes of logs are on disk, and not counted"),
    "log.counted": ((MASTER,), "bytes of logs are counted in the store, and not confirmed"),
    "log.confirmed": ((MASTER,), "bytes of logs are confirmed to their node"),
    # The master's copies and results.
    "collect.fetched": ((MASTER,), "the master holds an artifact, and has not decided on it"),
    "result.filled": ((MASTER,), "a result's folder is filled under a temporary name"),
    "result.placed": ((MASTER,), "a result's folder has its name, and its table is not merged"),
    # The master's archive.
    "archive.queued": ((MASTER,), "what goes to the archive is in the store, and nothing went"),
    "archive.part": ((MASTER,), "a file of a tree is in the archive, and the tree isn't whole"),
    "archive.sent": ((MASTER,), "a tree is whole in the archive, and that is not noted"),
    # Artifacts, on either side.
    "artifact.moved": ((WORKER,), "an output was moved into the store, and is not visible"),
    "artifact.whole": ((MASTER, WORKER), "an artifact is whole and fsynced, and not visible"),
    "artifact.renamed": ((MASTER, WORKER), "an artifact is visible, and nobody was told"),
    "chunk.verified": ((MASTER, WORKER), "a chunk is in its place, and not in the bitmap"),
    "chunk.noted": ((MASTER, WORKER), "a chunk is in the bitmap"),
    # The worker daemon.
    "attempt.assigned": ((WORKER,), "an assignment is taken, and nothing of it is laid out"),
    "attempt.prepared": ((WORKER,), "an attempt's folder is laid out, and nothing was launched"),
    "attempt.launched": ((WORKER,), "a launch is with the spawner, and nothing was heard of it"),
    "attempt.started": ((WORKER,), "a job runs, and the master doesn't know"),
    "attempt.exited": ((WORKER,), "a job's end was heard of, and nothing follows from it yet"),
    "output.stored": ((WORKER,), "an output is an artifact, and the agent doesn't know"),
    "ended.sent": ((WORKER,), "the end of an attempt is told, and not answered"),
    "attempt.dropped": ((WORKER,), "the master is done with an attempt, its folder is there"),
    "log.shipped": ((WORKER,), "bytes of a log are on their way, and not confirmed"),
    "log.stored": ((WORKER,), "bytes of a log are confirmed, and the node hasn't noted it"),
    # The shim above a job.
    "shim.start.before": ((WORKER,), "a job's process runs, and its start is not recorded"),
    "shim.start.recorded": ((WORKER,), "a job's start is recorded, and not told"),
    "shim.exit.before": ((WORKER,), "nothing of a job is left, and its end is not recorded"),
    "shim.exit.recorded": ((WORKER,), "a job's end is recorded, and not told"),
}


class _Armed:
    __slots__ = ("action", "left", "note")

    def __init__(self, action: str, nth: int, note: str) -> None:
        self.action = action
        self.left = nth
        self.note = note


_armed: dict[str, _Armed] = {}


def reach(name: str) -> None:
    """A point in the code; nothing happens unless it is switched on.

    Raises OSError (EIO) where the point's action is `error`.
    """
    if _armed:
        _happen(name)


def arm(environment: os._Environ[str] | dict[str, str]) -> None:
    """Switch on what the environment names; each program that has points calls it at its start.

    Raises SettingsError for a name that no point has, or a command that is none.
    """
    _armed.clear()
    note = environment.get(NOTE_VARIABLE, "")
    for command in filter(None, environment.get(VARIABLE, "").split(",")):
        place, equals, action = command.strip().partition("=")
        name, colon, nth = place.partition(":")
        if name not in POINTS:
            raise SettingsError(
                f"environment variable {VARIABLE}: no failpoint is called {name!r}; "
                f"known: {', '.join(POINTS)}"
            )
        if colon and not (nth.isdecimal() and 1 <= int(nth) <= NTH_MAX):
            raise SettingsError(
                f"environment variable {VARIABLE}: {command!r} counts from 1 to {NTH_MAX}: "
                f"write {name}:2 for the second time"
            )
        if equals and action not in ("kill", "stop", "error"):
            raise SettingsError(
                f"environment variable {VARIABLE}: {command!r}: what happens is kill, stop or error"
            )
        _armed[name] = _Armed(action or "kill", int(nth or 1), note)


def _happen(name: str) -> None:
    armed = _armed.get(name)
    if armed is None:
        return
    armed.left -= 1
    if armed.left:
        return
    del _armed[name]
    if armed.note and not _make_note(armed.note, name):
        return
    if armed.action == "error":
        raise OSError(errno.EIO, f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGSTOP if armed.action == "stop" else signal.SIGKILL)


def _make_note(path: str, name: str) -> bool:
    """Write down what happens; False when something has happened already."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(fd, f"{name} {os.getpid()}\n".encode())
    finally:
        os.close(fd)
    return True
