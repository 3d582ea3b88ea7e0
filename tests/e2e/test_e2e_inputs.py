"""Data sets are published once, travel once to each node, and are prepared once on each."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from mesh import Mesh, NewMesh

from meshtrain.artifacts.upload import upload_tree
from meshtrain.ids import new_id
from meshtrain.spec.inputs import prepared_key
from meshtrain.spec.jobs import CommandWork, InputData
from meshtrain.wire import messages as msg

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_inputs")]

# Jobs of a node wait for each other: both nodes must take some.
SWEEP = """
name: reads
inputs: {data: voc}
prepare:
  - echo prepares $MESHTRAIN_INPUT_DATA
  - tr a-z A-Z < {inputs.data}/words > {prepared}/loud
command: >-
  cat {prepared}/loud && test -n "$MESHTRAIN_PREPARED" && echo x >> %(mark)s/{i}
  && while [ $(ls %(mark)s | wc -l) -lt 2 ]; do sleep 0.02; done
matrix: {i: [0, 1, 2, 3, 4, 5]}
resources: {gpus: 0}
"""


def publish(mesh: Mesh, name: str, files: dict[str, bytes]) -> tuple[str, ...]:
    folder = mesh.folder / new_id("data")
    folder.mkdir()
    for relpath, content in files.items():
        (folder / relpath).write_bytes(content)
    url = f"http://127.0.0.1:{mesh.ports['http']}"
    artifact_id = asyncio.run(upload_tree(folder, url))
    return mesh.do(msg.PublishInput(new_id("publish"), name, artifact_id)).done


def prepared_on(mesh: Mesh, node: str) -> list[Path]:
    return sorted((mesh.folder / node / "prepared").glob("*/done"))


def wait_said(mesh: Mesh, name: str, said: bytes) -> bytes:
    """The log of a job, once it has these bytes; the last ones come after its end."""

    def log() -> bytes:
        size_bytes = mesh.rows("log", name, "log", limit=1)[0]["size_bytes"]
        found = mesh.log_bytes(name) if size_bytes else b""
        return found if said in found else b""

    return mesh.wait_until(log, f"the log of {name} has {said!r}")


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    """A node; the second one comes when the first holds a data set."""
    mesh = new_module_mesh()
    mesh.start("n1")
    return mesh


def test_p5_a_data_set_travels_once_to_each_node_and_is_prepared_once_there(mesh: Mesh) -> None:
    big = os.urandom(3 << 20)
    assert publish(mesh, "voc", {"words": b"shout\n", "big": big}) == ("voc@1",)
    feed = mesh.watch_feed()
    warm_up = "name: warm_up\ninputs: [voc]\ncommand: ls {inputs.voc}\nresources: {gpus: 0}\n"
    mesh.wait_jobs(mesh.submit(warm_up))
    mesh.start_worker("n2")
    mesh.wait_connected("n2")
    mark = mesh.folder / "mark"
    mark.mkdir()
    sweep = mesh.submit(SWEEP % {"mark": mark})
    rows = mesh.wait_jobs(sweep)

    assert {row["node_id"] for row in rows} == {"n1", "n2"}
    logs = [wait_said(mesh, row["name"], b"SHOUT\n") for row in rows]
    assert sum(b"prepares, once for this node" in log for log in logs) == 2
    assert [len(prepared_on(mesh, node)) for node in ("n1", "n2")] == [1, 1]
    (row,) = mesh.rows("inputs", "voc")
    assert row["reference"] == "voc@1"
    mesh.wait_until(lambda: len(feed.of(row["artifact_id"])) >= 2, "both transfers are told")
    moved = {one.to_node: one.bytes_by_node for one in feed.of(row["artifact_id"])}
    size_bytes = len(big) + len(b"shout\n")
    assert moved == {"n1": {"master": size_bytes}, "n2": {"n1": size_bytes}}
    assert len(feed.of(row["artifact_id"])) == 2
    assert set(row["holders"]) == {"n1", "n2", "master"}
    folders = [mesh.folder / node / "artifacts" / "artifacts" for node in ("n1", "n2")]
    assert all((folder / row["artifact_id"] / "files" / "big").stat().st_size for folder in folders)


def test_a_sweep_keeps_the_version_that_was_the_newest_when_it_was_submitted(mesh: Mesh) -> None:
    text = "name: %s\ninputs: [words]\ncommand: cat {inputs.words}/w\nresources: {gpus: 0}\n"
    publish(mesh, "words", {"w": b"one\n"})
    first = mesh.submit(text % "first")
    assert publish(mesh, "words", {"w": b"two\n"}) == ("words@2",)
    assert publish(mesh, "words", {"w": b"one\n"}) == ("words@1",)
    second = mesh.submit(text % "second")
    for sweep, said in ((first, b"one\n"), (second, b"two\n")):
        (row,) = mesh.wait_jobs(sweep)
        mesh.wait_log(row["name"], said)


def test_p11_a_data_set_that_is_not_there_is_told_and_nothing_starts(mesh: Mesh) -> None:
    publish(mesh, "pascal5i", {"w": b"1"})
    for reference, told in (
        ("pascal", 'did you mean "pascal5i"?'),
        ("pascal5i@7", "pascal5i has no version 7: it has version 1"),
    ):
        text = f"command: cat {{inputs.d}}\ninputs: {{d: {reference}}}\n".encode()
        done = mesh.ask(msg.Submit(new_id("r"), "x.yaml", text))
        assert told in done.error
    sent = {"pascal5i": InputData("pascal5i@1", "0" * 32)}
    done = mesh.ask(
        msg.Submit(new_id("r"), "x.yaml", b"command: x\ninputs: [pascal5i]\n", inputs=sent)
    )
    assert "is other data than what was sent" in done.error
    done = mesh.ask(msg.PublishInput(new_id("r"), "a/b", "0" * 32))
    assert "can't be called so" in done.error
    done = mesh.ask(msg.PublishInput(new_id("r"), "fine", "../../etc"))
    assert "didn't arrive whole" in done.error


def test_p8_a_preparation_that_is_cancelled_leaves_nothing_half_done(mesh: Mesh) -> None:
    started, may_end = mesh.folder / "started", mesh.folder / "may_end"
    text = f"""
