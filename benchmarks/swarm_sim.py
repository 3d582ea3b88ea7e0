"""Simulates how one artifact reaches N nodes, with the mesh's own choices and a virtual clock.

    python benchmarks/swarm_sim.py                         up to 1,000 nodes, about five minutes
    python benchmarks/swarm_sim.py --nodes 3162,10000      the large ones: half an hour, 3 GiB
    python benchmarks/swarm_sim.py --exact                 both models of the links, N <= 32
    python benchmarks/swarm_sim.py --faults                N = 5, with one fault each
    python benchmarks/swarm_sim.py --json a.json           also keeps the figures
    python benchmarks/swarm_sim.py --from a.json,b.json --plot docs/images/swarm.svg

Times are multiples of the bound: what one link needs to carry the file once. The
clock runs until a node has its last chunk; headers, disks and digests take no time,
so that real links come to about 1.05 times these figures at best.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from swarm_sim_mesh import SwarmSim
from swarm_sim_setting import Outcome, Setting

NODES = (2, 4, 8, 32, 100, 316, 1000)
NODES_OF_MANY_CHUNKS = (2, 4, 8, 32, 100)
EXACT_NODES = (2, 4, 8, 16, 32)
MANY_CHUNKS = 512
EACH_BY_ITSELF_MAX = 60
"""With more nodes, each takes in what came in `LOOK_S` together, as one that is busy does."""
LOOK_S = 0.02

Row = dict[str, Any]


def row_of(setting: Setting, *, case: str = "") -> Row:
    """Runs it; the figures that are shown and kept."""
    begun_s = time.process_time()
    outcome = SwarmSim(setting).run()
    healthy = _healthy(setting, outcome)
    multiples = outcome.multiples(healthy)
    return {
        "nodes": setting.nodes,
        "chunks": setting.chunks,
        "case": case,
        "links": "exact" if setting.exact else "quanta",
        "latency_ms": setting.latency_s * 1e3,
        "seed": setting.seed,
        "look_ms": setting.look_every_s * 1e3,
        "last": multiples[-1],
        "median": statistics.median(multiples),
        "left_behind": len(outcome.left),
        "seeder_files": outcome.seeder_files,
        "news_per_node": outcome.news / setting.nodes,
        "policy_us_per_chunk": outcome.policy_s / outcome.came_chunks * 1e6,
        "cpu_s": time.process_time() - begun_s,
    }


def _healthy(setting: Setting, outcome: Outcome) -> list[int]:
    """Nodes with a link like the others', that stayed."""
    odd = {number for number, _ in (*setting.rates, *setting.deaths)} | set(outcome.left)
    return [number for number in outcome.done_s if number not in odd]


def look_s(nodes: int) -> float:
    """How often a node looks at what it was told."""
    return LOOK_S if nodes > EACH_BY_ITSELF_MAX else 0.0


def fault_settings(seed: int) -> list[tuple[str, Setting]]:
    """Five nodes, and what goes wrong for them; with a master that holds it too where a
    holder dies."""
    return [
        ("none", Setting(5, seed=seed)),
        ("first holder dies halfway", Setting(5, seed=seed, master=True, deaths=((0, 0.5),))),
        ("a node leaves halfway", Setting(6, seed=seed, deaths=((3, 0.5),))),
        ("a peer with a tenth of the rate", Setting(6, seed=seed, rates=((3, 0.1),))),
        ("a peer that corrupts chunks", Setting(6, seed=seed, corrupt=frozenset({3}))),
    ]


def print_rows(rows: list[Row]) -> None:
    """A table, one line for each row."""
    print(
        f"{'nodes':>6} {'chunks':>6} {'last':>6} {'median':>6} {'seeder':>6} "
        f"{'news/node':>9} {'policy us/chunk':>15} {'CPU s':>7}  case"
    )
    for row in rows:
        case = row["case"] or (f"links: {row['links']}" if row["links"] == "exact" else "")
        if row["left_behind"]:
            case += f" ({row['left_behind']} never ended)"
        print(
            f"{row['nodes']:>6} {row['chunks']:>6} {row['last']:>6.2f} {row['median']:>6.2f} "
            f"{row['seeder_files']:>6.2f} {row['news_per_node']:>9.0f} "
            f"{row['policy_us_per_chunk']:>15.0f} {row['cpu_s']:>7.1f}  {case}",
            flush=True,
        )


def settings_of(arguments: argparse.Namespace) -> list[tuple[str, Setting]]:
    """What the command line asks for."""
    latency_s = arguments.latency_ms / 1e3
    seeds = range(arguments.runs)
    if arguments.faults:
        return [case for seed in seeds for case in fault_settings(seed)]
    if arguments.exact:
        return [
            ("", Setting(n, seed=seed, latency_s=latency_s, exact=exact))
            for n in EXACT_NODES
            for seed in seeds
            for exact in (False, True)
        ]
    counts = arguments.nodes or NODES
    chosen = [(n, arguments.chunks) for n in counts]
    if not arguments.nodes:
        chosen += [(n, MANY_CHUNKS) for n in NODES_OF_MANY_CHUNKS]
    return [
        (
            "",
            Setting(n, chunks, seed=seed, latency_s=latency_s, look_every_s=look_s(n)),
        )
        for n, chunks in chosen
        for seed in seeds
    ]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> int:
    """The program."""
    told = __doc__ or ""
    parser = argparse.ArgumentParser(
        description=told.splitlines()[0],
        epilog=told.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=_numbers, help="how many fetch: 2,4,8")
    parser.add_argument("--chunks", type=int, default=128, help="of 1 MiB (default 128)")
    parser.add_argument("--runs", type=int, default=1, help="of each, with other seeds")
    parser.add_argument("--latency-ms", type=float, default=0.5, help="one way (default 0.5)")
    parser.add_argument("--exact", action="store_true", help="compare the models of the links")
    parser.add_argument("--faults", action="store_true", help="five nodes and one fault each")
    parser.add_argument("--from", dest="kept", metavar="FILES", help="figures that were kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures")
    arguments = parser.parse_args()
    rows: list[Row] = []
    if arguments.kept:
        for name in arguments.kept.split(","):
            rows += json.loads(Path(name).read_text(encoding="utf-8"))
        print_rows(rows)
    else:
        for case, setting in settings_of(arguments):
            rows.append(row_of(setting, case=case))
            print_rows(rows[-1:])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.plot is not None:
        # Only here: matplotlib isn't needed for the figures.
        from swarm_sim_plot import draw

        draw(rows, arguments.plot)
    return int(any(row["left_behind"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
