"""How many processes per second the runner starts and sees through, and what each costs.

    python benchmarks/spawn.py [--jobs 2000] [--window 64] [--runs 3] [--warm MODULE]

Each job is `/bin/true` under its shim, with its log, `started.json` and
`exit.json` on disk; at most `window` jobs run at a time. Beside it, in the same
run: the bare start of the same program with `os.posix_spawn`, which is the floor.
CPU is that of all processes: the daemon's side, the spawner and its shims, and
the jobs, as the kernel counted it once all were reaped.

Predicted before the first run (two cores, a start of 0.56 ms): a shim forked for
each job 1.5 CPU-ms over the bare start, for it copies pages that it writes to;
shims that serve again 0.2 to 0.3, so some 1,000 jobs/s and more on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "daemon"))
sys.path.append(str(Path(__file__).resolve().parents[1]))

from meshtrain_daemon.worker.launch import Event, Exited, Launch, Started
from meshtrain_daemon.worker.runner import Runner

PROGRAM = "/bin/true"


def cpu_s(who: int) -> float:
    """CPU time of this process or of its reaped descendants, in seconds."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def bare(jobs: int) -> tuple[float, float]:
    """Jobs per second and CPU-ms per job of posix_spawn and wait, one after the other."""
    cpu_before_s = cpu_s(resource.RUSAGE_CHILDREN) + cpu_s(resource.RUSAGE_SELF)
    begun_s = time.perf_counter()
    for _ in range(jobs):
        os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], os.environ, setpgroup=0), 0)
    wall_s = time.perf_counter() - begun_s
    spent_s = cpu_s(resource.RUSAGE_CHILDREN) + cpu_s(resource.RUSAGE_SELF) - cpu_before_s
    return jobs / wall_s, spent_s / jobs * 1000


class Load:
    """Keeps `window` jobs running until `jobs` have ended."""

    def __init__(self, folder: Path, jobs: int, window: int) -> None:
        self.ended = 0
        self.codes: set[int | None] = set()
        self.launched_at_s: dict[str, float] = {}
        self.start_delays_s: list[float] = []
        self.done = asyncio.Event()
        self._jobs = jobs
        self._window = window
        self._launches = []
        for number in range(jobs):
            attempt = folder / f"{number}"
            attempt.mkdir()
            self._launches.append(
                Launch(f"{number}", str(attempt), f"{attempt}/log", str(attempt), (PROGRAM,))
            )
        self._launches.reverse()
        self.runner = Runner(self._hear)

    def begin(self) -> None:
        self._launch(self._window)

    def _launch(self, count: int) -> None:
        batch = [self._launches.pop() for _ in range(min(count, len(self._launches)))]
        if batch:
            now_s = time.perf_counter()
            for launch in batch:
                self.launched_at_s[launch.attempt_id] = now_s
            self.runner.launch(batch)

    def _hear(self, events: list[Event]) -> None:
        ended = 0
        for event in events:
            if isinstance(event, Started):
                delay_s = time.perf_counter() - self.launched_at_s[event.attempt_id]
                self.start_delays_s.append(delay_s)
                continue
            ended += 1
            self.codes.add(event.code if isinstance(event, Exited) else None)
        self.ended += ended
        self._launch(ended)
        if self.ended == self._jobs:
            self.done.set()


def memory_kb(pid: int | None) -> str:
    """Resident memory of a process, and the part of it that is its own."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(row.split(":", 1) for row in rows)
    return f"RSS {values['VmRSS'].strip()} ({values['RssAnon'].strip()} anonymous)"


async def through_the_runner(jobs: int, window: int) -> str:
    """One run; returns its line of the report."""
    with tempfile.TemporaryDirectory() as folder:
        load = Load(Path(folder), jobs, window)
        children_s, own_s = cpu_s(resource.RUSAGE_CHILDREN), cpu_s(resource.RUSAGE_SELF)
        await load.runner.start()
        begun_s = time.perf_counter()
        load.begin()
        await load.done.wait()
        wall_s = time.perf_counter() - begun_s
        memory = memory_kb(load.runner.spawner_pid)
        await load.runner.close()
        own_s = cpu_s(resource.RUSAGE_SELF) - own_s
        children_s = cpu_s(resource.RUSAGE_CHILDREN) - children_s
    if load.codes != {0}:
        raise SystemExit(f"jobs ended with {load.codes} instead of 0")
    delays_s = sorted(load.start_delays_s)
    return (
        f"window {window:3}: {jobs / wall_s:7.0f} jobs/s   CPU-ms per job: "
        f"{children_s / jobs * 1000:.2f} spawner, shim and job, {own_s / jobs * 1000:.2f} daemon   "
        f"launch → started is known: median {delays_s[jobs // 2] * 1000:.1f} ms   spawner {memory}"
    )


async def warm(module: str) -> str:
    """The memory of a spawner that preloaded a module, and what a call in it costs."""
    with tempfile.TemporaryDirectory() as folder:
        told = asyncio.Event()
        codes: set[int | None] = set()

        def hear(events: list[Event]) -> None:
            ends = [event for event in events if not isinstance(event, Started)]
            codes.update(end.code if isinstance(end, Exited) else None for end in ends)
            told.set()

        runner = Runner(hear, preload=module)
        begun_s = time.perf_counter()
        await runner.start()
        line = f"warm {module}: ready after {time.perf_counter() - begun_s:.2f} s, "
        line += f"spawner {memory_kb(runner.spawner_pid)}"
        calls = 20
        begun_s = time.perf_counter()
        for number in range(calls):
            attempt = Path(folder) / f"{number}"
            attempt.mkdir()
            runner.launch([Launch(f"{number}", str(attempt), f"{attempt}/log", "/", call="{}")])
            while runner.running:
                await told.wait()
                told.clear()
        call_ms = (time.perf_counter() - begun_s) / calls * 1000
        line += f", a call {call_ms:.1f} ms, exit codes {codes}"
        await runner.close()
    return line


async def run(options: argparse.Namespace) -> None:
    print(f"Python {platform.python_version()}, {platform.release()}, {os.cpu_count()} cores")
    for _ in range(options.runs):
        rate, cpu_ms = bare(options.jobs)
        print(f"bare start: {rate:7.0f} jobs/s on one core   CPU-ms per job: {cpu_ms:.2f}")
        for window in sorted({1, options.window}):
            print(await through_the_runner(options.jobs, window))
    if options.warm:
        print(await warm(options.warm))


def main() -> None:
    """Parses the flags and runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warm", default="", help="a module with preload() and run(argument)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
