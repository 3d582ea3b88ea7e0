"""Which GPUs of the node are somebody else's now, and whether an attempt left its own free.

A GPU is busy when processes compute on it that aren't the mesh's, when memory
of it is in use that no visible process has (a container sees only its own), or
when it doesn't answer. What merely draws, as a desktop does, counts once it
takes more than `DRAWING_BYTES_MAX`. One glance decides nothing but the first:
a GPU changes after it was seen so several times in a row, a fault at once.

Where the node has no GPU, nothing here costs anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshtrain.clock import lease_now_s
from meshtrain.core.node import GpuUse
from meshtrain.hardware.gpu_reader import GpuProcess, GpuReader, GpuReading
from meshtrain_daemon.worker import frames
from meshtrain_daemon.worker.aside import aside

GLANCES_UNTIL_BUSY = 2
GLANCES_UNTIL_FREE = 2
DRAWING_BYTES_MAX = 1 << 30
"""GPU memory that processes may take that only draw: a desktop needs no GPU to itself."""
IDLE_BYTES_MAX = 2 << 30
"""What a driver keeps of a GPU that nobody uses, at most; H100 and H200 keep about 0.6 GB."""
SLACK_BYTES = 512 << 20
"""By how much that may vary."""
FAULTS_MAX = 5
"""After so many faulty readings in a row nobody waits for a GPU's memory: it won't come back."""
POLL_FIRST_S = 0.02
POLL_MAX_S = 0.5
ANCESTORS_MAX = 256


@dataclass(slots=True)
class _Seen:
    """What is remembered of one GPU."""

    busy: bool = False
    glances: int = 0
    """How often in a row it was seen otherwise than `busy` says."""
    idle_bytes: int = IDLE_BYTES_MAX
    """The least memory that was ever in use and belonged to no process."""
    pids: frozenset[int] = frozenset()
    why: str = ""
    fault: str = ""
    """Why nothing can run on it, as it was read last."""
    uncorrected_errors: int | None = None
    """Of its memory, as they were read last."""
    use: GpuUse | None = None
    """As it was read last; None while it doesn't answer."""


