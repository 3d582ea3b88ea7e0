"""Links on a virtual clock: what each host sends goes up its link, and down the receiver's.

Two models of how flows share them. `FairLinks` is exact and dear: each moment has
its max-min fair rates, which change whenever a flow begins or ends. `QuantumLinks`
is what thousands of hosts are simulated with: a sender gives its flows a quantum
each in turn, a receiver's link takes quanta in the order of their coming, and a flow
has at most a window of them under way, as TCP has. Requests for chunks on one flow
are answered in order, as on one connection of HTTP, and of all its answers a sender
has a few on their way at a time, as `artifacts.turns` lets them through.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from meshtrain.artifacts.turns import AT_ONCE, PATIENCE_S

Action = Callable[..., None]


class VirtualClock:
    """What happens when; two events of one moment keep the order in which they were set."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []

    def at(self, at_s: float, action: Action, *arguments: Any) -> None:
        """Does something at a time."""
        self.events += 1
        heapq.heappush(self._heap, (at_s, self.events, action, arguments))

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Lets time pass; False when it ends, or nothing is left to happen, before `until`."""
        heap = self._heap
        while not until():
            if not heap or heap[0][0] > limit_s:
                return False
            self.now_s, _, action, arguments = heapq.heappop(heap)
            action(*arguments)
        return True


@dataclass(slots=True, eq=False)
class Request:
    """A chunk that was asked for."""

    chunk: int
    abandoned: bool = False
    """Nobody waits for it any more; it comes all the same."""
    left: float = 0.0
    """Of its body, as the model counts."""


@dataclass(slots=True, eq=False)
class Flow:
    """All that one host asks of another, answered in order."""

    sender: int
    receiver: int
    queue: deque[Request] = field(default_factory=deque)
    """At the sender: to be sent."""
    awaited: deque[Request] = field(default_factory=deque)
    """At the receiver: asked for, and not here."""
    sending: bool = False
    """Whether it has a turn, so that the first of its queue is on its way."""
    in_turn: bool = False
    """Whether that counts: not when it takes long."""
    turn: int = 0
    window: deque[float] = field(default_factory=deque)
    ready_s: float = 0.0
    rate: float = 0.0


class Listener(Protocol):
    """Who is told what the links did."""

    def sent(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has left its sender."""

    def came(self, flow: Flow, request: Request) -> None:
        """The last byte of a body has come."""


class Links(ABC):
    """What both models share: who may send.

    Args:
        clock: the time.
        rates: bytes per second of each host's link, the same up and down.
        chunk_bytes: the size of each body.
        latency_s: from one host to another.
        listener: who is told.
        at_once: answers that a sender has on their way at a time.
    """

    def __init__(
        self,
        clock: VirtualClock,
        rates: list[float],
        chunk_bytes: int,
        latency_s: float,
        listener: Listener,
        *,
        at_once: int = AT_ONCE,
    ) -> None:
        self._clock = clock
        self._rates = rates
        self._chunk_bytes = chunk_bytes
        self._latency_s = latency_s
        self._listener = listener
        self._free = [at_once] * len(rates)
        self._waiting: list[deque[Flow]] = [deque() for _ in rates]
        """Flows that wait for a turn, by sender."""
        self._stopped = [False] * len(rates)
        self._turns = 0

    def send(self, flow: Flow, request: Request) -> None:
        """A request has come to the sender."""
        if self._stopped[flow.sender]:
            return
        flow.queue.append(request)
        if len(flow.queue) == 1:
            self._waiting[flow.sender].append(flow)
            self._let_through(flow.sender)

    def cut(self, flow: Flow) -> None:
        """The connection was closed: nothing more is sent for what was asked."""
        if not flow.queue:
            return
        flow.queue.clear()
        if flow.sending:
            self._halt(flow)
            self._end_turn(flow)
        else:
            self._waiting[flow.sender].remove(flow)

    def stop(self, host: int) -> None:
        """A host went away: it sends nothing more."""
        self._stopped[host] = True
        for flow in [*self._sending_of(host), *self._waiting[host]]:
            self.cut(flow)

    def _finish(self, flow: Flow) -> Request:
        """The last byte of an answer has left its sender."""
        request = flow.queue.popleft()
        self._halt(flow)
        if flow.queue:
            self._waiting[flow.sender].append(flow)
        self._end_turn(flow)
        self._listener.sent(flow, request)
        return request

    def _let_through(self, sender: int) -> None:
        waiting = self._waiting[sender]
        while self._free[sender] and waiting:
            flow = waiting.popleft()
            self._free[sender] -= 1
            self._turns += 1
            flow.turn = self._turns
            flow.sending = flow.in_turn = True
            self._clock.at(self._clock.now_s + PATIENCE_S, self._lose_patience, flow, flow.turn)
            self._start(flow)

    def _end_turn(self, flow: Flow) -> None:
        flow.sending = False
        self._give_turn_back(flow)
        # Who lost its turn before has none to give back, and may wait for the next one itself.
        self._let_through(flow.sender)

    def _lose_patience(self, flow: Flow, turn: int) -> None:
        if flow.turn == turn:
            self._give_turn_back(flow)

    def _give_turn_back(self, flow: Flow) -> None:
        if flow.in_turn:
            flow.in_turn = False
            self._free[flow.sender] += 1
            self._let_through(flow.sender)

    @abstractmethod
    def _start(self, flow: Flow) -> None:
        """The first of a flow's queue begins to be sent."""

    @abstractmethod
    def _halt(self, flow: Flow) -> None:
        """A flow sends no more for now."""

    @abstractmethod
    def _sending_of(self, host: int) -> list[Flow]:
        """The flows of a host that have a turn."""


