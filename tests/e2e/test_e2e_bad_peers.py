"""Peers that send what no meshtrain sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from daemons import PORTS
from gate import Gate
from mesh import NewMesh

from meshtrain.core.node import NodeSpec
from meshtrain.wire import messages as msg
from meshtrain.wire.codec import encode

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_bad_peers")]

BYTES_MAX = 64 << 20
GARBAGE = (
    b"",
    b"\x00",
    b"\xff" * 1000,
    b"not msgpack at all",
    msgspec.msgpack.encode({"type": "no_such_message"}),
    msgspec.msgpack.encode({"type": "hello"}),
    msgspec.msgpack.encode({"type": "query", "request_id": 7, "what": None}),
    msgspec.msgpack.encode({"type": "submit", "request_id": "r", "name": "x.yaml", "data": [1]}),
    msgspec.msgpack.encode([1, 2, 3]),
    msgspec.msgpack.encode({"type": "query", "request_id": "r", "what": "jobs", "offset": -1}),
    b"\x91" * 5000 + b"\x00",
    b"x" * (9 << 20),
)


def stranger(node_id: str, protocol: int = msg.PROTOCOL_VERSION) -> msg.Hello:
    spec = NodeSpec(
        node_id=node_id,
        http_url="http://127.0.0.1:1",
        cpu_slots=0,
        memory_bytes=1,
        gpus=(),
        labels={},
        version="0",
        trains=False,
    )
    return msg.Hello(protocol, spec, "session-of-a-stranger", (), (), 0)


@contextmanager
def dealer(port: int) -> Iterator[zmq.Socket[bytes]]:
    context = zmq.Context()
    link = context.socket(zmq.DEALER)
    link.linger = 0
    link.connect(f"tcp://127.0.0.1:{port}")
    try:
        yield link
    finally:
        link.close()
        context.term()


def test_p11_garbage_stops_nothing(new_mesh: NewMesh, tmp_path: Path) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    gate = Gate(tmp_path)
    sweep = mesh.submit(f'name: meanwhile\ncommand: "{gate.wait_command}; echo done"\n')
    mesh.wait_until(lambda: gate.starts == 1, "a job runs")
    job_id = mesh.jobs(sweep)[0]["job_id"]
    (attempt,) = mesh.attempts(sweep)
    ended = msg.Ended(
        "session-of-a-stranger", attempt["attempt_id"], attempt["epoch"], artifact_id="0" * 32
    )
    lies: list[msg.FromNode | msg.FromPerson] = [
        stranger("n9", protocol=99),
        msg.Beat("nobody", 1, 0.0, 0, 5, ()),
        msg.Started("nobody", attempt["attempt_id"], attempt["epoch"]),
        ended,
        msg.Goodbye("nobody"),
        msg.Cancel("r1", ("no such sweep",)),
        msg.Retry("r2", ("*" * 600,)),
        msg.Drain("r3", "no such node", drained=True),
        msg.Rebuild("r4", "ffff"),
        msg.Query("r5", "no such query"),
        msg.Submit("r6", "../../x.yaml", b"\xff\xfe"),
    ]
    bulk_lies = [
        msg.StreamBytes("no.1", "no", "log", 0, b"x"),
        msg.StreamBytes(attempt["attempt_id"], job_id, "../../../escaped", 0, b"x"),
        msg.StreamBytes(f"{job_id}.../../escaped", job_id, "log", 0, b"x"),
        msg.StreamBytes(attempt["attempt_id"], job_id, "log", 1 << 62, b"x"),
    ]
    with ExitStack() as links:
        control = links.enter_context(dealer(mesh.ports["control"]))
        bulk = links.enter_context(dealer(mesh.ports["bulk"]))
        for garbage in GARBAGE:
            for link in (control, bulk):
                link.send(garbage)
                link.send_multipart([garbage[:100], b"", garbage[:100]])
        # A frame over the limit ends the link: what follows goes over a new one.
        control = links.enter_context(dealer(mesh.ports["control"]))
        bulk = links.enter_context(dealer(mesh.ports["bulk"]))
        for lie in lies:
            control.send(encode(lie, BYTES_MAX))
        for bulk_lie in bulk_lies:
            bulk.send(encode(bulk_lie, BYTES_MAX))
        for port in PORTS:
            plain = links.enter_context(socket.create_connection(("127.0.0.1", mesh.ports[port])))
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\x00\xff" * 1000)
            # Another says nothing and stays.
            links.enter_context(socket.create_connection(("127.0.0.1", mesh.ports[port])))
        answered: set[str] = set()
        for _ in lies:
            assert control.poll(20_000), f"only these were answered: {answered}"
            answered.update(
                msgspec.msgpack.decode(frame)["type"] for frame in control.recv_multipart()
            )
            if answered >= {"refused", "say_hello", "done", "answer"}:
                break
        # The mesh works on, with all these links open.
        gate.open()
        mesh.wait_jobs(sweep)
        mesh.wait_log(sweep, b"done\n")
    assert gate.starts == 1
    assert len(mesh.attempts(sweep)) == 1
    assert [row["node_id"] for row in mesh.rows("nodes")] == ["n1"]
    assert mesh.rows("nodes")[0]["connected"]
    assert not list(mesh.folder.rglob("*escaped*"))


def test_p11_bad_requests_for_artifacts_stop_nothing(new_mesh: NewMesh) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    sweep = mesh.submit("name: given\ncommand: echo 1 > {output}/x\n")
    mesh.wait_jobs(sweep)
    (attempt,) = mesh.attempts(sweep)
    worker = mesh.rows("nodes")[0]["http_url"].rsplit(":", 1)[1]
    requests = (
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n",
        b"GET /%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n",
        b"GET /artifacts/" + b"f" * 32 + b" HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n",
        b"PUT /artifacts/x HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 999999999999\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    )
    for port in (mesh.ports["http"], int(worker)):
        for request in requests:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
                link.sendall(request)
                link.shutdown(socket.SHUT_WR)
                answer = link.recv(1 << 16)
                assert b"root:" not in answer
                assert answer == b"" or answer.split()[1].startswith(b"4"), answer[:200]
    again = mesh.submit("name: later\ncommand: echo 2 > {output}/x\n")
    mesh.wait_jobs(again)
    assert attempt["artifact_id"]
