"""Links that are cut, and a node that only beats: what a test sets up around a mesh.

Both live on a thread of their own, so that the test may wait as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import TracebackType
from typing import Self

from mesh import Mesh

from meshtrain.chaos.link import Link
from meshtrain.core.node import NodeSpec
from meshtrain.ids import new_id
from meshtrain.net.zmq_worker import WorkerSockets
from meshtrain.wire import messages as msg

BEHIND_LINKS = "127.0.0.2"
"""The address, of loopback too, where the links to the master listen."""
LOOK_EVERY_S = 0.005


class Weather:
    """The links of a mesh's master, and a node `probe` that notes how soon its beats are answered.

    Args:
        cuts_bytes: the bulk link and the control link are broken off each time when so
            many bytes went over the bulk link, counted from the cut before.
        beat_every_s: between the beats of the probe.
    """

    def __init__(
        self, mesh: Mesh, *, cuts_bytes: tuple[int, ...] = (), beat_every_s: float = 0.3
    ) -> None:
        self._ports = mesh.ports
        self._cuts_bytes = list(cuts_bytes)
        self._beat_every_s = beat_every_s
        self._stop = threading.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._session = ""
        self._beat = 0
        self._answered_s: float | None = None
        #: the longest time between two beats of one session that were answered
        self.gap_max_s = 0.0
        self.answers = 0
        self.cuts = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    async def _live(self) -> None:
        links = {
            name: Link((BEHIND_LINKS, self._ports[name]), ("127.0.0.1", self._ports[name]))
            for name in ("control", "bulk")
        }
        for link in links.values():
            await link.start()
        probe = WorkerSockets(
            "127.0.0.1",
            self._ports["control"],
            "probe",
            new_id("life"),
            on_control=self._hear,
            on_bulk=lambda batch: None,
        )
        beating = asyncio.create_task(self._beat_for_ever(probe))
        self._up.set()
        try:
            cut_at = self._cuts_bytes[0] if self._cuts_bytes else None
            while not self._stop.is_set():
                if cut_at is not None and links["bulk"].counts.passed_bytes >= cut_at:
                    for link in links.values():
                        link.reset()
                    self.cuts += 1
                    self._cuts_bytes.pop(0)
                    cut_at = cut_at + self._cuts_bytes[0] if self._cuts_bytes else None
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating
            probe.close()
            for link in links.values():
                await link.close()

    # --- the probe ---------------------------------------------------------------------------

    async def _beat_for_ever(self, probe: WorkerSockets) -> None:
        number = 0
        while True:
            if not self._session or not self._answered_s:
                number += 1
                self._session = f"probe-{number}"
                probe.send([self._hello()])
            else:
                self._beat += 1
                now_s = time.monotonic()
                probe.send(
                    [
                        msg.Beat(
                            session=self._session,
                            beat=self._beat,
                            sent_s=now_s,
                            seen_seq=0,
                            grant=0,
                            attempts=(),
                        )
                    ]
                )
            await asyncio.sleep(self._beat_every_s)

    def _hello(self) -> msg.Hello:
        spec = NodeSpec(node_id="probe", http_url="http://127.0.0.1:1", cpu_slots=1)
        return msg.Hello(
            protocol=msg.PROTOCOL_VERSION,
            spec=spec,
            session=self._session,
            attempts=(),
            holds=(),
            grant=0,
        )

    def _hear(self, batch: list[msg.ToNode]) -> None:
        now_s = time.monotonic()
        for message in batch:
            match message:
                case msg.Welcome():
                    self._session = message.session
                    self._answered_s = now_s
                case msg.BeatAnswer() if self._answered_s is not None:
                    self.gap_max_s = max(self.gap_max_s, now_s - self._answered_s)
                    self.answers += 1
                    self._answered_s = now_s
                case msg.SayHello():
                    # A new master: how long it was away is not what is asked.
                    self._answered_s = None
                case _:
                    pass


def resident_max_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    with open(f"/proc/{pid}/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