class GpuWatch:
    """Watches the GPUs that a node gives to the mesh.

    Args:
        gpus: their indices, as the driver counts them.
        reader: reads those GPUs; not given, NVML does. It may hang, so every reading
            is made in a thread that nobody has to wait for.
    """

    def __init__(self, gpus: Iterable[int], reader: GpuReader | None = None) -> None:
        self.gpus = tuple(gpus)
        self.reader = GpuReader(self.gpus) if reader is None else reader
        self._seen: dict[int, _Seen] = {}
        self._lock = threading.Lock()
        self.readings: tuple[GpuReading, ...] = ()
        """Each GPU as it was last seen by a glance."""

    def busy(self, ours: Callable[[int], bool], held: Collection[int] = ()) -> tuple[int, ...]:
        """Takes a glance; blocks while NVML does. Loops use `glance`.

        Args:
            ours: whether a process is one of the mesh's, as `our_processes` makes it.
            held: GPUs that our attempts hold: memory there that no visible process
                has is theirs.

        Returns:
            The GPUs to leave alone.
        """
        if not self.gpus:
            return ()
        readings = self.reader.read()
        self.readings = tuple(readings)
        with self._lock:
            for reading in readings:
                self._note(reading, ours, reading.index in held)
            return tuple(index for index in self.gpus if self._seen[index].busy)

    async def glance(
        self, ours: Callable[[int], bool], held: Collection[int] = ()
    ) -> tuple[int, ...]:
        """As `busy`, in a thread."""
        if not self.gpus:
            return ()
        return await aside(lambda: self.busy(ours, held), "nvml")

    async def follow(
        self,
        ours: Callable[[int], bool],
        held: Callable[[], Collection[int]],
        every_s: float,
        changed: Callable[[tuple[int, ...]], None],
        known: tuple[int, ...] = (),
    ) -> None:
        """Takes a glance every so many seconds, for ever; returns at once without GPUs.

        Args:
            ours: as `busy` takes it.
            held: tells which GPUs our attempts hold.
            every_s: from the end of a glance to the next.
            changed: called with the GPUs to leave alone when they are others than before.
            known: those that are known to be busy.
        """
        while self.gpus:
            busy = await self.glance(ours, held())
            if busy != known:
                known = busy
                changed(busy)
            await asyncio.sleep(every_s)

    def why(self, gpu: int) -> str:
        """Why a GPU is left alone, in words; empty when it isn't."""
        with self._lock:
            seen = self._seen.get(gpu)
            return seen.why if seen is not None and seen.busy else ""

    def pids_on(self, gpus: Collection[int]) -> frozenset[int]:
        """The processes that the last glance saw on these GPUs; asks nobody."""
        with self._lock:
            seen = [self._seen[gpu].pids for gpu in gpus if gpu in self._seen]
        return frozenset().union(*seen)

    def use(self) -> tuple[GpuUse, ...]:
        """How much of each GPU is in use, as it was read last; asks nobody."""
        with self._lock:
            known = [self._seen[gpu].use for gpu in self.gpus if gpu in self._seen]
        return tuple(use for use in known if use is not None)

    def errors_of(self, gpus: Collection[int]) -> dict[int, int]:
        """The uncorrected memory errors of these GPUs, as they were read last; asks nobody."""
        with self._lock:
            known = {gpu: self._seen[gpu].uncorrected_errors for gpu in gpus if gpu in self._seen}
        return {gpu: errors for gpu, errors in known.items() if errors is not None}

    def why_bad(self, gpus: Collection[int], errors_before: Mapping[int, int]) -> str:
        """Why an attempt on these GPUs may have failed through no fault of its own; asks nobody.

        Args:
            gpus: those that it had, read since it ended, as `wait_free` does.
            errors_before: their `errors_of` from before it started.

        Returns:
            What the driver says, in words; empty when all are well.
        """
        with self._lock:
            faults = {gpu: self._seen[gpu].fault for gpu in gpus if gpu in self._seen}
        for gpu, fault in faults.items():
            if fault:
                return f"GPU {gpu}: {fault}"
        for gpu, errors in self.errors_of(gpus).items():
            if errors > errors_before.get(gpu, errors):
                return f"GPU {gpu}: uncorrectable ECC error (NVML)"
        return ""

    async def wait_free(
        self, gpus: Collection[int], pids_before: Collection[int], timeout_s: float
    ) -> tuple[int, ...]:
        """Waits until an attempt that has ended holds no memory of its GPUs any more.

        Args:
            gpus: those that it had.
            pids_before: processes that were on them before it started (`pids_on`), and
                so aren't its own; others that came meanwhile are known by being alive
                and not the attempt's: all of the attempt's have ended.
            timeout_s: how long to wait.

        Returns:
            The GPUs that are still held at the timeout, and those that don't answer.
        """
        waiting = tuple(gpu for gpu in gpus if gpu in self.gpus)
        faults = dict.fromkeys(waiting, 0)
        lost: list[int] = []
        give_up_at_s = lease_now_s() + timeout_s
        poll_s = POLL_FIRST_S
        while waiting:
            time_left_s = give_up_at_s - lease_now_s()
            try:
                looking = aside(self.reader.read, "nvml")
                readings = await asyncio.wait_for(looking, max(time_left_s, 0.001))
            except TimeoutError:
                break
            with self._lock:
                for reading in readings:
                    self._note_health(reading)
                free = {
                    reading.index for reading in readings if self._is_back(reading, pids_before)
                }
            for reading in readings:
                if reading.index in faults:
                    faults[reading.index] = faults[reading.index] + 1 if reading.fault else 0
            waiting = tuple(gpu for gpu in waiting if gpu not in free)
            lost += [gpu for gpu in waiting if faults[gpu] >= FAULTS_MAX]
            waiting = tuple(gpu for gpu in waiting if faults[gpu] < FAULTS_MAX)
            if not waiting or lease_now_s() >= give_up_at_s:
                break
            await asyncio.sleep(min(poll_s, max(0.0, give_up_at_s - lease_now_s())))
            poll_s = min(2 * poll_s, POLL_MAX_S)
        return tuple(sorted({*waiting, *lost}))

    def close(self) -> None:
        """Lets go of the driver."""
        if self.gpus:
            self.reader.close()

    def _note(self, reading: GpuReading, ours: Callable[[int], bool], held: bool) -> None:
        first = reading.index not in self._seen
        seen = self._note_health(reading)
        if reading.fault is not None:
            seen.busy, seen.glances, seen.why = True, 0, reading.fault
            return
        seen.pids = frozenset(process.pid for process in reading.processes)
        why = self._use_by_others(reading, seen, ours, held)
        if bool(why) == seen.busy:
            seen.glances = 0
            seen.why = why
            return
        seen.glances += 1
        if first or seen.glances >= (GLANCES_UNTIL_FREE if seen.busy else GLANCES_UNTIL_BUSY):
            seen.busy, seen.glances, seen.why = bool(why), 0, why

    def _note_health(self, reading: GpuReading) -> _Seen:
        seen = self._seen.setdefault(reading.index, _Seen())
        seen.fault = reading.fault or ""
        seen.use = None
        if reading.fault is None:
            seen.uncorrected_errors = reading.uncorrected_errors
            seen.use = GpuUse(
                index=reading.index,
                used=reading.utilisation,
                memory_used_bytes=reading.used_bytes,
                memory_bytes=reading.memory_bytes,
                temperature_c=reading.temperature_c,
            )
        return seen

    def _use_by_others(
        self, reading: GpuReading, seen: _Seen, ours: Callable[[int], bool], held: bool
    ) -> str:
        """Who else uses a GPU, in words; empty when nobody does."""
        foreign = [process for process in reading.processes if not ours(process.pid)]
        drawing_bytes = sum(process.used_bytes or 0 for process in foreign if not process.computes)
        computing = [process for process in foreign if process.computes]
        unaccounted = reading.unaccounted_bytes
        if computing:
            return f"used by {_named(computing)}"
        if drawing_bytes > DRAWING_BYTES_MAX:
            return f"{drawing_bytes / 1e9:.1f} GB used for drawing, by {_named(foreign)}"
        if unaccounted is None or held:
            return ""
        seen.idle_bytes = min(seen.idle_bytes, unaccounted)
        if unaccounted > seen.idle_bytes + SLACK_BYTES:
            return f"{unaccounted / 1e9:.1f} GB used by processes that this host doesn't show"
        return ""

    def _is_back(self, reading: GpuReading, pids_before: Collection[int]) -> bool:
        if reading.fault is not None:
            return False
        if any(
            process.pid not in pids_before and not _lives(process.pid)
            for process in reading.processes
        ):
            # Its process has ended, and the driver hasn't taken the memory back yet.
            return False
        seen = self._seen.get(reading.index)
        idle_bytes = IDLE_BYTES_MAX if seen is None else seen.idle_bytes
        unaccounted = reading.unaccounted_bytes
        return unaccounted is None or unaccounted <= idle_bytes + SLACK_BYTES


