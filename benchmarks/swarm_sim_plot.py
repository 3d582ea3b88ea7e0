"""Draws what the simulation of the swarm found: the time over the number of nodes."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from meshtrain.results.plots import COLOURS, QUIET

WIDTH_IN, HEIGHT_IN = 6.6, 3.9


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One line for each number of chunks, beside the least logarithm that lies above them all."""
    by_chunks: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["case"] and row["links"] == "quanta":
            by_chunks[row["chunks"]].append(row)
    style: dict[Any, Any] = {"font.family": "sans-serif", "font.size": 9.5, "svg.hashsalt": "swarm"}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        top = 0.0
        for colour, marker, (chunks, of_chunks) in zip(
            COLOURS, "os^", sorted(by_chunks.items()), strict=False
        ):
            of_chunks.sort(key=lambda row: row["nodes"])
            nodes = [row["nodes"] for row in of_chunks]
            last = [row["last"] for row in of_chunks]
            top = max(top, *last)
            axes.plot(nodes, last, color=colour, marker=marker, label=f"{chunks} chunks: last node")
            axes.plot(
                nodes,
                [row["median"] for row in of_chunks],
                color=colour,
                linestyle=":",
                label=f"{chunks} chunks: median node",
            )
        counts = sorted({row["nodes"] for row in rows})
        pace = _steepest(by_chunks)
        axes.plot(
            counts,
            [1 + pace * math.log2(n) for n in counts],
            color=QUIET,
            linewidth=0.9,
            linestyle="-.",
            label=f"1 + {pace:.2f} log₂ N",
        )
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{n:,}" for n in counts])
        axes.set_xticks([], minor=True)
        axes.set_ylim(0.9, max(top, 1 + pace * math.log2(max(counts))) * 1.06)
        axes.set_xlabel("nodes that fetch at the same time")
        axes.set_ylabel("time, in bounds (file size ÷ link rate)")
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a date: the same figures make the same file.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
        plt.close(figure)


def _steepest(by_chunks: dict[int, list[dict[str, Any]]]) -> float:
    """The least slope of a logarithm that lies above all points."""
    return max(
        (float(row["last"]) - 1) / math.log2(row["nodes"])
        for of_chunks in by_chunks.values()
        for row in of_chunks
        if row["nodes"] > 1
    )
