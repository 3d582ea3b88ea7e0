"""What programs read: `--json` on every command that prints facts, and errors as JSON too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cli_double import run
from master_double import MasterDouble, small_sweep

from meshtrain.cli.completion_table import Place, places
from meshtrain.cli.main import build, kind_of
from meshtrain.core.member import Member, MemberKind
from meshtrain.errors import NotFoundError, StoreError
from meshtrain.net.base import MasterAwayError
from meshtrain.wire import messages as msg

PRINTS_NO_FACTS = {
    "master": "a daemon",
    "worker": "a daemon",
    "top": "a dashboard",
    "completion": "prints a script",
    "schema": "prints JSON in any case",
    "record": "writes a recording",
}


def all_places() -> list[Place]:
    import typer

    group = typer.main.get_command(build())
    with group.make_context("meshtrain", ["jobs"]) as context:
        return list(places(group, context))


def test_every_command_that_prints_facts_prints_json() -> None:
    without = {
        place.path
        for place in all_places()
        if place.path
        and place.path not in PRINTS_NO_FACTS
        and "--json" not in [name for name, _ in place.options]
    }
    assert without == set()


DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def documented() -> dict[str, list[str]]:
    """The keys of each command's JSON, as the reference lists them."""
    found: dict[str, list[str]] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 2 and cells[0].startswith("`"):
            # What stands in brackets belongs to a key, and is none itself.
            keys = re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", cells[1]))
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = keys
    return found


def test_the_reference_lists_every_command_that_prints_json() -> None:
    ours = {
        place.path
        for place in all_places()
        if place.path and "--json" in [name for name, _ in place.options]
    }
    assert ours - set(documented()) == set()


@pytest.mark.parametrize(
    "command",
    [
        "jobs",
        "nodes",
        "nodes show gpu1",
        "nodes members",
        "bases",
        "bases log HASH",
        "bases pin HASH",
        "bases warm HASH --nodes 1",
        "bases rebuild HASH",
        "inputs",
        "drain gpu1",
        "token",
        "cancel mix",
        "retry mix",
        "why mix/share=0.1,fold=0",
        "results mix",
        "priority mix 3",
        "budget mix",
    ],
)
def test_what_is_printed_has_every_key_of_the_reference(command: str) -> None:
    master = MasterDouble()
    keys = {"curve_key": "", "sign_key": "", "cert_sha256": ""}
    master.members = (Member(name="ada", kind=MemberKind.PERSON, **keys),)
    master.add_node("gpu1")
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    master.request(msg.PublishInput("p", "voc", "0" * 32))
    arguments = command.replace("HASH", sweep.bases[0].recipe_hash).split()
    result = run(master, *arguments, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    path = max((path for path in documented() if f"{command} ".startswith(f"{path} ")), key=len)
    lacking = [
        key
        for key in documented()[path]
        if key not in (printed[0] if isinstance(printed, list) else printed)
    ]
    # One row of the reference tells of two commands that differ by the verb.
    assert [key for key in lacking if key != "unpinned"] == []


def error_of(result: Any) -> dict[str, Any]:
    document = json.loads(result.stdout)
    assert list(document) == ["error"]
    told: dict[str, Any] = document["error"]
    assert told["exit_code"] == result.exit_code
    assert told["message"] in result.stderr
    return told


def test_no_master_is_an_error_in_json() -> None:
    told = error_of(run(None, "jobs", "--json"))
    assert told["kind"] == "master_away"
    assert told["exit_code"] == 1


def test_a_name_that_names_nothing_is_an_error_in_json() -> None:
    told = error_of(run(MasterDouble(), "cancel", "nothing", "--json"))
    assert (told["kind"], told["exit_code"]) == ("user", 2)
    assert "nothing" in told["message"]


def test_wrong_use_is_an_error_in_json() -> None:
    for arguments in (("jobs", "--nothing", "--json"), ("--nothing", "jobs", "--json")):
        told = error_of(run(MasterDouble(), *arguments))
        assert (told["kind"], told["exit_code"]) == ("usage", 2)


def test_each_problem_of_a_job_file_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: a\ncommand: 'true'\nmatrx: {a: [1]}\nretries_max: many\n")
    told = error_of(run(MasterDouble(), "submit", str(path), "--json"))
    assert told["kind"] == "job_file"
    lines = {problem["line"]: problem["where"] for problem in told["problems"]}
    assert lines[3] == "matrx"


def test_without_json_nothing_is_on_stdout() -> None:
    assert run(None, "jobs").stdout == ""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFoundError("x"), "not_found"),
        (StoreError("x"), "store"),
        (MasterAwayError("x"), "master_away"),
    ],
)
def test_the_kinds_of_errors(error: Any, kind: str) -> None:
    assert kind_of(error) == kind


def test_what_changes_the_mesh_says_so_in_json() -> None:
    master = MasterDouble()
    master.add_node("gpu1")
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    recipe_hash = sweep.bases[0].recipe_hash
    short = recipe_hash[:8]

    def document(*arguments: str) -> Any:
        result = run(master, *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert document("drain", "gpu1", "--within", "10m") == {
        "node": "gpu1",
        "drained": True,
        "within_s": 600.0,
        "running_count": 0,
    }
    assert document("drain", "gpu1", "--undo")["drained"] is False
    pinned = document("bases", "pin", short, "--node", "gpu1")
    assert (pinned["pinned"], pinned["node"]) == ([recipe_hash], "gpu1")
    assert document("bases", "unpin", short)["unpinned"] == [recipe_hash]
    assert document("bases", "warm", short, "--nodes", "1")["nodes"] == 1
    assert document("bases", "rebuild", short)["rebuilt"] == [recipe_hash]
    told = error_of(run(master, "nodes", "release", "gpu1", "--json"))
    assert told["message"] == "no GPU of gpu1 is out of use"
