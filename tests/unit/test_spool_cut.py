"""A job may cut its log, as a shell does at `> /dev/stderr`: what it prints then is shipped too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spool_mesh import SpoolMesh, lines

from meshtrain_daemon.worker.spool import CUT_LINE

CUT = CUT_LINE.decode()
LOST = re.compile(r"\n\[meshtrain: [0-9,]+ bytes of this log were lost here: [^\n]*\]\n")


@pytest.fixture
def mesh(tmp_path: Path) -> SpoolMesh:
    return SpoolMesh(tmp_path, 1 << 40)


def cut(mesh: SpoolMesh) -> None:
    """What opening it anew does; the job goes on appending."""
    Path(mesh.folders[0].log).write_bytes(b"")


def shown(mesh: SpoolMesh) -> str:
    mesh.settle()
    return mesh.shown().decode()


def test_p6_what_is_printed_after_a_cut_is_shipped(mesh: SpoolMesh) -> None:
    mesh.print(lines(100))
    mesh.ship()
    mesh.deliver()
    cut(mesh)
    mesh.print(b"cannot read fold 3\n")
    assert shown(mesh) == lines(100).decode() + CUT + "cannot read fold 3\n"
    assert len(mesh.told) == 1 and "> /dev/stderr" in mesh.told[0]


def test_p6_a_cut_in_the_last_moment_is_seen_at_the_end(mesh: SpoolMesh) -> None:
    mesh.print(b"begin\n")
    mesh.ship()
    mesh.deliver()
    cut(mesh)
    mesh.print(b"a last word that is longer than what was there\n")
    told = mesh.streamer.ended("j.0")
    assert told["log"] == len("begin\n" + CUT + "a last word that is longer than what was there\n")
    assert shown(mesh).endswith(CUT + "a last word that is longer than what was there\n")


def test_p6_what_was_on_its_way_counts_where_it_arrives(mesh: SpoolMesh) -> None:
    mesh.print(b"one\n")
    mesh.ship()
    cut(mesh)
    mesh.print(b"two\n")
    mesh.ship()
    assert shown(mesh) == "one\n" + CUT + "two\n"


def test_p6_what_was_on_its_way_and_is_lost_is_marked(mesh: SpoolMesh) -> None:
    mesh.print(lines(100))
    mesh.ship()
    cut(mesh)
    mesh.print(b"after\n")
    mesh.ship()
    mesh.link.clear()
    mesh.streamer.rewind()
    found = LOST.match(shown(mesh))
    assert found is not None
    assert mesh.shown().decode()[found.end() :] == CUT + "after\n"


def test_p6_p7_the_next_daemon_knows_of_a_cut(mesh: SpoolMesh) -> None:
    for word in ("one", "two", "three"):
        mesh.print(f"{word}\n".encode())
        mesh.ship()
        mesh.deliver()
        cut(mesh)
        mesh.print(b"-\n")
        mesh.ship()
        mesh.restart_daemon()
        mesh.ship()
        mesh.deliver()
    mesh.print(b"end\n")
    text = shown(mesh)
    assert (
        text
        == "".join(f"{word}\n{CUT}-\n" for word in ("one", "-\ntwo", "-\nthree")).replace(
            "-\n-\n", "-\n"
        )
        + "end\n"
    )


def test_p12_a_cut_log_gives_its_bytes_back_too(mesh: SpoolMesh) -> None:
    mesh.print(b"before\n")
    mesh.ship()
    mesh.deliver()
    cut(mesh)
    printed = lines(1_000_000)
    mesh.print(printed)
    for _ in range(2 * len(printed) // (1 << 20)):
        mesh.ship()
        mesh.deliver()
    assert mesh.taken_bytes() < len(printed) // 2
    assert shown(mesh) == "before\n" + CUT + printed.decode()


STEPS = st.lists(
    st.sampled_from(["print", "print", "ship", "ship", "deliver", "cut", "lose", "restart"]),
    max_size=40,
)


@given(STEPS, st.integers(1, 40))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_p6_of_each_part_between_cuts_the_beginning_is_stored_and_of_the_last_all(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], size: int
) -> None:
    mesh = SpoolMesh(tmp_path_factory.mktemp("mesh"), 1 << 40)
    parts = [""]
    for number, step in enumerate(steps):
        match step:
            case "print":
                text = f"<{number}>" * size
                parts[-1] += text
                mesh.print(text.encode())
            case "ship":
                mesh.ship()
            case "deliver":
                mesh.deliver(2)
            case "lose":
                mesh.link.clear()
                mesh.streamer.rewind()
            case "restart":
                # What the job prints between two daemons' looks is not cut meanwhile here.
                mesh.ship()
                mesh.restart_daemon()
                mesh.ship()
            case "cut":
                mesh.ship()
                cut(mesh)
                mesh.ship()
                parts.append("")
    text = shown(mesh)
    found = LOST.sub("", text).split(CUT)
    # A part of which nothing was read leaves no line.
    left = list(parts)
    for piece in found[:-1]:
        while not left[0].startswith(piece):
            left.pop(0)
        left.pop(0)
    assert found[-1] == parts[-1]
