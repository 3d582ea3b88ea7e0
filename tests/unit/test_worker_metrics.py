"""A node's own metrics: what it knows anyway, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core import agent_io as io
from meshtrain.core.inventory import CacheUse
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.manifest import artifact_id
from meshtrain.hardware.gpu_reader import GpuReading
from meshtrain.wire.exposition import expose
from meshtrain_daemon.worker.gpu_watch import GpuWatch
from meshtrain_daemon.worker.metrics import WorkerMetrics

GPUS = (
    GpuReading(0, "u0", "H100", 80 << 30, 20 << 30, (), 55, 0.75),
    GpuReading(3, "u3", "H100", fault="it fell off the bus"),
)


class Reader:
    """GPUs that read so."""

    def __init__(self) -> None:
        self.readings = GPUS

    def read(self) -> tuple[GpuReading, ...]:
        return self.readings

    def close(self) -> None: ...


def told(metrics: WorkerMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(expose(metrics.families()).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def opened(readings: Any = tuple, cache: CacheUse | None = None) -> WorkerMetrics:
    metrics = WorkerMetrics()
    metrics.open(
        attempts=lambda: 2,
        cache=lambda: cache or CacheUse(),
        readings=readings,
        sent_bytes=lambda: 7,
    )
    return metrics


def test_gpus_are_told_as_they_were_last_seen_and_not_asked_again() -> None:
    reader = Reader()
    watch = GpuWatch((0, 3), reader)  # type: ignore[arg-type]
    metrics = opened(lambda: watch.readings)
    assert "meshtrain_gpu_faulty" not in told(metrics)
    watch.busy(lambda pid: True)
    reader.readings = ()
    found = told(metrics)
    assert found["meshtrain_gpu_utilisation_ratio"] == {("0", "H100"): 0.75}
    assert found["meshtrain_gpu_temperature_celsius"] == {("0", "H100"): 55}
    assert found["meshtrain_gpu_memory_used_bytes"][("0", "H100")] == 20 << 30
    assert found["meshtrain_gpu_faulty"] == {("0", "H100"): 0, ("3", "H100"): 1}


def test_the_cache_the_attempts_and_the_transfers_are_counted() -> None:
    metrics = opened(cache=CacheUse(used_bytes=10, budget_bytes=20, free_bytes=30))
    metrics.take(io.ArtifactFetched("a" * 32, {"n1": 5, "master": 3}, 2.0, 9, 1))
    metrics.take(io.ArtifactFetched("b" * 32, {"n1": 2}, 0.5, 2))
    metrics.take(io.FetchGaveUp("c" * 32, Failure(FailureClass.NETWORK, "gone")))
    metrics.take(io.HelloAsked())
    found = told(metrics)
    assert found["meshtrain_node_attempts"] == {(): 2}
    assert found["meshtrain_node_cache_used_bytes"] == {(): 10}
    assert found["meshtrain_node_cache_budget_bytes"] == {(): 20}
    assert found["meshtrain_node_disk_free_bytes"] == {(): 30}
    assert found["meshtrain_node_artifact_bytes_total"] == {
        ("fetched",): 10,
        ("reused",): 1,
        ("sent",): 7,
    }
    assert found["meshtrain_node_fetches_total"] == {("whole",): 2, ("given_up",): 1}
    assert found["meshtrain_node_fetch_seconds_sum"] == {(): 2.5}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[ArtifactServer, str, str]]:
    store = ArtifactStore(tmp_path / "store")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "w").write_bytes(b"0123456789")
    held = artifact_id(store.add_tree(tmp_path / "tree"))
    made = ArtifactServer(store, "127.0.0.1")
    opened().add_to(made.app)
    yield made, await made.start(), held
    await made.stop()


async def test_bytes_that_are_sent_are_counted_and_the_page_is_for_this_host(
    server: tuple[ArtifactServer, str, str],
) -> None:
    made, url, held = server
    async with aiohttp.ClientSession() as session:
        file = f"{url}/v1/artifacts/{held}/files/0"
        for headers in ({}, {"Range": "bytes=0-3"}):
            async with session.get(file, headers=headers) as response:
                await response.read()
        async with session.head(file) as response:
            assert response.status == 200
        assert made.sent_bytes == 14
        async with session.get(url + "/metrics") as response:
            assert response.status == 200
            assert b"meshtrain_node_build_info" in await response.read()
        async with session.get(url + "/metrics", headers={"Host": "evil.org"}) as response:
            assert response.status == 403
