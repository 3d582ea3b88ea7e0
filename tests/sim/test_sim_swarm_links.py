"""The simulated links: whoever asked for a chunk gets it, whatever became of its turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from swarm_sim_links import FairLinks, Flow, Links, QuantumLinks, Request, VirtualClock

from meshtrain.artifacts.turns import PATIENCE_S

CHUNK_BYTES = 1_000_000


@dataclass
class Heard:
    """The chunks that left their sender, and that came."""

    left: list[int] = field(default_factory=list)
    here: list[int] = field(default_factory=list)

    def sent(self, flow: Flow, request: Request) -> None:
        self.left.append(request.chunk)

    def came(self, flow: Flow, request: Request) -> None:
        self.here.append(request.chunk)


@pytest.mark.parametrize("model", [QuantumLinks, FairLinks])
@pytest.mark.parametrize("chunk_s", [PATIENCE_S / 4, PATIENCE_S * 4], ids=["quick", "slow"])
@pytest.mark.parametrize("flows", [1, 3])
def test_what_is_asked_for_in_a_row_comes_though_each_takes_longer_than_a_turn(
    model: type[QuantumLinks | FairLinks], chunk_s: float, flows: int
) -> None:
    clock, heard = VirtualClock(), Heard()
    rates = [CHUNK_BYTES / chunk_s] * (flows + 1)
    links: Links = model(clock, rates, CHUNK_BYTES, 0.001, heard, at_once=2)
    for receiver in range(1, flows + 1):
        flow = Flow(0, receiver)
        for chunk in range(4):
            links.send(flow, Request(chunk))
    all_chunks = sorted([*range(4)] * flows)
    assert clock.run(lambda: len(heard.here) == len(all_chunks), 1000.0), "one never came"
    assert sorted(heard.here) == sorted(heard.left) == all_chunks
    # One link carried them all, so that none waited while it was free.
    assert clock.now_s == pytest.approx(len(all_chunks) * chunk_s, rel=0.15)
