"""Bases that are not evicted, because somebody said so."""

from __future__ import annotations

from meshtrain.core import effects as fx
from meshtrain.core.copies import Pin
from meshtrain.core.events import PinRequested
from meshtrain.core.eviction import no_such_node
from meshtrain.core.state import MeshState

PINS_MAX = 10_000


def on_pin(state: MeshState, event: PinRequested) -> None:
    """A base stays where it is, or no longer has to."""
    copies = state.copies
    error, notes = "", []
    if event.recipe_hash not in state.bases:
        error = f"no base has the recipe hash {event.recipe_hash}"
    elif event.node_id and event.node_id not in state.nodes and event.pinned:
        error = no_such_node(state, event.node_id)
    elif event.pinned and len(copies.pins) >= PINS_MAX:
        error = f"{PINS_MAX} pins are set; take some away with `meshtrain bases unpin`"
    if error:
        state.out.append(fx.Reply(event.request_id, error=error))
        return
    pin = Pin(event.recipe_hash, event.node_id)
    if event.pinned:
        copies.pins.add(pin)
        changed = [pin]
        artifact_id = state.bases[event.recipe_hash].artifact_id or ""
        if event.node_id and artifact_id not in state.nodes[event.node_id].holds:
            notes.append(f"{event.node_id} doesn't hold it yet: it stays there once it does")
    else:
        # Without a node: all pins of it.
        changed = (
            [pin] if event.node_id else [p for p in copies.pins if p.recipe_hash == pin.recipe_hash]
        )
        changed = [one for one in changed if one in copies.pins]
        copies.pins.difference_update(changed)
        if not changed:
            notes.append("it was not pinned there" if event.node_id else "it was not pinned")
        elif event.node_id and Pin(event.recipe_hash) in copies.pins:
            notes.append("it is still pinned everywhere: leave out --node to end that")
    for one in sorted(changed, key=lambda one: one.node_id):
        state.out.append(fx.SavePin(one.recipe_hash, one.node_id, event.pinned))
    state.touch_bases([event.recipe_hash])
    state.out.append(fx.Reply(event.request_id, done=(event.recipe_hash,), notes=tuple(notes)))
