"""P10 for programs: who may read metrics, health and the API, and by what."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from member_keys import (
    ALL,
    IMPOSTOR,
    MASTER,
    NODE,
    PERSON,
    STRANGER,
    members,
    revoke,
    roll,
    security,
)
from service_double import ServiceDouble
from yarl import URL

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.clock import wall_now_s
from meshtrain.core import events as ev
from meshtrain.core.node import NodeSpec
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.security.signing import Asked, Signer
from meshtrain.security.tls import pinned_context
from meshtrain_daemon.worker.metrics import WorkerMetrics

ENDPOINTS = (
    "/metrics",
    "/metrics/targets",
    "/metrics/nodes/gpu1",
    "/healthz",
    "/api/v1/openapi.json",
    "/api/v1/sweeps",
    "/api/v1/jobs",
    "/api/v1/nodes",
    "/api/v1/bases",
    "/api/v1/events",
    "/api/v1/jobs/nothing",
    "/api/v1/results/nothing",
    "/api/v1/nothing",
)
each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)


@pytest.fixture
def of_roll() -> Roll:
    return roll()


@pytest.fixture
async def mesh(tmp_path: Path, of_roll: Roll) -> AsyncIterator[ServiceDouble]:
    """A master with keys, and gpu1, which serves its own metrics to members."""
    node_server = ArtifactServer(
        ArtifactStore(tmp_path / "node"), "127.0.0.1", security=security(NODE, of_roll)
    )
    node_metrics = WorkerMetrics()
    node_metrics.add_to(node_server.app)
    node_url = await node_server.start()
    double = ServiceDouble(tmp_path, security(MASTER, of_roll))
    spec = NodeSpec("gpu1", node_url, 2)
    double.master.tell(ev.NodeSaidHello(spec, "gpu1/1", (), (), grant=1))
    async with double.running():
        yield double
    await node_server.stop()


def bearer(word: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {word}"}


async def signed(mesh: ServiceDouble, client: Identity, endpoint: str) -> tuple[int, bytes]:
    signer = Signer(client, MASTER.member)
    async with mesh.session.get(mesh.url + "/v1/nonce", ssl=mesh._tls) as response:
        assert signer.learn(response.headers["WWW-Authenticate"])
    target = URL(mesh.url + endpoint).raw_path_qs
    return await mesh.get(endpoint, {"Authorization": signer.sign(Asked("GET", target))})


def expected(endpoint: str) -> int:
    return 404 if endpoint.endswith("/nothing") else 200


@each_endpoint
async def test_p10_a_read_token_and_a_member_read(mesh: ServiceDouble, endpoint: str) -> None:
    word = mesh.readers.issue("prometheus", 60.0, wall_now_s())
    status, body = await mesh.get(endpoint, bearer(word))
    assert status == expected(endpoint), body
    status, _ = await mesh.get(endpoint, {"Authorization": f"bearer {word}"}, "HEAD")
    assert status == expected(endpoint)
    for member in (PERSON, NODE):
        status, body = await signed(mesh, member, endpoint)
        assert status == expected(endpoint), body


@each_endpoint
async def test_p10_without_a_key_nothing(mesh: ServiceDouble, endpoint: str) -> None:
    for headers in (None, {"Authorization": "Basic YWRhOmFkYQ=="}, {"Host": "127.0.0.1"}):
        status, body = await mesh.get(endpoint, headers)
        assert status == 401
        assert b"rows" not in body and b"meshtrain_" not in body


@each_endpoint
async def test_p10_a_wrong_key_gets_nothing(mesh: ServiceDouble, endpoint: str) -> None:
    mesh.readers.issue("prometheus", 60.0, wall_now_s())
    for word in ("", "mr1." + "A" * 32, "mt1.abc"):
        status, body = await mesh.get(endpoint, bearer(word))
        assert status == 401 and b"rows" not in body and b"meshtrain_" not in body
    for client in (STRANGER, IMPOSTOR):
        status, _ = await signed(mesh, client, endpoint)
        assert status == 401


@each_endpoint
async def test_p10_a_revoked_key_gets_nothing(
    mesh: ServiceDouble, of_roll: Roll, endpoint: str
) -> None:
    word = mesh.readers.issue("prometheus", 60.0, wall_now_s())
    over = mesh.readers.issue("late", 60.0, wall_now_s() - 61.0)
    assert (await mesh.get(endpoint, bearer(word)))[0] == expected(endpoint)
    mesh.readers.revoke("prometheus")
    for gone in (word, over):
        assert (await mesh.get(endpoint, bearer(gone)))[0] == 401
    revoke(of_roll, PERSON.member)
    assert (await signed(mesh, PERSON, endpoint))[0] == 401


async def test_p10_a_read_token_opens_nothing_else(mesh: ServiceDouble) -> None:
    word = mesh.readers.issue("prometheus", 60.0, wall_now_s())
    some_id = "0" * 32
    for method, target in (
        ("GET", f"/v1/artifacts/{some_id}/manifest"),
        ("GET", f"/v1/artifacts/{some_id}/files/0"),
        ("POST", f"/v1/artifacts/{some_id}/news"),
        ("PUT", f"/v1/artifacts/{some_id}/manifest"),
        ("GET", "/metricsx"),
        ("GET", "/api/v1"[:-1]),
        ("GET", "/"),
        ("POST", "/metrics"),
        ("DELETE", "/api/v1/jobs"),
    ):
        status, _ = await mesh.get(target, bearer(word), method)
        assert status == 401, (method, target)


async def test_p10_a_read_token_in_the_clear_is_refused(tmp_path: Path, of_roll: Roll) -> None:
    double = ServiceDouble(tmp_path, security(MASTER, of_roll, encrypt=False))
    double._tls = None
    async with double.running():
        assert double.url.startswith("http://")
        word = double.readers.issue("prometheus", 60.0, wall_now_s())
        status, body = await double.get("/metrics", bearer(word))
        assert status == 403 and b"revoke it" in body
        status, _ = await signed(double, PERSON, "/metrics")
        assert status == 200


async def test_a_program_that_checks_certificates_takes_the_master_s_as_its_authority(
    mesh: ServiceDouble,
) -> None:
    context = ssl.create_default_context(cafile=str(MASTER.cert_path))
    word = mesh.readers.issue("prometheus", 60.0, wall_now_s())
    async with mesh.session.get(
        mesh.url + "/healthz", headers=bearer(word), ssl=context, server_hostname="master"
    ) as response:
        assert response.status == 200
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await mesh.session.get(
            mesh.url + "/healthz", headers=bearer(word), ssl=context, server_hostname="gpu1"
        )


# --- nodes, by way of the master --------------------------------------------------------


async def test_the_master_passes_a_node_s_metrics_on(mesh: ServiceDouble) -> None:
    word = mesh.readers.issue("prometheus", 60.0, wall_now_s())
    status, body = await mesh.get("/metrics/nodes/gpu1", bearer(word))
    assert status == 200 and b"meshtrain_node_build_info" in body
    status, body = await mesh.get("/metrics/targets", bearer(word))
    assert status == 200
    assert msgspec.json.decode(body) == [
        {
            "targets": [URL(mesh.url).authority],
            "labels": {"__metrics_path__": "/metrics/nodes/gpu1", "node": "gpu1"},
        }
    ]


async def test_p10_a_node_tells_its_metrics_to_members_alone(mesh: ServiceDouble) -> None:
    url = mesh.master.state.nodes["gpu1"].spec.http_url
    word = mesh.readers.issue("prometheus", 60.0, wall_now_s())
    for headers in (None, bearer(word)):
        async with mesh.session.get(
            url + "/metrics", headers=headers, ssl=pinned_context(NODE.member.cert_sha256)
        ) as response:
            assert response.status == 401


async def test_a_node_that_is_away_or_revoked_or_silent_is_told_of(
    mesh: ServiceDouble, of_roll: Roll
) -> None:
    word = mesh.readers.issue("prometheus", 60.0, wall_now_s())
    state = mesh.master.state
    ask = "/metrics/nodes/gpu1"
    state.nodes["gpu1"].connected = False
    status, body = await mesh.get(ask, bearer(word))
    assert status == 502 and b"is away" in body
    assert (await mesh.get("/metrics/targets", bearer(word)))[1] == b"[]"
    state.nodes["gpu1"].connected = True
    revoke(of_roll, NODE.member)
    status, body = await mesh.get(ask, bearer(word))
    assert status == 502 and b"no member" in body
    of_roll.update(members(*ALL, version=3))
    state.nodes["gpu1"].spec = NodeSpec("gpu1", "https://127.0.0.1:1", 2)
    status, body = await mesh.get(ask, bearer(word))
    assert status == 502 and b"does not tell its metrics" in body
