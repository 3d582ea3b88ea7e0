"""What the master tells Prometheus: families made of counts that are kept anyway.

A scrape reads some dozens of numbers. It walks through no jobs, nodes or bases,
asks no disk but for its room, and is answered beside the loop of decisions.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import meshtrain
from meshtrain.core.job import BaseState, FailureClass, JobKind, JobState
from meshtrain.core.state import MeshState
from meshtrain.net.base import MasterTransport, TransportCounts
from meshtrain.wire import exposition as prom
from meshtrain.wire.codec import BadMessageKind
from meshtrain.wire.exposition import Family, FamilyKind, Histogram, Sample
from meshtrain.wire.messages import PROTOCOL_VERSION
from meshtrain_daemon.master.loops import Decisions, Writer
from meshtrain_daemon.master.published_counts import PublishedCounts

STREAMS = ("log", "metrics")
OUTCOMES = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class MasterMetrics:
    """Makes the families.

    Args:
        state: the scheduler's, only read.
        feed: what was published.
        stream_bytes: bytes of logs and metrics that came from nodes, by stream.
        notified: how notifications ended, by outcome.
        notices_waiting: tells how many are still to be sent.
        home: the folder whose disk is told of.
        started_wall_s: when the master came up.
    """

    def __init__(
        self,
        *,
        state: MeshState,
        decisions: Decisions,
        writer: Writer,
        feed: PublishedCounts,
        sockets: MasterTransport,
        stream_bytes: Counter[str],
        notified: Counter[str],
        notices_waiting: Callable[[], int],
        home: Path,
        started_wall_s: float,
    ) -> None:
        self._state = state
        self._decisions = decisions
        self._writer = writer
        self._feed = feed
        self._sockets = sockets
        self._stream_bytes = stream_bytes
        self._notified = notified
        self._notices_waiting = notices_waiting
        self._home = home
        self._started_wall_s = started_wall_s
        #: by how much the event loop was late the last time that it was looked at
        self.loop_lag_s = 0.0
        self._wait_s: dict[str, Histogram] = {kind: Histogram(prom.LONG_S) for kind in JobKind}
        self._run_s: dict[str, Histogram] = {kind: Histogram(prom.LONG_S) for kind in JobKind}
        state.counts.on_started = lambda kind, seconds: self._wait_s[kind].observe(seconds)
        state.counts.on_ended = lambda kind, seconds: self._run_s[kind].observe(seconds)

    async def text(self) -> bytes:
        """All families in Prometheus's text format."""
        # A disk may hang, and nothing else here can.
        disk = await asyncio.to_thread(_disk, self._home)
        return prom.expose([*self.families(), *disk])

    def families(self) -> Iterable[Family]:
        """All but the disk's."""
        yield from self._of_itself()
        yield from self._of_jobs()
        yield from self._of_bases()
        yield from self._of_nodes()
        yield from self._of_bytes()
        yield from self._of_decisions()

    def _of_itself(self) -> Iterable[Family]:
        labels = (("version", meshtrain.__version__), ("protocol", str(PROTOCOL_VERSION)))
        yield Family(
            "meshtrain_build_info",
            FamilyKind.GAUGE,
            "The version of the master, and of its protocol.",
            (Sample(1, labels),),
        )
        yield prom.gauge(
            "meshtrain_start_time_seconds",
            "When the master came up, in seconds since 1970.",
            self._started_wall_s,
        )
        yield prom.gauge(
            "meshtrain_read_only",
            "1 while a full disk keeps the master from deciding anything.",
            self._decisions.full is not None,
        )
        yield prom.gauge(
            "meshtrain_loop_lag_seconds",
            "How late the master's event loop was when it was last looked at.",
            self.loop_lag_s,
        )
        yield from _of_process()

    def _of_jobs(self) -> Iterable[Family]:
        state, counts = self._state, self._state.counts
        yield Family(
            "meshtrain_jobs",
            FamilyKind.GAUGE,
            "Jobs by kind and state.",
            tuple(
                Sample(counts.jobs[kind, job_state], (("kind", kind), ("state", job_state)))
                for kind in JobKind
                for job_state in JobState
            ),
        )
        yield Family(
            "meshtrain_jobs_ended_total",
            FamilyKind.COUNTER,
            "Jobs that came to their end since the master came up.",
            tuple(
                Sample(counts.ended[kind, outcome], (("kind", kind), ("outcome", outcome)))
                for kind in JobKind
                for outcome in OUTCOMES
            ),
        )
        yield prom.counters(
            "meshtrain_failures_total",
            "Failures since the master came up, by class, also those that were run again.",
            "failure",
            {kind: counts.failed[kind] for kind in FailureClass},
        )
        yield prom.histograms(
            "meshtrain_job_queue_wait_seconds",
            "From a job's submission to its first start.",
            "kind",
            self._wait_s,
        )
        yield prom.histograms(
            "meshtrain_job_run_seconds",
            "How long attempts ran that ended well.",
            "kind",
            self._run_s,
        )
        yield prom.gauge("meshtrain_sweeps", "Sweeps that were submitted.", len(state.sweeps))
        yield prom.gauge(
            "meshtrain_queue_jobs", "Jobs that could start now, had they a place.", len(state.queue)
        )
        yield prom.gauge(
            "meshtrain_attempts", "Attempts that nodes hold a lease of.", len(state.live)
        )

    def _of_bases(self) -> Iterable[Family]:
        counts = self._state.counts
        yield prom.gauges(
            "meshtrain_bases",
            "Bases by state.",
            "state",
            {state: counts.bases[state] for state in BaseState},
        )
        yield prom.gauge(
            "meshtrain_bases_bytes",
            "Bytes of all committed bases, each counted once.",
            counts.base_bytes,
        )
        yield prom.counter(
            "meshtrain_base_trainings_total",
            "Trainings that came to a base, in the life of the store.",
            counts.bases_trained,
        )
        yield prom.gauge(
            "meshtrain_base_trainings_avoided",
            "Trainings that jobs did not need, since the base was there.",
            counts.trainings_avoided,
        )
        yield prom.gauge(
            "meshtrain_base_training_avoided_seconds",
            "What those trainings would have taken.",
            counts.avoided_s,
        )

    def _of_nodes(self) -> Iterable[Family]:
        nodes = self._feed.nodes
        yield prom.gauges(
            "meshtrain_nodes",
            "Nodes that are there, and that are away.",
            "state",
            {"there": nodes.there, "away": nodes.away},
        )
        yield prom.gauge("meshtrain_nodes_drained", "Nodes that get no jobs.", nodes.drained)
        yield prom.gauge(
            "meshtrain_nodes_accepting", "Nodes that are there and take jobs.", nodes.taking_jobs
        )
        yield prom.gauges(
            "meshtrain_gpus",
            "GPUs of the nodes that are there.",
            "state",
            {"used": nodes.gpus_used, "free": max(0, nodes.gpus - nodes.gpus_used)},
        )
        used = nodes.cpu_slots_used
        yield prom.gauges(
            "meshtrain_cpu_slots",
            "CPU slots of the nodes that are there.",
            "state",
            {"used": used, "free": max(0, nodes.cpu_slots - used)},
        )
        yield prom.gauge(
            "meshtrain_cache_bytes",
            "Bytes that artifacts take on the nodes that are there.",
            nodes.cache_bytes,
        )

    def _of_bytes(self) -> Iterable[Family]:
        moved = self._feed.moved
        yield prom.counters(
            "meshtrain_artifact_bytes_total",
            "Bytes of artifacts that arrived since the master came up, by their way.",
            "way",
            {
                "between_nodes": moved.between_nodes_bytes,
                "from_master": moved.from_master_bytes,
                "to_master": moved.to_master_bytes,
            },
        )
        yield prom.counters(
            "meshtrain_stream_bytes_total",
            "Bytes of logs and metrics that nodes sent, repeated ones too.",
            "stream",
            {stream: self._stream_bytes[stream] for stream in STREAMS},
        )
        yield from _of_transport(self._sockets.counts)
        yield prom.gauge(
            "meshtrain_feed_subscribers",
            "Dashboards that listen to the feed.",
            self._sockets.subscribers,
        )

    def _of_decisions(self) -> Iterable[Family]:
        yield prom.counters(
            "meshtrain_events_total",
            "Events that the scheduler took in, by what they are.",
            "event",
            dict(sorted(self._decisions.events.items())),
        )
        yield prom.histogram(
            "meshtrain_decision_seconds",
            "From taking up a batch of events to its effects being stored and sent.",
            self._decisions.times,
        )
        yield prom.histogram(
            "meshtrain_store_commit_seconds",
            "How long commits of the store took.",
            self._writer.times,
        )
        yield prom.histogram(
            "meshtrain_feed_publish_seconds",
            "How long it took to hand changes to the feed.",
            self._feed.publish_s,
        )
        yield prom.counter(
            "meshtrain_feed_changes_total", "Changes that were published.", self._feed.changes
        )
        yield prom.counter(
            "meshtrain_notes_total", "Lines for people that were published.", self._feed.notes_count
        )
        yield prom.counters(
            "meshtrain_notifications_total",
            "Notifications by how they ended.",
            "outcome",
            {outcome: self._notified[outcome] for outcome in ("delivered", "given_up", "dropped")},
        )
        yield prom.gauge(
            "meshtrain_notifications_waiting",
            "Notifications that are still to be sent.",
            self._notices_waiting(),
        )


