"""Events that wait for the scheduler; bounded also while nothing can be decided.

While the disk is full, events wait for an unknown time. What nodes repeat until
it is answered is not kept then: hellos, starts (heartbeats name them), ends and,
of heartbeats, all but the latest. What they say once is kept in a form that
doesn't grow: of each artifact, whether it is held; of each node, that it left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from meshtrain.core import events as ev
from meshtrain.core.node import MASTER_NODE_ID

_Request = (
    ev.SweepSubmitted
    | ev.CancelRequested
    | ev.RetryRequested
    | ev.PriorityRequested
    | ev.DrainRequested
    | ev.ReleaseRequested
    | ev.RebuildRequested
    | ev.PinRequested
    | ev.EvictRequested
    | ev.WarmRequested
)
_Repeated = ev.Tick | ev.NodeSaidHello | ev.AttemptStarted | ev.AttemptEnded | ev.InventoryTold
"""Time passes again, and nodes say these at each heartbeat until the master answers."""


class Backlog:
    """The events that are not handled yet, in the order in which they came."""

    def __init__(self) -> None:
        self._events: deque[ev.Event] = deque()
        #: The latest heartbeat of each node: older ones tell nothing new.
        self._beats: dict[str, ev.NodeBeat] = {}
        self._holding = False
        #: node → artifact → whether it is held, as said while events are held back
        self._held: dict[str, dict[str, bool]] = {}
        self._left: dict[str, ev.NodeLeft] = {}

    def __len__(self) -> int:
        """Events that wait, heartbeats apart."""
        return len(self._events)

    def put(self, event: ev.Event) -> None:
        """Take an event in."""
        if isinstance(event, ev.NodeBeat):
            self._beats[event.node_id] = event
        elif not self._holding:
            self._events.append(event)
        elif isinstance(event, ev.ArtifactHeld):
            known = self._held.setdefault(event.node_id, {})
            known.update(dict.fromkeys(event.removed, False))
            known.update(dict.fromkeys(event.added, True))
        elif isinstance(event, ev.ArtifactDropped):
            # What was said before is over with it; what is said from now on comes after it.
            self._held.get(MASTER_NODE_ID, {}).pop(event.artifact_id, None)
            self._events.append(event)
        elif isinstance(event, ev.NodeLeft):
            self._left[event.node_id] = event
        elif not isinstance(event, _Repeated):
            self._events.append(event)

    def take_beats(self) -> list[ev.NodeBeat]:
        """The latest heartbeat of each node that sent one; they wait no more."""
        beats, self._beats = self._beats, {}
        return list(beats.values())

    def take(self, count_max: int) -> Iterator[ev.Event]:
        """The oldest events, one by one; they wait no more."""
        for _ in range(min(count_max, len(self._events))):
            yield self._events.popleft()

    def hold(self) -> list[str]:
        """Nothing is handled for a time. Returns the ids of requests that are given up for it."""
        self._holding = True
        waiting, self._events = self._events, deque()
        refused = []
        for event in waiting:
            if isinstance(event, _Request):
                refused.append(event.request_id)
            else:
                self.put(event)
        return refused

    def go_on(self) -> None:
        """Events are handled again, first those that came meanwhile."""
        self._holding = False
        for node_id, known in self._held.items():
            added = tuple(artifact_id for artifact_id, held in known.items() if held)
            removed = tuple(artifact_id for artifact_id, held in known.items() if not held)
            self._events.append(ev.ArtifactHeld(node_id, added, removed))
        self._events.extend(self._left.values())
        self._held = {}
        self._left = {}