name: slow
prepare:
  - echo half > {{prepared}}/half
  - touch {started}
  - while [ ! -e {may_end} ]; do sleep 0.02; done
  - mv {{prepared}}/half {{prepared}}/whole
command: cat {{prepared}}/whole
resources: {{gpus: 0}}
"""
    before = len(prepared_on(mesh, "n1") + prepared_on(mesh, "n2"))
    sweep = mesh.submit(text)
    mesh.wait_file(started)
    mesh.cancel(sweep)
    (row,) = mesh.wait_jobs(sweep, "cancelled")
    assert not mesh.jobs_processes(str(may_end)), "P8: nothing of it is left"
    assert len(prepared_on(mesh, "n1") + prepared_on(mesh, "n2")) == before
    may_end.touch()
    mesh.retry(sweep)
    mesh.wait_jobs(sweep)
    wait_said(mesh, row["name"], b"half\n")


def test_a_preparation_that_fails_fails_the_job_with_its_words(mesh: Mesh) -> None:
    text = """
name: broken
prepare: [echo "no such archive", exit 3]
command: "true"
resources: {gpus: 0}
"""
    (row,) = mesh.wait_jobs(mesh.submit(text), "failed")
    assert "user error" in row["failure"]
    assert "the preparation failed with exit code 3: no such archive" in row["failure"]
    wait_said(mesh, row["name"], b"no such archive\n")


def test_a_share_is_used_in_place_and_a_node_that_sees_other_files_is_told(mesh: Mesh) -> None:
    share = mesh.folder / "share"
    share.mkdir()
    (share / "w").write_bytes(b"here\n")
    gate = mesh.folder / "gate"
    text = f"""
name: %s
inputs: {{data: {{path: {share}}}}}
command: cat {{inputs.data}}/w && while [ ! -e {gate} ]; do sleep 0.02; done
matrix: {{i: [0, 1, 2]}}
resources: {{gpus: 0}}
"""
    sweep = mesh.submit(text % "shared")
    mesh.wait_until(
        lambda: [row["state"] for row in mesh.jobs(sweep)].count("running") == 2, "two run"
    )
    (share / "more").write_bytes(b"1")
    gate.touch()
    mesh.wait_until(
        lambda: all(row["state"] in ("succeeded", "failed") for row in mesh.jobs(sweep)), "all end"
    )
    states = sorted(row["state"] for row in mesh.jobs(sweep))
    assert states == ["failed", "succeeded", "succeeded"]
    (failed,) = [row for row in mesh.jobs(sweep) if row["state"] == "failed"]
    assert "no node has what the sweep was submitted with" in failed["failure"]
    assert f"{share} on n1 isn't what the sweep was submitted with" in failed["failure"]
    assert f"{share} on n2 isn't" in failed["failure"]
    mesh.wait_jobs(mesh.submit(text % "anew"))


def test_p7_a_preparation_outlives_its_daemon_and_its_job_is_the_next_one_s(mesh: Mesh) -> None:
    started, may_end = mesh.folder / "begun", mesh.folder / "may_go_on"
    lines = f"touch {started}\nwhile [ ! -e {may_end} ]; do sleep 0.02; done\ntouch {{prepared}}/x"
    text = f"""
name: outlives
prepare: |
  {lines.replace(chr(10), chr(10) + "  ")}
command: ls {{prepared}}
resources: {{gpus: 0}}
"""
    sweep = mesh.submit(text)
    mesh.wait_file(started)
    (row,) = mesh.jobs(sweep)
    node = row["node_id"]
    mesh.kill(node)
    mesh.start_worker(node)
    mesh.wait_connected(node)
    may_end.touch()
    (row,) = mesh.wait_jobs(sweep)
    assert len(mesh.attempts(row["name"])) == 1
    key = prepared_key(CommandWork("", prepare=lines + "\n"), None)
    assert (mesh.folder / node / "prepared" / key / "done").exists()


EXAMPLE = Path(__file__).parents[2] / "configs" / "examples" / "inputs"


def test_the_example_runs_as_it_is_dropped_into_the_inbox(mesh: Mesh) -> None:
    words = b"a node of the mesh\nthe mesh of a node and a node\n"
    publish(mesh, "texts", {"one.txt": words, "two.txt": b"base\n"})
    hidden = mesh.inbox / ".inputs"
    shutil.copytree(EXAMPLE, hidden)
    hidden.rename(mesh.inbox / "inputs")
    mesh.wait_file(mesh.inbox / "accepted" / "inputs.receipt.txt")
    rows = mesh.wait_jobs("inputs")
    metrics = {row["name"].rpartition("/")[2]: row["metrics"] for row in rows}
    assert metrics["word=node,neighbours=2"] == {"found": 3.0, "near": 0.0}
    assert metrics["word=node,neighbours=5"] == {"found": 3.0, "near": 1.0}
    assert metrics["word=base,neighbours=2"]["found"] == 1
