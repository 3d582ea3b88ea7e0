"""Programs read a mesh with keys by a token, and a webhook hears of an end over a kill -9."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from members import command
from mesh import Mesh, NewMesh

from meshtrain.wire import messages as msg

pytestmark = [pytest.mark.e2e]


class Hook:
    """A receiver that refuses until it is told to take."""

    def __init__(self) -> None:
        self.takes = False
        self.told: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.told.append(json.loads(body))
                self.send_response(204 if hook.takes else 503)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.server.shutdown()
    made.server.server_close()


def get(mesh: Mesh, target: str, word: str) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(mesh.home / "keys" / "tls.crt"))
    # It is asked by its address; the name in the certificate is held by a test of its own.
    context.check_hostname = False
    asking = http.client.HTTPSConnection(
        "127.0.0.1", mesh.ports["http"], timeout=30, context=context
    )
    try:
        asking.request("GET", target, headers={"Authorization": f"Bearer {word}"} if word else {})
        response = asking.getresponse()
        return response.status, response.read()
    finally:
        asking.close()


def read(mesh: Mesh, target: str, word: str) -> Any:
    status, body = get(mesh, target, word)
    assert status == 200, body
    return json.loads(body)


def test_p10_programs_read_by_a_token_and_an_end_is_told_over_a_kill(
    new_mesh: NewMesh, hook: Hook
) -> None:
    mesh = new_mesh(secure=True)
    mesh.environment = {
        "MESHTRAIN_WARM_TRAINING": "false",
        "MESHTRAIN_NOTIFY_HOSTS": "127.0.0.1",
        "MESHTRAIN_NOTIFY_WEBHOOK": hook.url,
    }
    mesh.start("n1", cpu_slots=2)
    word = command(mesh.home, "token", "--read", "prometheus").strip()
    assert word.startswith("mr1.")
    assert read(mesh, "/healthz", word)["status"] == "ready"

    sweep = mesh.submit("name: quick\ncommand: 'true'\nmatrix: {n: [0, 1, 2]}\n")
    mesh.wait_jobs(sweep)
    mesh.wait_until(lambda: bool(hook.told), "the receiver was asked")
    mesh.kill("master")
    hook.takes = True
    refused = len(hook.told)
    mesh.start_master()
    mesh.wait_until(lambda: len(hook.told) > refused, "the next master sends it again")
    assert {told["id"] for told in hook.told} == {f"{sweep}/end/0"}
    assert hook.told[-1]["states"] == {"succeeded": 3}

    mesh.wait_connected("n1")
    status, text = get(mesh, "/metrics", word)
    assert status == 200
    assert b'meshtrain_jobs{kind="experiment",state="succeeded"} 3\n' in text
    assert b'meshtrain_nodes{state="there"} 1\n' in text
    mesh.wait_until(
        lambda: b'outcome="delivered"} 1\n' in get(mesh, "/metrics", word)[1], "it is counted"
    )
    status, text = get(mesh, "/metrics/nodes/n1", word)
    assert status == 200 and b"meshtrain_node_attempts 0\n" in text
    page = read(mesh, f"/api/v1/jobs?sweep={sweep}&state=succeeded", word)
    assert [row["job_id"] for row in page["rows"]] == [r["job_id"] for r in mesh.jobs(sweep)]

    for nobody in ("", word[:-1] + ("A" if word[-1] != "A" else "B")):
        assert get(mesh, "/metrics", nobody)[0] == 401
    assert "lets nobody in" in command(mesh.home, "token", "--revoke", "prometheus")
    for target in ("/metrics", "/metrics/nodes/n1", "/healthz", "/api/v1/jobs"):
        assert get(mesh, target, word)[0] == 401


def test_a_notify_that_can_never_be_sent_is_refused_when_it_is_submitted(
    new_mesh: NewMesh,
) -> None:
    mesh = new_mesh()
    mesh.start()
    for notify, expected in (
        ("{command: mail}", "no command 'mail'"),
        ("{webhook: 'https://10.0.0.1/x'}", "no public address"),
        ("{webhook: 'https://hooks.example.org/x', secret: hook}", "notify.secret"),
    ):
        text = f"name: a\ncommand: 'true'\nnotify: {notify}\n"
        done = mesh.ask(msg.Submit("r", "a.yaml", text.encode()))
        assert isinstance(done, msg.Done) and expected in done.error
    assert mesh.rows("sweeps") == []
