"""The scripts of `plan --split`, run for real: crashes, reruns, and what they bring home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meshtrain.cli.context import Cli
from meshtrain.cli.main import build
from meshtrain.cli.split import write_split
from meshtrain.net.base import MasterAwayError
from meshtrain.spec.expand import expand
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.stand_in import stand_in_digests

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_split")]

WAIT_S = 60.0

#: Fails where a file says so, waits where a file says so, else measures its own numbers.
CELL = """\
import json, os, pathlib, sys
x, fold, base, output = sys.argv[1:]
name = f"{x}-{fold}"
control = pathlib.Path(os.environ["CONTROL"])
with (control / "ran").open("a") as ran:
    ran.write(name + "\\n")
print("cell", name, os.environ.get("CUDA_VISIBLE_DEVICES"))
if (control / f"fail-{name}").exists():
    sys.exit(3)
if (control / f"wait-{name}").exists():
    pathlib.Path(output, "half").write_text("half of a result")
    (control / f"began-{name}").touch()
    os.read(os.open(control / "gate", os.O_RDONLY), 1)
weight = float(pathlib.Path(base, "weight").read_text())
pathlib.Path(output, "metrics.json").write_text(json.dumps({"score": weight * int(x) + int(fold)}))
"""
BASE = """\
import os, pathlib, sys
control = pathlib.Path(os.environ["CONTROL"])
with (control / "trained").open("a") as trained:
    trained.write("base\\n")
if (control / "fail-base").exists():
    sys.exit(4)
pathlib.Path(sys.argv[1], "weight").write_text("10")
"""
SWEEP = """\
name: tiny
code: .
base:
  command: python3 base.py {output}
  code: [base.py]