def _of_transport(counts: TransportCounts) -> Iterable[Family]:
    yield prom.counters(
        "meshtrain_messages_total",
        "Messages of nodes, commands and dashboards, by what became of them.",
        "outcome",
        {
            "received": counts.received,
            "sent": counts.sent,
            "published": counts.published,
            "dropped": counts.dropped_full + counts.dropped_gone + counts.unsendable,
        },
    )
    yield prom.counters(
        "meshtrain_messages_refused_total",
        "What came and was not taken, by what was wrong.",
        "reason",
        {
            **{kind.value: counts.refused[kind] for kind in BadMessageKind},
            "not_a_member": counts.not_admitted,
            "not_allowed": counts.not_allowed,
        },
    )


def _of_process() -> Iterable[Family]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield prom.counter(
        "meshtrain_process_cpu_seconds_total",
        "Processor time of this process.",
        used.ru_utime + used.ru_stime,
    )
    yield prom.gauge(
        "meshtrain_process_resident_bytes", "Memory of this process.", resident_bytes()
    )


def resident_bytes() -> int:
    """Memory of this process that is resident; 0 where that isn't told."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _disk(folder: Path) -> list[Family]:
    try:
        found = os.statvfs(folder)
    except OSError:
        return []
    return [
        prom.gauge(
            "meshtrain_disk_free_bytes",
            "Room on the disk of the master's home.",
            found.f_bavail * found.f_frsize,
        ),
        prom.gauge(
            "meshtrain_disk_size_bytes",
            "Size of the disk of the master's home.",
            found.f_blocks * found.f_frsize,
        ),
    ]


async def watch_lag(metrics: MasterMetrics, every_s: float) -> None:
    """Look for ever how late the event loop is."""
    while True:
        due_s = time.monotonic() + every_s
        await asyncio.sleep(every_s)
        metrics.loop_lag_s = max(0.0, time.monotonic() - due_s)
