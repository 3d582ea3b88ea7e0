"""Simulated annealing that can be stopped at any moment, and goes on on another node.

A stand-in for a training of days. Three things make a program resumable:

1. It writes its whole state into the folder MESHTRAIN_CHECKPOINT, now and then
   and when it gets SIGTERM: first under a name that begins with a dot, then
   renamed, so that nobody ever sees half a checkpoint.
2. When MESHTRAIN_RESUME is set, it begins from the last checkpoint in there.
3. The state of its random numbers is part of the checkpoint: then it ends with
   the same result, bit for bit, as if nobody had stopped it.

Without the mesh neither variable is set, and it runs as any program does. The
walk is that of Kirkpatrick et al. 1983, on Rastrigin's function.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path

KEPT = 2
INTERRUPTED = 75
"""Exit code of a run that was asked to end; any code but 0 would do."""

asked_to_end = False


def note_sigterm(*_: object) -> None:
    """SIGTERM is only noted: a step that has begun is ended first."""
    global asked_to_end
    asked_to_end = True


def height(position: list[float]) -> float:
    """Rastrigin's function: many valleys, the lowest at the origin."""
    return sum(x * x - 10 * math.cos(2 * math.pi * x) + 10 for x in position)


def first_state(dimensions: int, seed: int) -> dict:
    """Where a run begins; with plain values only, so that JSON can hold it."""
    random.seed(seed)
    position = [random.uniform(-5, 5) for _ in range(dimensions)]
    return {
        "arguments": [dimensions, seed],
        "step": 0,
        "position": position,
        "lowest": height(position),
        "random": random.getstate(),
    }


def make_step(state: dict, steps: int) -> None:
    """One step of the walk: down always, up more and more seldom."""
    heat = 10 * (1 - state["step"] / steps) + 1e-9
    tried = [x + random.gauss(0, 0.3) for x in state["position"]]
    climb = height(tried) - height(state["position"])
    if climb <= 0 or random.random() < math.exp(-climb / heat):
        state["position"] = tried
        state["lowest"] = min(state["lowest"], height(tried))
    state["step"] += 1


def save(folder: Path, state: dict) -> None:
    """Writes a checkpoint that is seen whole or not at all, and keeps the last two."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{state['step']:09}.json"
    unfinished = folder / f".{name}"
    with unfinished.open("w") as file:
        json.dump({**state, "random": random.getstate()}, file)
        file.flush()
        os.fsync(file.fileno())  # a power cut must not leave an empty file under the final name
    unfinished.replace(folder / name)
    for older in sorted(folder.glob("step-*.json"))[:-KEPT]:
        older.unlink()


def load(folder: Path, arguments: list[int]) -> dict | None:
    """The state of the last checkpoint that can be read; None when there is none."""
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            state = json.loads(path.read_text())
            version, words, gauss = state["random"]
            random.setstate((version, tuple(words), gauss))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path.name} can't be used: {error}", flush=True)
            continue
        if state["arguments"] != arguments:
            sys.exit(f"{path} is of another run, with the arguments {state['arguments']}")
        return state
    return None


def main() -> int:
    """Walks to the end, or until it is asked to stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    checkpoints = os.environ.get("MESHTRAIN_CHECKPOINT")
    every_s = float(os.environ.get("MESHTRAIN_CHECKPOINT_EVERY_S") or 60)
    earlier = os.environ.get("MESHTRAIN_RESUME")
    if checkpoints:
        signal.signal(signal.SIGTERM, note_sigterm)

    state = load(Path(earlier), [given.dimensions, given.seed]) if earlier else None
    if state is None:
        state = first_state(given.dimensions, given.seed)
        print("begins at step 0", flush=True)
    else:
        print(f"goes on from step {state['step']}", flush=True)

    due_s = time.monotonic() + every_s
    while state["step"] < given.steps:
        make_step(state, given.steps)
        if checkpoints and (asked_to_end or time.monotonic() >= due_s):
            save(Path(checkpoints), state)
            due_s = time.monotonic() + every_s
        if asked_to_end:
            print(f"asked to end: kept step {state['step']}", flush=True)
            return INTERRUPTED

    given.output.mkdir(parents=True, exist_ok=True)
    result = {"lowest": state["lowest"], "steps": state["step"]}
    (given.output / "results.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