command: python3 cell.py {x} {fold} {base} {output}
matrix: {x: [1, 2], fold: [0, 1, 2, 3]}
results: {metric: score, over: fold}
"""


class Hosts:
    """A home with the job file and the scripts, and servers with the code and nothing else."""

    def __init__(self, folder: Path) -> None:
        # All that a shell could stumble over.
        self.code = folder / "a user's & (odd) $code"
        self.code.mkdir()
        self.control = folder / "control"
        self.control.mkdir()
        self.scripts = folder / "scripts"
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        os.mkfifo(self.control / "gate")
        for name, text in (("cell.py", CELL), ("base.py", BASE), ("tiny.yaml", SWEEP)):
            (self.code / name).write_text(text)

    def meshtrain(self, *arguments: str) -> str:
        def connect(way: Any, timeout_s: float) -> Any:
            raise MasterAwayError("no master is there, and none is needed")

        cli = Cli(master="127.0.0.1:7470", connect=connect)
        told = CliRunner().invoke(build(), list(arguments), obj=cli, prog_name="meshtrain")
        assert told.exit_code == 0, told.output + repr(told.exception)
        return told.stdout

    def split(self, parts: int, *arguments: str) -> list[str]:
        """Writes the scripts; their names."""
        options = ["--split", str(parts), "--out", str(self.scripts), *arguments, "--json"]
        document = json.loads(self.meshtrain("plan", str(self.code / "tiny.yaml"), *options))
        return [script["name"] for script in document["scripts"]]

    def start(self, script: str, results: Path, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["bash", str(self.scripts / script), "--results", str(results), *arguments],
            cwd=self.code,
            env={
                **os.environ,
                "CONTROL": str(self.control),
                "PYTHON": sys.executable,
                "OMP_NUM_THREADS": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def run(
        self,
        script: str,
        results: Path,
        *arguments: str,
        code: int = 0,
        wait_s: float = WAIT_S,
    ) -> str:
        process = self.start(script, results, *arguments)
        told, _ = process.communicate(timeout=wait_s)
        assert process.returncode == code, told
        return told

    def table(self, *folders: Path, options: tuple[str, ...] = ()) -> Any:
        brought = [word for folder in folders for word in ("--from", str(folder))]
        file = str(self.code / "tiny.yaml")
        return json.loads(self.meshtrain("results", file, *brought, *options, "--json"))["table"]

    def lines(self, name: str) -> list[str]:
        path = self.control / name
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=WAIT_S)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path)
    yield hosts
    hosts.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until_s, f"never: {what}"
        time.sleep(0.02)


def group_of(results: Path) -> int:
    """The process group of the cell that runs."""
    (told,) = results.glob(".*.pid")
    return int(told.read_text().split()[2].rstrip(":"))


def test_two_scripts_one_killed_in_the_middle_and_run_again_give_the_whole_table(
    hosts: Hosts,
) -> None:
    first, second = hosts.split(2, "--by", "x")
    one, two = hosts.folder / "gpu 1", hosts.folder / "gpu2"
    told = hosts.run(second, two, "--gpus", "1")
    assert "4 done, 0 there before, 0 failed, of 4" in told
    (hosts.control / "wait-1-2").touch()
    script = hosts.start(first, one, "--gpus", "0,3")
    wait_until((hosts.control / "began-1-2").exists, "the third cell runs")
    cells = {path.name: path for path in one.iterdir() if path.name.startswith("x=")}
    assert sorted(cells) == ["x=1,fold=0", "x=1,fold=1", "x=1,fold=2"]
    assert not (cells["x=1,fold=2"] / "exit_code").exists()
    table = hosts.table(one, two)
    assert [(row["n"], row["expected"]) for row in table["rows"]] == [(2, 4), (4, 4)]
    assert {cell["state"] for cell in table["rows"][0]["missing"]} == {"running", "missing"}

    # The power goes: script and cell are gone at once, half of a result lies there.
    group = group_of(one)
    script.kill()
    os.killpg(group, signal.SIGKILL)
    script.wait(timeout=WAIT_S)
    (hosts.control / "wait-1-2").unlink()
    told = hosts.run(first, one, "--gpus", "0,3")
    assert "2 done, 2 there before, 0 failed, of 4" in told
    assert not (cells["x=1,fold=2"] / "output" / "half").exists()
    assert hosts.lines("ran").count("1-0") == 1
    assert hosts.lines("ran").count("1-2") == 2
    assert hosts.lines("trained") == ["base", "base"], "once in each script that needs it"
    assert (cells["x=1,fold=0"] / "log").read_text() == "cell 1-0 0,3\n"
    assert json.loads((cells["x=1,fold=0"] / "cell.json").read_text())["cell"] == {
        "x": 1,
        "fold": 0,
    }
    table = hosts.table(one, two)
    assert [(row["axes"], row["mean"], row["n"]) for row in table["rows"]] == [
        ({"x": 1}, 11.5, 4),
        ({"x": 2}, 21.5, 4),
    ]
    assert all(row["missing"] == [] for row in table["rows"])


def test_a_script_that_is_asked_to_end_ends_its_cell_and_goes_on_later(hosts: Hosts) -> None:
    """P8: nothing is left of a cell whose script was ended."""
    (script,) = hosts.split(1)
    results = hosts.folder / "results"
    (hosts.control / "wait-1-1").touch()
    process = hosts.start(script, results)
    wait_until((hosts.control / "began-1-1").exists, "the second cell runs")
    group = group_of(results)
    second = hosts.run(script, results, code=2)
    assert "runs already" in second
    assert f"process group {group}" in second
    process.terminate()
    told, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 143
    assert "stopped; run it again to go on" in told
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    (hosts.control / "wait-1-1").unlink()
    assert "7 done, 1 there before" in hosts.run(script, results)


def test_a_cell_that_outlived_its_script_is_not_begun_twice(hosts: Hosts) -> None:
    (script,) = hosts.split(1)
    results = hosts.folder / "results"
    (hosts.control / "wait-1-0").touch()
    process = hosts.start(script, results)
    wait_until((hosts.control / "began-1-0").exists, "the first cell runs")
    group = group_of(results)
    process.kill()
    process.wait(timeout=WAIT_S)
    assert "a cell of an earlier run still does" in hosts.run(script, results, code=2)
    os.killpg(group, signal.SIGKILL)
    (hosts.control / "wait-1-0").unlink()
    lock = results / ".tiny-1-of-1.lock"
    wait_until(
        lambda: subprocess.run(["flock", "-n", lock, "true"], check=False).returncode == 0,
        "the lock is free",
    )
    assert "8 done, 0 there before" in hosts.run(script, results)


def test_what_fails_is_told_and_tried_again(hosts: Hosts) -> None:
    (script,) = hosts.split(1)
    results = hosts.folder / "results"
    (hosts.control / "fail-2-3").touch()
    told = hosts.run(script, results, code=1)
    assert "7 done, 0 there before, 1 failed, of 8" in told
    assert "tiny/x=2,fold=3: exit code 3, see" in told
    table = hosts.table(results)
    assert [cell["reason"] for row in table["rows"] for cell in row["missing"]] == ["exit code 3"]
    (hosts.control / "fail-2-3").unlink()
    assert "1 done, 7 there before, 0 failed" in hosts.run(script, results)
    assert (results / "x=2,fold=3" / "log.before").exists()


def test_a_base_that_fails_takes_its_cells_with_it_once(hosts: Hosts) -> None:
    (script,) = hosts.split(1)
    results = hosts.folder / "results"
    (hosts.control / "fail-base").touch()
    told = hosts.run(script, results, code=1)
    assert "0 done, 0 there before, 8 failed" in told
    assert (hosts.lines("trained"), hosts.lines("ran")) == (["base"], [])
    reasons = {c["reason"] for row in hosts.table(results)["rows"] for c in row["missing"]}
    assert reasons == {"base failed"}
    (hosts.control / "fail-base").unlink()
    assert "8 done" in hosts.run(script, results)


def test_a_base_that_is_there_is_not_trained(hosts: Hosts) -> None:
    (script,) = hosts.split(1)
    given = hosts.folder / "model"
    given.mkdir()
    (given / "weight").write_text("100")
    hosts.run(script, hosts.folder / "results", "--base", str(given))
    assert hosts.lines("trained") == []
    assert [row["mean"] for row in hosts.table(hosts.folder / "results")["rows"]] == [101.5, 201.5]
    wrong = hosts.run(script, hosts.folder / "r", "--base", f"ffff={given}", code=2)
    assert "no base of this script has the hash ffff" in wrong


def test_scripts_that_share_a_folder_of_results_train_the_base_once(hosts: Hosts) -> None:
    names = hosts.split(4)
    results = hosts.folder / "results"
    running = [hosts.start(name, results) for name in names]
    for process in running:
        told, _ = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, told
    assert hosts.lines("trained") == ["base"]
    assert sorted(hosts.lines("ran")) == sorted(f"{x}-{f}" for x in (1, 2) for f in range(4))
    assert [row["n"] for row in hosts.table(results)["rows"]] == [4, 4]


def test_results_of_another_sweep_are_not_mixed_with_these(hosts: Hosts) -> None:
    (script,) = hosts.split(1)
    results = hosts.folder / "results"
    results.mkdir()
    (results / "sweep.json").write_text('{"version":1,"sweep":"other","id":"other-1"}\n')
    assert "holds results of another sweep" in hosts.run(script, results, code=2)
    assert hosts.lines("ran") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--nonsense",), "what is --nonsense"),
        (("--gpus",), "--gpus needs a value"),
        (("--gpus", "0; rm"), "no list of GPUs"),
        (("--code", "/nowhere"), "no folder that can be entered"),
        (("--input", "data"), "write --input SOURCE=FOLDER"),
    ],
)
def test_wrong_use_of_a_script_starts_nothing(
    hosts: Hosts, arguments: tuple[str, ...], says: str
) -> None:
    (script,) = hosts.split(1)
    assert says in hosts.run(script, hosts.folder / "results", *arguments, code=2)
    assert hosts.lines("ran") == []


# --- what cells start from ---------------------------------------------------------------

PREPARED: dict[str, Any] = {
    "name": "tiny",
    "code": ".",
    "prepare": 'cp {inputs.data}/numbers {prepared}/list; echo once >> "$CONTROL/prepared"',
    "env": {"NOTE": "{prepared}/list of {x}"},
    "command": 'test "$NOTE" = {prepared}/list" of "{x} && test -d "$MESHTRAIN_INPUT_DATA" && '
    "python3 numbers.py {prepared}/list {output}",
    "matrix": {"x": [1, 2, 3, 4]},
}
NUMBERS = """\
import json, pathlib, sys
lines = pathlib.Path(sys.argv[1]).read_text().split()
pathlib.Path(sys.argv[2], "metrics.json").write_text(json.dumps({"lines": len(lines)}))
"""


def test_inputs_and_what_is_prepared_of_them(hosts: Hosts) -> None:
    share = hosts.folder / "it's a share"
    share.mkdir()
    (share / "numbers").write_text("1\n2\n3\n")
    document = {**PREPARED, "inputs": {"data": {"path": str(share)}}}
    (hosts.code / "tiny.yaml").write_text(json.dumps(document))
    (hosts.code / "numbers.py").write_text(NUMBERS)
    names = write_scripts(hosts)
    results = hosts.folder / "results"
    assert "4 done" in hosts.run(names[0], results)
    assert hosts.lines("prepared") == ["once"]
    elsewhere = hosts.folder / "elsewhere"
    share.rename(elsewhere)
    moved = hosts.folder / "moved"
    assert "is not there" in hosts.run(names[0], moved, code=2)
    option = f"{share}={elsewhere}"
    assert "4 done" in hosts.run(names[0], moved, "--input", option)
    table = hosts.table(moved)
    assert [row["mean"] for row in table["rows"]] == [3.0] * 4


def write_scripts(hosts: Hosts) -> list[str]:
    """The scripts of a sweep with inputs, without a master that knows what they hold."""
    job_file = parse_job_file((hosts.code / "tiny.yaml").read_bytes(), "tiny.yaml")
    sweep = expand(job_file, stand_in_digests(job_file))
    return [script.name for script in write_split(sweep, 1, (), hosts.scripts, "tiny.yaml")]


TRAINING = """\
name: tiny
base: {participants: [w01, w02], model: softmax, epochs: 1, lr: 0.01}
target: {mode: full_fine_tuning, participant: w07, epochs: 1}
results: {metric: accuracy}
"""


def test_built_in_training_runs_without_a_daemon(hosts: Hosts) -> None:
    pytest.importorskip("torch")
    (hosts.code / "tiny.yaml").write_text(TRAINING)
    (script,) = hosts.split(1)
    results = hosts.folder / "results"
    assert "1 done" in hosts.run(script, results, "--gpus", "", wait_s=2 * WAIT_S)
    (base,) = [path for path in (results / "bases").iterdir() if path.is_dir()]
    assert (base / "output" / "model.safetensors").exists()
    assert not list(results.rglob("checkpoint"))
    (row,) = hosts.table(results)["rows"]
    assert row["n"] == 1
    assert 0.2 < row["mean"] <= 1
