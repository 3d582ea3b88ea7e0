"""What a node tells Prometheus of itself: its GPUs as last seen, its cache, its transfers.

Everything here was read or counted for other ends: a scrape asks neither the
GPU driver nor the disk. Members read it; the master passes it on to programs
that hold a read token, below its own /metrics/nodes.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from pathlib import Path

from aiohttp import web

import meshtrain
from meshtrain.core import agent_io as io
from meshtrain.core.inventory import CacheUse
from meshtrain.hardware.gpu_reader import GpuReading
from meshtrain.wire import exposition as prom
from meshtrain.wire.exposition import Family, FamilyKind, Sample

PATH = "/metrics"


class WorkerMetrics:
    """Counts what the node does, and makes the families.

    Who may ask is the affair of the server that the route is added to.
    """

    def __init__(self) -> None:
        self._fetched_bytes = {"fetched": 0, "reused": 0}
        self._fetches = {"whole": 0, "given_up": 0}
        self._fetch_s = prom.Histogram(prom.LONG_S)
        self._attempts: Callable[[], int] = lambda: 0
        self._cache: Callable[[], CacheUse] = CacheUse
        self._readings: Callable[[], Iterable[GpuReading]] = tuple
        self._sent_bytes: Callable[[], int] = lambda: 0

    def add_to(self, app: web.Application) -> None:
        """Adds the route to a server's application, before it starts."""
        app.router.add_get(PATH, self._get)

    def open(
        self,
        *,
        attempts: Callable[[], int],
        cache: Callable[[], CacheUse],
        readings: Callable[[], Iterable[GpuReading]],
        sent_bytes: Callable[[], int],
    ) -> None:
        """The node's parts are there: read from them what they know anyway.

        Args:
            attempts: how many are active.
            cache: how full the cache is.
            readings: each GPU as it was last read.
            sent_bytes: of artifacts, to peers.
        """
        self._attempts = attempts
        self._cache = cache
        self._readings = readings
        self._sent_bytes = sent_bytes

    def take(self, event: io.AgentEvent) -> None:
        """Count what is told to the agent."""
        if isinstance(event, io.ArtifactFetched):
            self._fetches["whole"] += 1
            self._fetched_bytes["fetched"] += sum(event.bytes_by_node.values())
            self._fetched_bytes["reused"] += event.bytes_reused
            self._fetch_s.observe(event.duration_s)
        elif isinstance(event, io.FetchGaveUp):
            self._fetches["given_up"] += 1

    def families(self) -> Iterable[Family]:
        """All of them."""
        yield Family(
            "meshtrain_node_build_info",
            FamilyKind.GAUGE,
            "The version of the node's daemon.",
            (Sample(1, (("version", meshtrain.__version__),)),),
        )
        yield prom.gauge(
            "meshtrain_node_attempts", "Attempts that the node holds.", self._attempts()
        )
        yield from self._of_gpus()
        use = self._cache()
        yield prom.gauge(
            "meshtrain_node_cache_used_bytes", "Bytes that artifacts take.", use.used_bytes
        )
        yield prom.gauge(
            "meshtrain_node_cache_budget_bytes",
            "Bytes that they may take; 0 is all that the disk can spare.",
            use.budget_bytes,
        )
        yield prom.gauge(
            "meshtrain_node_disk_free_bytes", "Room on the disk of the node's home.", use.free_bytes
        )
        yield prom.counters(
            "meshtrain_node_artifact_bytes_total",
            "Bytes of artifacts: fetched from peers, found in others that were here, sent.",
            "way",
            {**self._fetched_bytes, "sent": self._sent_bytes()},
        )
        yield prom.counters(
            "meshtrain_node_fetches_total",
            "Fetches of artifacts, by how they ended.",
            "outcome",
            self._fetches,
        )
        yield prom.histogram(
            "meshtrain_node_fetch_seconds", "How long whole fetches took.", self._fetch_s
        )
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield prom.counter(
            "meshtrain_node_process_cpu_seconds_total",
            "Processor time of the node's daemon.",
            used.ru_utime + used.ru_stime,
        )
        yield prom.gauge(
            "meshtrain_node_process_resident_bytes",
            "Memory of the node's daemon.",
            _resident_bytes(),
        )

    def _of_gpus(self) -> Iterable[Family]:
        readings = list(self._readings())
        told: tuple[tuple[str, str, Callable[[GpuReading], float | None]], ...] = (
            (
                "meshtrain_gpu_utilisation_ratio",
                "Share of the last moments in which something computed.",
                lambda reading: reading.utilisation,
            ),
            (
                "meshtrain_gpu_memory_used_bytes",
                "GPU memory in use.",
                lambda reading: reading.used_bytes,
            ),
            (
                "meshtrain_gpu_memory_bytes",
                "GPU memory there is.",
                lambda reading: reading.memory_bytes,
            ),
            (
                "meshtrain_gpu_temperature_celsius",
                "Temperature.",
                lambda reading: reading.temperature_c,
            ),
            (
                "meshtrain_gpu_faulty",
                "1 where nothing can run on it.",
                lambda reading: reading.fault is not None,
            ),
        )
        for name, words, value_of in told:
            samples = tuple(
                Sample(value, (("gpu", str(reading.index)), ("model", reading.model)))
                for reading in readings
                if (value := value_of(reading)) is not None
            )
            yield Family(name, FamilyKind.GAUGE, words, samples)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=prom.expose(self.families()), headers={"Content-Type": prom.CONTENT_TYPE}
        )


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
