"""What it costs to look: pages of long lists, the feed, and a dashboard that follows it.

    python benchmarks/feed.py [--jobs 100000] [--nodes 1000] [--seconds 10] [--json FILE]

Pages: the lists that the master keeps in order, against filtering and sorting all
rows at each asking, which must give the same. "first" puts a list together, in
turns between which others have theirs; "then" is asked again when 500 jobs have
changed; these are CPU times, and "turn" is the longest one, by the clock.

Feed: a dashboard in a process of its own, over TCP on loopback, follows a master
whose jobs change at a steady rate, and then as fast as it can tell. Meanwhile keys are
pressed in it, and each is timed from the key to the screen that shows what it did, the
first visits of screens apart. Compare figures of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
from feed_watch import resident_mb

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "daemon"), str(ROOT / "tui")]

from meshtrain.core.changes import Change, JobRow, NodeRow, Note, SweepRow  # noqa: E402
from meshtrain.core.job import JobKind, JobState  # noqa: E402
from meshtrain.core.node import GpuUse, HostUse  # noqa: E402
from meshtrain.core.pages import PageQuery, page_of  # noqa: E402
from meshtrain.core.state import MeshState, SchedulerConfig  # noqa: E402
from meshtrain.net.zmq_master import MasterSockets  # noqa: E402
from meshtrain.wire import messages as msg  # noqa: E402
from meshtrain_daemon.master.feeds import Feeds  # noqa: E402

SWEEP_JOBS = 5000
BATCH_JOBS = 200
"""Jobs that change together, as one commit of the master has them."""
CHANGED_JOBS = 500
STEADY = 3000.0
"""Changes of jobs a second, as of a thousand jobs that start and end each second."""
FLOOD = 1e9
AGAIN = 9
QUERIES = {
    "newest first": PageQuery("jobs"),
    "in the middle": PageQuery("jobs", offset=50_000),
    "by name": PageQuery("jobs", sort="name"),
    "by a metric, highest first": PageQuery("jobs", sort="metrics.accuracy", descending=True),
    "failed ones, latest first": PageQuery(
        "jobs", states=("failed",), sort="ended", descending=True
    ),
    "of a sweep": PageQuery("jobs", sweep="sweep-3", sort="state"),
    "filter fold=3": PageQuery("jobs", filter="fold=3"),
    "filter lr=0\\.0.*fold=[12]$, by node": PageQuery(
        "jobs", filter=r"lr=0\.0.*fold=[12]\b", sort="node"
    ),
    "nodes, filtered": PageQuery("nodes", filter="gpu1", sort="gpus_used", descending=True),
}


def job_row(number: int, state: JobState, now_s: float) -> JobRow:
    """One of many jobs, as they are in a real sweep."""
    started = state is not JobState.WAITING
    ended = state.is_terminal
    return JobRow(
        job_id=f"job-{number:012x}",
        name=f"sweep-{number // SWEEP_JOBS}/backbone=resnet{number % 7},lr=0.{number % 31:03},"
        f"fold={number % 5}",
        kind=JobKind.EXPERIMENT,
        state=state,
        sweep_id=f"sweep-{number // SWEEP_JOBS}",
        node_id=f"gpu{number % 1000}" if started else None,
        recipe_hash=f"{number % 40:032x}",
        failure="out of memory: 24 GB asked for" if state is JobState.FAILED else "",
        reason="" if started else "waits for a free slot",
        submitted_wall_s=1.7e9 + number // SWEEP_JOBS,
        started_wall_s=now_s if started else None,
        ended_wall_s=now_s + number % 100 if ended else None,
        metrics={"accuracy": number % 997 / 997} if state is JobState.SUCCEEDED else {},
    )


def node_row(number: int) -> NodeRow:
    gpus = ("NVIDIA H100 80GB HBM3",) * 8
    used = tuple(range(number % 9))
    return NodeRow(
        f"gpu{number}", True, False, True, 64, 8, gpus, used, 1 << 40, 3, f"http://gpu{number}:7473"
    )


def use_of(number: int) -> HostUse:
    gpus = tuple(
        GpuUse(index, (number + index) % 100 / 100, number << 20, 80 << 30, 60)
        for index in range(8)
    )
    return HostUse(number % 100 / 100, number << 24, gpus)


def mesh(jobs: int, nodes: int) -> Iterator[Change]:
    """The rows of a large mesh: most jobs have ended, some run, the others wait."""
    draw = random.Random(1)
    sweeps = range(-(-jobs // SWEEP_JOBS))
    for sweep in sweeps:
        yield SweepRow(f"sweep-{sweep}", f"sweep-{sweep}", SWEEP_JOBS, 2, 0)
    for node in range(nodes):
        yield node_row(node)
    for number in range(jobs):
        state = JobState.WAITING
        if number < 0.6 * jobs:
            state = JobState.FAILED if draw.random() < 0.02 else JobState.SUCCEEDED
        elif number < 0.6 * jobs + 2 * nodes:
            state = JobState.RUNNING
        yield job_row(number, state, 1.7e9 + draw.random() * 1e5)


class Master:
    """The part of a master that dashboards meet: real sockets, real feeds, rows made up."""

    def __init__(self, jobs: int, nodes: int) -> None:
        self.sockets = MasterSockets(
            "127.0.0.1", 0, 0, 0, on_control=self._take, on_bulk=lambda batch: None
        )
        state = MeshState(SchedulerConfig(), incarnation=1, epoch_counter=0)
        self.feeds = Feeds(self.sockets, state, 1)
        self.feeds.publish(tuple(mesh(jobs, nodes)))
        self._answering: set[asyncio.Task[None]] = set()

    def _take(self, batch: list[tuple[bytes, msg.ToMaster]]) -> None:
        for peer, asked in batch:
            if isinstance(asked, msg.AskPage):
                task = asyncio.create_task(self._give_page(peer, asked))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
            elif isinstance(asked, msg.Query) and asked.what == "ports":
                sockets = self.sockets
                row = {
                    "control": sockets.control_port,
                    "bulk": sockets.bulk_port,
                    "feed": sockets.feed_port,
                }
                self.sockets.send_control(peer, [msg.Answer(asked.request_id, rows=[row])])
            elif isinstance(asked, msg.Query):
                self.sockets.send_control(
                    peer, self.feeds.snapshot(asked.request_id, brief=bool(asked.names))
                )

    async def _give_page(self, peer: bytes, asked: msg.AskPage) -> None:
        page = await self.feeds.page(asked.query)
        self.sockets.send_control(peer, [msg.PageGiven(asked.request_id, page=page)])


# --- pages -------------------------------------------------------------------------


class Turns:
    """Measures how long others on the loop wait for their turn."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._task = asyncio.create_task(self._measure())

    async def _measure(self) -> None:
        last_s = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now_s = time.perf_counter()
            self.longest_ms = max(self.longest_ms, (now_s - last_s) * 1e3)
            last_s = now_s

    def end(self) -> float:
        self._task.cancel()
        return self.longest_ms


