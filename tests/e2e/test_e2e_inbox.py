"""The inbox: what is dropped becomes a sweep or gets its errors, once, whatever dies meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mesh import Mesh, NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_inbox")]

SIZE_100_MB = 100_000_000


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    mesh = new_module_mesh()
    mesh.start("n1")
    return mesh


def wait_accepted(mesh: Mesh, name: str) -> str:
    """The receipt of what was dropped as `name`."""
    receipt = mesh.wait_file(mesh.inbox / "accepted" / f"{name}.receipt.txt")
    mesh.wait_until(lambda: not (mesh.inbox / name).exists(), f"{name} is moved")
    assert (mesh.inbox / "accepted" / name).exists()
    return receipt.read_text()


def wait_rejected(mesh: Mesh, name: str) -> str:
    """The errors of what was dropped as `name`."""
    error = mesh.wait_file(mesh.inbox / "rejected" / f"{name}.error.txt")
    mesh.wait_until(lambda: not os.path.lexists(mesh.inbox / name), f"{name} is moved")
    assert os.path.lexists(mesh.inbox / "rejected" / name)
    return error.read_text()


def sweep_named(mesh: Mesh, name: str) -> list[Any]:
    return [row for row in mesh.rows("sweeps") if row["name"] == name]


def echo(name: str, cells: int = 1) -> str:
    return f"name: {name}\ncommand: echo {{number}}\nmatrix: {{number: {list(range(cells))}}}\n"


def test_a_dropped_file_is_accepted_with_a_receipt_and_runs(mesh: Mesh) -> None:
    mesh.drop(echo("dropped", 3), "dropped.yaml")
    receipt = wait_accepted(mesh, "dropped.yaml")
    (row,) = sweep_named(mesh, "dropped")
    assert row["sweep_id"] in receipt
    assert "jobs     3" in receipt
    assert str(mesh.results / "dropped") in receipt
    mesh.wait_jobs("dropped")


def test_p11_a_file_with_errors_is_rejected_with_all_of_them_and_their_lines(mesh: Mesh) -> None:
    mesh.drop(
        """name: wrong
base:
  participants: [w01, w02]
  model: cnn
  lerning_rate: 0.1
target:
  mode: full_fine_tuning
  participant: w02
matrix:
  target_batch_pct: [0.1, 1.5]
