"""How many messages a second the master takes in and sends out, and what the codec costs.

    python benchmarks/wire.py [--messages 200000] [--runs 3]

A process of its own is at the other end, over TCP on loopback. Each message is
decoded to its class, or encoded from it. The peer is zmq.asyncio, as it is
commonly used: one await for each multipart, with the same codec. Every run is
printed; compare figures of one run of this script only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import time
import timeit
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import zmq
import zmq.asyncio

sys.path.insert(0, str(Path(__file__).parent.parent))

from meshtrain.net.zmq_master import MasterSockets
from meshtrain.wire import messages as wire
from meshtrain.wire.codec import Decoder, encode

BATCH = 32
MESSAGE = wire.Ended(
    session="5f0c93a1/1",
    attempt_id="job-0c93a1.1099511627777",
    epoch=1099511627777,
    metrics={"accuracy": 0.91},
    run_s=2.5,
    grant=4,
    seen_seq=17,
)
PIECES_PER_SEND = (1, BATCH)


def dealer(port: int) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.ROUTING_ID, b"peer")
    socket.connect(f"tcp://127.0.0.1:{port}")
    return socket


def send_many(port: int, count: int, per_send: int) -> None:
    """The other end while the master takes in."""
    socket = dealer(port)
    frames = [encode(MESSAGE)] * per_send
    for _ in range(count // per_send):
        socket.send_multipart(frames)
    socket.recv()  # stay until the master has it all


def take_many(port: int, count: int) -> None:
    """The other end while the master sends out."""
    socket = dealer(port)
    socket.send(encode(MESSAGE))
    left = count
    while left > 0:
        left -= len(socket.recv_multipart())
    socket.send(encode(MESSAGE))


def other_end(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)])


class Clock:
    """Counts messages, and the seconds from the first to the last."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.started_s: float | None = None
        self.done = asyncio.Event()
        self.taken_s = 0.0

    def take(self, count: int) -> None:
        if self.started_s is None:
            self.started_s = time.perf_counter()
        self.left -= count
        if self.left <= 0:
            self.taken_s = time.perf_counter() - self.started_s
            self.done.set()


async def take_in_by_us(count: int, per_send: int) -> float:
    clock = Clock(count)
    master = MasterSockets(
        "127.0.0.1", 0, 0, 0, on_control=lambda b: clock.take(len(b)), on_bulk=lambda _: None
    )
    peer = other_end("--send", master.control_port, count, per_send)
    await clock.done.wait()
    master.send_control(b"peer", [wire.SayHello()])
    await asyncio.to_thread(peer.wait)
    master.close()
    return count / clock.taken_s


async def take_in_by_zmq_asyncio(count: int, per_send: int) -> float:
    clock = Clock(count)
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    peer = other_end("--send", port, count, per_send)
    decode = Decoder[wire.ToMaster](wire.ToMaster, 1 << 20).decode
    while not clock.done.is_set():
        frames = await router.recv_multipart()
        clock.take(len([decode(data) for data in frames[1:]]))
    await router.send_multipart([b"peer", encode(wire.SayHello())])
    await asyncio.to_thread(peer.wait)
    context.destroy(linger=0)
    return count / clock.taken_s


async def send_out_by_us(count: int, per_send: int) -> float:
    came = asyncio.Event()
    master = MasterSockets(
        "127.0.0.1", 0, 0, 0, on_control=lambda _: came.set(), on_bulk=lambda _: None
    )
    peer = other_end("--take", master.control_port, count)
    await came.wait()
    came.clear()
    messages: list[Any] = [MESSAGE] * per_send
    started_s = time.perf_counter()
    for _ in range(count // per_send):
        # ZeroMQ tells of no single peer when its queue has room again.
        while not master.send_control(b"peer", messages):  # noqa: ASYNC110
            await asyncio.sleep(0)
    await came.wait()
    taken_s = time.perf_counter() - started_s
    await asyncio.to_thread(peer.wait)
    master.close()
    return count / taken_s


async def send_out_by_zmq_asyncio(count: int, per_send: int) -> float:
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    peer = other_end("--take", port, count)
    await router.recv_multipart()
    started_s = time.perf_counter()
    for _ in range(count // per_send):
        await router.send_multipart([b"peer", *(encode(MESSAGE) for _ in range(per_send))])
    await router.recv_multipart()
    taken_s = time.perf_counter() - started_s
    await asyncio.to_thread(peer.wait)
    context.destroy(linger=0)
    return count / taken_s


Measure = Callable[[int, int], Awaitable[float]]
MEASURES: tuple[tuple[str, Measure, Measure], ...] = (
    ("taken in", take_in_by_us, take_in_by_zmq_asyncio),
    ("sent out", send_out_by_us, send_out_by_zmq_asyncio),
)


def print_transport(count: int, runs: int) -> None:
    print(f"\n{'messages/s':<22}{'meshtrain':>12}{'zmq.asyncio':>14}   every run")
    for name, ours, theirs in MEASURES:
        for per_send in PIECES_PER_SEND:
            mine, peers = [], []
            for _ in range(runs):  # in turns, so that a busy moment hits both
                mine.append(asyncio.run(_call(ours, count, per_send)))
                peers.append(asyncio.run(_call(theirs, count, per_send)))
            every = " ".join(f"{m:,.0f}/{p:,.0f}" for m, p in zip(mine, peers, strict=True))
            label = f"{name}, {per_send} a send"
            print(f"{label:<22}{_median(mine):>12,.0f}{_median(peers):>14,.0f}   {every}")


async def _call(measure: Measure, count: int, per_send: int) -> float:
    return await measure(count, per_send)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def print_codec() -> None:
    data = encode(MESSAGE)
    decoder: Decoder[wire.Message] = Decoder(wire.Message, 1 << 20)
    loose = msgpack.unpackb(data)
    assert decoder.decode(data) == msgspec.convert(loose, wire.Message) == MESSAGE
    print(f"\ncodec, {len(data)} bytes{'µs':>24}")
    for name, call in (
        ("encode (msgspec)", lambda: encode(MESSAGE)),
        ("decode (msgspec)", lambda: decoder.decode(data)),
        ("msgpack.unpackb", lambda: msgpack.unpackb(data)),
        ("  + convert to its class", lambda: msgspec.convert(loose, wire.Ended)),
        ("  + convert to the union", lambda: msgspec.convert(loose, wire.Message)),
    ):
        print(f"{name:<32}{min(timeit.repeat(call, number=20_000, repeat=5)) / 20_000 * 1e6:>8.2f}")


def main() -> None:
    if sys.argv[1:2] == ["--send"]:
        return send_many(*map(int, sys.argv[2:]))
    if sys.argv[1:2] == ["--take"]:
        return take_many(*map(int, sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=200_000, help="in each run")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    count = max(BATCH, options.messages // BATCH * BATCH)
    print(
        f"Python {platform.python_version()}, pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}, "
        f"msgspec {msgspec.__version__}, {os.cpu_count()} cores"
    )
    print(f"{count:,} messages of {len(encode(MESSAGE))} bytes, {options.runs} runs, median shown")
    print_transport(count, options.runs)
    print_codec()
    return None


if __name__ == "__main__":
    main()