class QuantumLinks(Links):
    """Flows of one sender take turns, a quantum each.

    Args: as `Links`, and

        quanta: the parts of a chunk that a flow sends at a time.
        window: quanta of one flow that may be under way.
    """

    def __init__(
        self,
        clock: VirtualClock,
        rates: list[float],
        chunk_bytes: int,
        latency_s: float,
        listener: Listener,
        *,
        at_once: int = AT_ONCE,
        quanta: int = 4,
        window: int = 3,
    ) -> None:
        super().__init__(clock, rates, chunk_bytes, latency_s, listener, at_once=at_once)
        self._quanta = quanta
        self._window = window
        self._quantum_s = [chunk_bytes / quanta / rate for rate in rates]
        self._ready: list[deque[Flow]] = [deque() for _ in rates]
        """Flows with something to send, by sender, in the order of their turns."""
        self._busy = [False] * len(rates)
        self._wake_s = [math.inf] * len(rates)
        self._down_free_s = [0.0] * len(rates)

    def _start(self, flow: Flow) -> None:
        flow.queue[0].left = self._quanta
        self._ready[flow.sender].append(flow)
        if not self._busy[flow.sender]:
            self._next(flow.sender)

    def _halt(self, flow: Flow) -> None:
        self._ready[flow.sender].remove(flow)

    def _sending_of(self, host: int) -> list[Flow]:
        return list(self._ready[host])

    def _next(self, sender: int) -> None:
        ready, now_s = self._ready[sender], self._clock.now_s
        soonest_s = math.inf
        for _ in range(len(ready)):
            flow = ready[0]
            ready.rotate(-1)
            if flow.ready_s <= now_s:
                self._busy[sender] = True
                self._clock.at(now_s + self._quantum_s[sender], self._left, flow, flow.queue[0])
                return
            soonest_s = min(soonest_s, flow.ready_s)
        if soonest_s < self._wake_s[sender]:
            self._wake_s[sender] = soonest_s
            self._clock.at(soonest_s, self._wake, sender)

    def _wake(self, sender: int) -> None:
        self._wake_s[sender] = math.inf
        if not self._busy[sender]:
            self._next(sender)

    def _left(self, flow: Flow, request: Request) -> None:
        """A quantum has left its sender."""
        sender, receiver, now_s = flow.sender, flow.receiver, self._clock.now_s
        self._busy[sender] = False
        if flow.sending and flow.queue[0] is request:
            begins_s = max(now_s + self._latency_s, self._down_free_s[receiver])
            came_s = begins_s + self._quantum_s[receiver]
            self._down_free_s[receiver] = came_s
            flow.window.append(came_s + self._latency_s)
            if len(flow.window) >= self._window:
                flow.ready_s = flow.window.popleft()
            request.left -= 1
            if not request.left:
                self._clock.at(came_s, self._listener.came, flow, request)
                self._finish(flow)
        if not self._busy[sender]:
            self._next(sender)


class FairLinks(Links):
    """At each moment max-min fair rates of all flows; exact, for few hosts.

    Args: as `Links`.
    """

    def __init__(
        self,
        clock: VirtualClock,
        rates: list[float],
        chunk_bytes: int,
        latency_s: float,
        listener: Listener,
        *,
        at_once: int = AT_ONCE,
    ) -> None:
        super().__init__(clock, rates, chunk_bytes, latency_s, listener, at_once=at_once)
        self._active: dict[Flow, None] = {}
        self._since_s = 0.0
        self._version = 0

    def _start(self, flow: Flow) -> None:
        self._advance()
        flow.queue[0].left = self._chunk_bytes
        self._active[flow] = None
        self._share()

    def _halt(self, flow: Flow) -> None:
        self._advance()
        del self._active[flow]
        self._share()

    def _sending_of(self, host: int) -> list[Flow]:
        return [flow for flow in self._active if flow.sender == host]

    def _advance(self) -> None:
        passed_s = self._clock.now_s - self._since_s
        self._since_s = self._clock.now_s
        for flow in self._active:
            if flow.queue:
                flow.queue[0].left -= flow.rate * passed_s

    def _share(self) -> None:
        """Fills the links until each flow meets a full one."""
        room: dict[tuple[str, int], float] = {}
        users: dict[tuple[str, int], set[Flow]] = {}
        for flow in self._active:
            for link in (("up", flow.sender), ("down", flow.receiver)):
                room[link] = self._rates[link[1]]
                users.setdefault(link, set()).add(flow)
        while users:
            fullest = min(users, key=lambda link: (room[link] / len(users[link]), link))
            share = room[fullest] / len(users[fullest])
            for flow in users.pop(fullest):
                flow.rate = share
                for link in (("up", flow.sender), ("down", flow.receiver)):
                    if link in users:
                        room[link] = max(room[link] - share, 0.0)
                        users[link].discard(flow)
                        if not users[link]:
                            del users[link]
        self._version += 1
        if self._active:
            soonest_s = min(flow.queue[0].left / flow.rate for flow in self._active)
            at_s = self._clock.now_s + max(soonest_s, 0.0)
            self._clock.at(at_s, self._look, self._version)

    def _look(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        for flow in list(self._active):
            if flow in self._active and flow.queue[0].left <= 1e-3:
                at_s = self._clock.now_s + self._latency_s
                self._clock.at(at_s, self._listener.came, flow, flow.queue[0])
                self._finish(flow)
        self._share()
