"""A log that is followed by a real process, while its master is killed and started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gate import Gate
from mesh import Mesh, NewMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_follow")]

LINES = 2000


class Following:
    """`meshtrain logs -f` as a process of its own, its output in files."""

    def __init__(self, mesh: Mesh, job: str, folder: Path) -> None:
        self._out = folder / "followed"
        self._err = folder / "followed.err"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MESHTRAIN_")}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "meshtrain.cli"),
                    *("--home", str(mesh.home), "--timeout", "1", "logs", "-f", job),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=inherited,
            )

    @property
    def out(self) -> bytes:
        return self._out.read_bytes()

    @property
    def err(self) -> str:
        return self._err.read_text()


def test_P6_P7_a_log_is_followed_exactly_through_a_restart_of_the_master(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh()
    mesh.start("n1")
    before, during = Gate(tmp_path, "before"), Gate(tmp_path, "during")
    script = tmp_path / "talk.sh"
    script.write_text(
        f"seq -f 'first %.0f' {LINES}\n{before.wait_command}\n"
        f"seq -f 'meanwhile %.0f' {LINES}\n{during.wait_command}\n"
        f"seq -f 'last %.0f' {LINES}\n"
    )
    sweep = mesh.submit(f"name: talking\ncommand: sh {script}\n")
    (row,) = mesh.jobs(sweep)
    following = Following(mesh, row["name"], tmp_path)
    try:
        expected = _lines("first")
        mesh.wait_until(lambda: following.out == expected, "the first lines are followed")
        mesh.kill("master")
        mesh.wait_until(
            lambda: "doesn't answer: waiting for it" in following.err, "the follower waits"
        )
        # The job goes on while nobody can be told.
        before.open()
        mesh.wait_until(lambda: during.starts == 1, "the job has written more")
        assert following.process.poll() is None
        mesh.start_master()
        expected += _lines("meanwhile")
        mesh.wait_until(lambda: following.out == expected, "what came meanwhile is followed")
        assert "the master is back" in following.err
        during.open()
        expected += _lines("last")
        mesh.wait_until(lambda: following.process.poll() is not None, "the follower has ended")
    finally:
        following.process.kill()
        following.process.wait()
    assert following.out == expected
    assert following.process.returncode == 0
    told = following.err.splitlines()
    assert told[-1] == f"{row['name']} succeeded"
    assert sum("waiting for it" in line for line in told) == 1
    assert len(mesh.attempts(row["job_id"])) == 1


def _lines(word: str) -> bytes:
    return "".join(f"{word} {number}\n" for number in range(1, LINES + 1)).encode()