def our_processes(
    mark_prefix: str, shim_pids: Callable[[], Collection[int]] = tuple
) -> Callable[[int], bool]:
    """Makes the test for processes of this node's attempts.

    Args:
        mark_prefix: how the marks of its attempts begin.
        shim_pids: tells its living shims; whatever is below one is ours, also when
            its environment can't be read because it runs as another user.
    """
    entry = f"{frames.ATTEMPT_VARIABLE}={mark_prefix}".encode()

    def ours(pid: int) -> bool:
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if any(variable.startswith(entry) for variable in environment.split(b"\0")):
                return True
        return _is_below(pid, frozenset(shim_pids()))

    return ours


def _is_below(pid: int, shims: frozenset[int]) -> bool:
    for _ in range(ANCESTORS_MAX):
        if pid in shims:
            return True
        if pid <= 1:
            return False
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
            pid = int(stat[stat.rindex(b")") + 2 :].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return False


def _lives(pid: int) -> bool:
    """Whether this host shows a process that has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] not in (b"Z", b"X")
    except (OSError, ValueError):
        return False


def _named(processes: Iterable[GpuProcess]) -> str:
    named = [f"{_name(process.pid)} ({process.pid})" for process in processes]
    shown = ", ".join(named[:3])
    return shown if len(named) <= 3 else f"{shown} and {len(named) - 3} more"


def _name(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "a process of another container"
    return "".join(letter if letter.isprintable() else " " for letter in name)