""",
        "wrong.yaml",
    )
    error = wait_rejected(mesh, "wrong.yaml")
    assert "3 problems" in error
    assert "line 5" in error
    assert "lerning_rate" in error
    assert "line 8" in error
    assert "w02" in error
    assert "line 10" in error
    assert "1.5" in error
    assert sweep_named(mesh, "wrong") == []


def test_a_dropped_folder_runs_with_its_code(mesh: Mesh, tmp_path: Path) -> None:
    folder = tmp_path / "with_code"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "words.txt").write_text("of the snapshot\n")
    (folder / "run.sh").write_text("cat src/words.txt; cp src/words.txt $1/copy\n")
    (folder / "sweep.yaml").write_text("name: with_code\ncode: .\ncommand: sh run.sh {output}\n")
    folder.rename(mesh.inbox / "with_code")
    wait_accepted(mesh, "with_code")
    mesh.wait_jobs("with_code")
    mesh.wait_log("with_code", b"of the snapshot\n")
    cells = mesh.results / "with_code"
    mesh.wait_until(lambda: list(cells.glob("*/copy")), "the result is laid out")


def test_relative_code_of_a_lone_file_is_refused(mesh: Mesh) -> None:
    mesh.drop("name: lone\ncode: .\ncommand: sh run.sh\n", "lone.yaml")
    error = wait_rejected(mesh, "lone.yaml")
    assert "drop a folder" in error
    assert sweep_named(mesh, "lone") == []


def test_p2_the_same_content_twice_is_one_sweep(mesh: Mesh) -> None:
    mesh.drop(echo("twice", 2), "twice.yaml")
    first = wait_accepted(mesh, "twice.yaml")
    mesh.wait_jobs("twice")
    mesh.drop(echo("twice", 2), "twice_again.yaml")
    again = wait_accepted(mesh, "twice_again.yaml")
    (row,) = sweep_named(mesh, "twice")
    assert row["sweep_id"] in first
    assert row["sweep_id"] in again
    assert "submitted before" in again
    assert [len(mesh.attempts(job["job_id"])) for job in mesh.jobs("twice")] == [1, 1]


def a_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere.yaml"
    target.write_text(echo("linked"))
    path.symlink_to(target)


def a_sparse_file(path: Path) -> None:
    hidden = path.parent / ".sparse"
    with hidden.open("wb") as file:
        file.truncate(SIZE_100_MB)
    hidden.rename(path)


def a_wrong_encoding(path: Path) -> None:
    path.write_bytes("name: größe\ncommand: 'true'\n".encode("latin-1"))


def another_wrong_encoding(path: Path) -> None:
    path.write_bytes("name: wide\ncommand: 'true'\n".encode("utf-16"))


def a_yaml_bomb(path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for name, of in zip("bcdefghij", "abcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{of}'] * 10)}]")
    path.write_text("\n".join(lines) + "\n")


def an_object_tag(path: Path) -> None:
    path.write_text("name: !!python/object/apply:os.system ['touch owned']\ncommand: 'true'\n")


def a_deep_nest(path: Path) -> None:
    path.write_text("matrix: " + "[" * 50_000)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def an_empty_folder(path: Path) -> None:
    path.mkdir()


def a_folder_with_a_link_out(path: Path) -> None:
    hidden = path.parent / ".linked"
    hidden.mkdir()
    (hidden / "sweep.yaml").write_text("name: leak\ncode: .\ncommand: cat secret\n")
    (hidden / "secret").symlink_to("/etc/passwd")
    hidden.rename(path)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (a_link, "is a link"),
        (a_sparse_file, "100.0 MB"),
        (a_wrong_encoding, "UTF-8"),
        (another_wrong_encoding, "UTF-16"),
        (a_yaml_bomb, "problem"),
        (an_object_tag, "tag"),
        (a_deep_nest, "problem"),
        (a_pipe, "no plain file"),
        (an_empty_folder, "no job file"),
        (a_folder_with_a_link_out, "secret"),
    ],
)
def test_p11_what_is_no_job_file_is_refused_and_the_master_goes_on(
    mesh: Mesh, make: Callable[[Path], None], told: str
) -> None:
    name = make.__name__ if "folder" in make.__name__ else f"{make.__name__}.yaml"
    make(mesh.inbox / name)
    assert told in wait_rejected(mesh, name)
    mesh.drop(echo(f"after_{make.__name__}"), f"after_{make.__name__}.yaml")
    wait_accepted(mesh, f"after_{make.__name__}.yaml")
    mesh.wait_jobs(f"after_{make.__name__}")


def test_p1_p2_a_master_killed_before_it_moves_an_accepted_file_takes_it_once(
    new_mesh: NewMesh,
) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    # The receipt can't get its name while a folder has it: the master comes no further than
    # between the commit and the move until it is killed there.
    receipt = mesh.inbox / "accepted" / "held.yaml.receipt.txt"
    receipt.mkdir()
    mesh.drop(echo("held", 3), "held.yaml")
    mesh.wait_until(lambda: sweep_named(mesh, "held"), "the sweep is acknowledged")
    mesh.kill("master")
    assert (mesh.inbox / "held.yaml").exists()
    receipt.rmdir()

    mesh.start_master()
    wait_accepted(mesh, "held.yaml")
    mesh.wait_connected("n1")
    mesh.wait_jobs("held")
    assert len(sweep_named(mesh, "held")) == 1
    assert [len(mesh.attempts(job["job_id"])) for job in mesh.jobs("held")] == [1, 1, 1]


def test_p1_p2_files_dropped_while_the_master_is_killed_again_and_again_run_once(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    names = [f"drop{number}" for number in range(12)]
    ran = tmp_path / "ran"
    text = "name: {0}\ncommand: echo {0} >> {1}\n"
    accepted = mesh.inbox / "accepted"
    for round_ in range(3):
        for name in names[round_ * 4 : round_ * 4 + 4]:
            mesh.drop(text.format(name, ran), f"{name}.yaml")
        enough = round_ * 5 + 1

        def taken(enough: int = enough) -> bool:
            return len(list(accepted.glob("*.receipt.txt"))) >= enough

        mesh.wait_until(taken, "some of the files are taken")
        mesh.kill("master")
        mesh.start_master()
    for name in names:
        wait_accepted(mesh, f"{name}.yaml")
    mesh.wait_connected("n1")
    for name in names:
        mesh.wait_jobs(name)
        assert len(sweep_named(mesh, name)) == 1
    assert sorted(ran.read_text().split()) == sorted(names)
    assert not list((mesh.inbox / "rejected").iterdir())


def test_a_file_that_is_still_written_is_left_alone(mesh: Mesh, tmp_path: Path) -> None:
    path = mesh.inbox / "slow.yaml"
    with path.open("w") as file:
        file.write("name: slow\n")
        file.flush()
        # A second file that is dropped later and taken shows that the first was looked at.
        mesh.drop(echo("quick"), "quick.yaml")
        wait_accepted(mesh, "quick.yaml")
        mesh.drop(echo("quicker"), "quicker.yaml")
        wait_accepted(mesh, "quicker.yaml")
        assert path.exists()
        assert sweep_named(mesh, "slow") == []
        file.write("command: echo done\n")
    wait_accepted(mesh, "slow.yaml")
    mesh.wait_jobs("slow")
    shutil.rmtree(tmp_path)
