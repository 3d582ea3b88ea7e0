"""Simulations for as long as they are asked for: `make sim-for FOR=120`."""

from __future__ import annotations

import os
import time

import pytest
from sim_seed import run_seed

FOR_S = float(os.environ.get("MESHTRAIN_SIM_S", "0"))
SIDES = 2
"""Processes that share the work."""


@pytest.mark.skipif(not FOR_S, reason="runs for MESHTRAIN_SIM_S seconds: make sim-for")
@pytest.mark.parametrize("side", range(SIDES))
def test_every_promise_holds_for_as_long_as_asked(side: int) -> None:
    # Another stretch of seeds each time; what fails names its seed, which replays exactly.
    first = time.time_ns() // 1_000_000 % 1_000_000_000 * 1000
    began_s = time.monotonic()
    count = 0
    while time.monotonic() - began_s < FOR_S:
        seed = first + side + SIDES * count
        try:
            run_seed(seed)
        except Exception as error:
            raise AssertionError(
                f"seed {seed} fails; replay it: MESHTRAIN_SIM_FIRST={seed} "
                "MESHTRAIN_SIM_SEEDS=1 pytest tests/sim"
            ) from error
        count += 1
    took_s = time.monotonic() - began_s
    print(f"simulated {count} seeds from {first} on in {took_s:.0f} s")