async def measure_pages(master: Master, jobs: int) -> list[dict[str, Any]]:
    feeds, rows = master.feeds, []
    draw = random.Random(2)
    await feeds.page(PageQuery("events"))
    for name, query in QUERIES.items():
        began_s = time.process_time()
        wanted = page_of(feeds.book, query)
        naive_ms = (time.process_time() - began_s) * 1e3
        turns = Turns()
        began_s = time.process_time()
        page = await feeds.page(query)
        first_ms = (time.process_time() - began_s) * 1e3
        longest_ms = turns.end()
        assert page == wanted, f"{name}: not what sorting anew gives"
        then_ms, blocked_ms = [], []
        for _ in range(AGAIN):
            changed = (draw.randrange(jobs) for _ in range(CHANGED_JOBS))
            feeds.publish(tuple(job_row(n, JobState.RUNNING, 1.8e9) for n in changed))
            turns = Turns()
            began_s = time.process_time()
            page = await feeds.page(query)
            then_ms.append((time.process_time() - began_s) * 1e3)
            blocked_ms.append(turns.end())
        assert page == page_of(feeds.book, query), f"{name}: not what sorting anew gives"
        began_s = time.process_time()
        await feeds.page(query)
        still_ms = (time.process_time() - began_s) * 1e3
        rows.append(
            {
                "page": name,
                "matched": page.matched,
                "naive_ms": naive_ms,
                "first_ms": first_ms,
                "first_turn_ms": longest_ms,
                "then_ms": statistics.median(then_ms),
                "then_turn_ms": statistics.median(blocked_ms),
                "unchanged_ms": still_ms,
            }
        )
    return rows


def print_pages(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'page of 100 rows, ms':<38}{'anew':>8}{'first':>8}{'turn':>7}", end="")
    print(f"{'then':>8}{'turn':>7}{'same':>7}{'matched':>10}")
    for row in rows:
        print(
            f"{row['page']:<38}{row['naive_ms']:>8.1f}{row['first_ms']:>8.1f}"
            f"{row['first_turn_ms']:>7.1f}{row['then_ms']:>8.1f}{row['then_turn_ms']:>7.1f}"
            f"{row['unchanged_ms']:>7.2f}{row['matched']:>10,}"
        )


# --- the feed ----------------------------------------------------------------------


