"""The step in front of a job: one prepares, others wait, a crash leaves nothing half done."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest

from meshtrain_daemon.worker import prepare_step
from meshtrain_daemon.worker.preparation import Prepared, write_request

KEY = "ab" * 16
WAIT_S = 20.0


class Place:
    """A node's folder of preparations, and attempts that need the same one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prepared = Prepared(root / "prepared", 1 << 30)
        self.prepared.take(KEY)
        self.tree = Path(self.prepared.tree(KEY))
        self.log = root / "log"
        self.log.touch()
        self.attempts = 0

    def start(
        self,
        lines: str,
        *job: str,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """An attempt as its shim starts it: in a session of its own, its log for both outputs."""
        self.attempts += 1
        argv = write_request(
            str(self.root / f"prepare-{self.attempts}.json"),
            folder=self.prepared.folder(KEY),
            lines=lines,
            written=lines,
            cwd=cwd,
            argv=job or ("/bin/true",),
            env=env or {},
            log=str(self.log),
        )
        with self.log.open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def run(
        self,
        lines: str,
        *job: str,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
    ) -> int:
        return self.start(lines, *job, env=env, cwd=cwd).wait(WAIT_S)

    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_was_prepared_is_there_for_the_next_which_prepares_nothing(place: Place) -> None:
    assert place.run(f"echo made > {place.tree}/x", "/bin/cat", f"{place.tree}/x") == 0
    assert place.run("exit 9", "/bin/echo", "second") == 0
    said = place.said()
    assert said.count("prepares, once for this node") == 1
    assert "prepared 1 file of 5 B in " in said
    assert said.splitlines()[-2:] == ["made", "second"]
    assert place.prepared.is_done(KEY)


def test_the_job_takes_the_place_of_the_step_with_its_own_environment(place: Place) -> None:
    job = ("sh", "-c", "echo $PPID-$$ $A $IGNORED; kill -PIPE $$; echo not reached")
    process = place.start("test -z $A", *job, env={"A": "job's"})
    assert process.wait(WAIT_S) == -signal.SIGPIPE, "Python ignores it, and a job must not"
    assert f"{os.getpid()}-{process.pid} job's" in place.said()
    assert "not reached" not in place.said()


def test_the_lines_run_in_the_code_or_in_the_tree(place: Place, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    assert place.run("pwd; touch here", cwd=None) == 0
    assert f"{place.tree}\n" in place.said()
    assert (place.tree / "here").exists()
    place.prepared.trim(tuple)
    other = Place(tmp_path / "other")
    assert other.run("pwd", cwd=str(code)) == 0
    assert f"{code}\n" in other.said()


def test_a_failure_ends_the_job_with_its_code_and_its_last_words(place: Place) -> None:
    assert place.run("echo one > x; echo no archive; exit 3", "/bin/echo", "job") == 3
    last = place.said().splitlines()[-1]
    assert last == "meshtrain: the preparation failed with exit code 3: no archive"
    assert last.startswith(prepare_step.FAILED_WORDS)
    assert not place.tree.exists()
    assert place.run("kill -KILL $$") == 137
    assert place.run("echo well > x") == 0, "it is tried again"


def test_of_two_at_once_one_prepares_and_the_other_waits(place: Place) -> None:
    gate = place.root / "gate"
    os.mkfifo(gate)
    lines = f"echo began; read line < {gate}; echo x >> count"
    processes = [place.start(lines, "/bin/cat", f"{place.tree}/count") for _ in range(3)]
    # Opened by whoever prepares: then the others wait, or will.
    gate.write_text("go\n")
    assert [process.wait(WAIT_S) for process in processes] == [0, 0, 0]
    assert (place.tree / "count").read_text() == "x\n"
    assert place.said().count("began\n") == 1


def test_one_that_is_killed_leaves_nothing_half_done_and_no_lock(place: Place) -> None:
    gate = place.root / "gate"
    os.mkfifo(gate)
    process = place.start(f"echo half > half; echo here > {gate}; read line < {gate}")
    assert gate.read_text() == "here\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(WAIT_S)
    assert (place.tree / "half").exists()
    assert not place.prepared.is_done(KEY)
    assert place.run("test ! -e half && echo whole > whole") == 0
    assert sorted(path.name for path in place.tree.iterdir()) == ["whole"]


def test_while_anything_of_a_preparation_lives_nobody_else_begins(place: Place) -> None:
    """Its step alone is killed: what it had started still writes."""
    gate = place.root / "gate"
    os.mkfifo(gate)
    process = place.start(f"echo here > {gate}; read line < {gate}; echo late > late")
    assert gate.read_text() == "here\n"
    process.kill()
    process.wait(WAIT_S)
    second = place.start("test ! -e late && echo mine > mine")
    gate.write_text("go on\n")
    assert second.wait(WAIT_S) == 0
    assert sorted(path.name for path in place.tree.iterdir()) == ["mine"]


def test_what_it_leaves_running_after_it_ended_well_locks_nobody_out(place: Place) -> None:
    gate = place.root / "gate"
    os.mkfifo(gate)
    assert place.run(f"(read line < {gate}) > /dev/null 2>&1 & echo x > x") == 0
    (Path(place.prepared.folder(KEY)) / "done").unlink()
    assert place.run("echo y > y") == 0
    gate.write_text("end\n")


def test_the_tree_is_read_only_and_links_are_left_alone(place: Place) -> None:
    outside = place.root / "outside"
    outside.write_text("x")
    mode = outside.stat().st_mode
    lines = f"mkdir bin; echo x > bin/run; chmod 755 bin/run; ln -s {outside} link"
    assert place.run(lines) == 0
    for path in (place.tree, place.tree / "bin", place.tree / "bin" / "run"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o222
    assert (place.tree / "bin" / "run").stat().st_mode & stat.S_IXUSR
    assert outside.stat().st_mode == mode
    assert place.prepared.trim(tuple) == []
    assert Prepared(place.root / "prepared", 0).trim(tuple) == [KEY]
    assert outside.exists()
    assert not Path(place.prepared.folder(KEY)).exists()


def test_a_job_that_is_no_program_is_told_and_a_script_without_interpreter_runs(
    place: Place,
) -> None:
    assert place.run("true", "no-such-program") == 127
    assert "can't run no-such-program: No such file" in place.said()
    script = place.root / "script"
    script.write_text("echo $1\n")
    script.chmod(0o755)
    assert place.run("true", str(script), "as a shell runs it") == 0
    assert place.said().endswith("as a shell runs it\n")
    script.chmod(0o644)
    assert place.run("true", str(script)) == 126


def test_p12_a_folder_that_can_not_be_written_is_told_in_the_words_of_the_system(
    place: Place,
) -> None:
    folder = Path(place.prepared.folder(KEY))
    folder.rmdir()
    assert place.run("true") == 1
    assert "can't prepare" in place.said()
    assert place.said().endswith("No such file or directory\n")


def test_p11_text_that_no_file_can_get_is_refused(place: Place) -> None:
    with pytest.raises(ValueError):
        place.run("echo \ud800")


def test_what_is_shown_of_many_lines_is_short(place: Place) -> None:
    assert place.run("set -e\necho one\necho two\n") == 0
    assert "prepares, once for this node: echo one …\n" in place.said()
    request = msgspec.json.decode((place.root / "prepare-1.json").read_bytes())
    assert request["command"] == "set -e\necho one\necho two\n"