async def measure_feed(
    master: Master, jobs: int, nodes: int, seconds: float, rate_per_s: float
) -> dict[str, Any]:
    """What a dashboard meets while jobs change at that rate, or as fast as they can."""
    address = f"127.0.0.1:{master.sockets.control_port}"
    watcher = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "benchmarks" / "feed_watch.py"), address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert watcher.stdout is not None
    assert watcher.stdin is not None
    telling = asyncio.create_task(master.feeds.tell_in_brief())
    idle = json.loads(await watcher.stdout.readline())
    events, numbers, hosts = 0, cycle(range(jobs)), cycle(range(nodes))
    course = (JobState.ASSIGNED, JobState.RUNNING, JobState.SUCCEEDED)
    began_s = time.perf_counter()
    noted_s = 0.0
    told_uses = 0
    while (now_s := time.perf_counter()) - began_s < seconds:
        some = [next(numbers) for _ in range(BATCH_JOBS)]
        if events > rate_per_s * (now_s - began_s):
            await asyncio.sleep(0.01)
            continue
        for state in course:
            master.feeds.publish(tuple(job_row(number, state, 1.8e9) for number in some))
            events += BATCH_JOBS
            await asyncio.sleep(0)
        while told_uses < (now_s - began_s) * nodes / 3:
            master.feeds.note_use(f"gpu{next(hosts)}", use_of(told_uses))
            told_uses += 1
        if now_s - noted_s > 0.05:
            noted_s = now_s
            master.feeds.publish((Note(time.monotonic(), "stamp"),))
    took_s = time.perf_counter() - began_s
    watcher.stdin.write(b"end\n")
    await watcher.stdin.drain()
    watched = json.loads(await watcher.stdout.readline())
    await watcher.wait()
    telling.cancel()
    return {
        "asked_per_s": rate_per_s,
        "events_per_s": events / took_s,
        "uses_per_s": told_uses / took_s,
        "idle_mb": idle["mb"],
        "connected_ms": idle["connected_ms"],
        **watched,
    }


def print_feed(rows: list[dict[str, Any]]) -> None:
    heads = "".join(f"{'steady' if row['asked_per_s'] < FLOOD else 'flood':>12}" for row in rows)
    print(f"\n{'the feed, followed by a dashboard':<38}{heads}")
    for name, key, unit in (
        ("changes of jobs told by the master", "events_per_s", "a second"),
        ("readings of nodes told", "uses_per_s", "a second"),
        ("rows applied by the dashboard", "rows_per_s", "a second"),
        ("from event to applied, median", "applied_ms_median", "ms"),
        ("from event to applied, 99 of 100", "applied_ms_p99", "ms"),
        ("from start to the first picture", "connected_ms", "ms"),
        ("a repaint, median", "repaint_ms_median", "ms"),
        ("a repaint, longest", "repaint_ms_max", "ms"),
        ("from a key to the screen, median", "key_ms_median", "ms"),
        ("from a key to the screen, 95 of 100", "key_ms_p95", "ms"),
        ("the same, first visit of a screen, longest", "first_key_ms_max", "ms"),
        ("a page, from question to answer", "page_ms_median", "ms"),
        ("memory of the dashboard, at rest", "idle_mb", "MB"),
        ("memory of the dashboard, at the end", "mb", "MB"),
    ):
        print(f"{name:<38}{''.join(f'{row[key]:>12,.1f}' for row in rows)} {unit}")


async def run(options: argparse.Namespace) -> None:
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores", end="; ")
    print(f"{options.jobs:,} jobs, {options.nodes:,} nodes")
    before_mb = resident_mb()
    rows = list(mesh(options.jobs, options.nodes))
    began_s, rows_mb = time.perf_counter(), resident_mb() - before_mb
    del rows
    master = Master(options.jobs, options.nodes)
    await master.feeds.page(PageQuery("events"))
    took_s = time.perf_counter() - began_s
    book_mb = resident_mb() - before_mb
    pages = await measure_pages(master, options.jobs)
    print_pages(pages)
    lists_mb = resident_mb() - before_mb - book_mb
    feed = [
        await measure_feed(master, options.jobs, options.nodes, options.seconds, rate_per_s)
        for rate_per_s in (STEADY, FLOOD)
    ]
    print_feed(feed)
    print(
        f"{'memory of the master for all rows':<38}{book_mb:>12,.1f} MB, {took_s:.1f} s to take in"
    )
    print(f"{'memory of the master for the lists':<38}{lists_mb:>12,.1f} MB")
    master.sockets.close()
    if options.json is not None:
        told = {"jobs": options.jobs, "nodes": options.nodes, "rows_mb": rows_mb, "pages": pages}
        told |= {"feed": feed, "book_mb": book_mb, "lists_mb": lists_mb}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(told)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0, help="that the feed is measured")
    parser.add_argument("--json", type=Path, help="file that keeps the figures")
    options = parser.parse_args()
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
