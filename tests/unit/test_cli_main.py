"""The group of commands: help, exit codes, errors, and what is loaded when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from cli_double import cli_with, out, run
from master_double import MasterDouble
from typer.testing import CliRunner

import meshtrain
from meshtrain.cli.context import Cli, cli_from
from meshtrain.cli.main import COMMANDS, MeshGroup, as_command, build
from meshtrain.errors import StoreError, UserError
from meshtrain.security.way import ADDRESS_DEFAULT

OWN = [name for name, entry in COMMANDS.items() if entry.module and name != "demo"]


def test_version() -> None:
    assert out(None, "--version") == f"meshtrain {meshtrain.__version__}\n"


def test_help_lists_every_command_with_its_summary() -> None:
    text = out(None, "--help")
    for name in OWN:
        assert f"  {name} " in text
        assert COMMANDS[name].summary in text


@pytest.mark.parametrize("name", OWN)
def test_each_command_has_help_with_an_example(name: str) -> None:
    text = out(None, name, "--help")
    assert "Example" in text
    assert f"meshtrain {name}" in text


@pytest.mark.parametrize("name", OWN)
def test_help_fits_80_columns(name: str) -> None:
    assert max(map(len, out(None, name, "--help").splitlines())) <= 80


@pytest.mark.parametrize("name", OWN)
def test_options_are_told_in_the_words_of_people(name: str) -> None:
    """No `<int range>`: each option that takes a value says what it is."""
    options = out(None, name, "--help").partition("\nOptions:")[2].partition("\nCommands:")[0]
    assert "<" not in options.replace("<=x", "").replace("<=", "")


@pytest.mark.parametrize("name", ["bases", "nodes"])
def test_commands_of_a_command_are_told_in_full(name: str) -> None:
    text = out(None, name, "--help")
    assert "..." not in text.partition("\nCommands:")[2]


def test_a_number_that_is_none_is_told_plainly() -> None:
    result = run(None, "priority", "few_shot", "high")
    assert result.exit_code == 2
    assert "write a whole number" in result.stderr


def test_an_unknown_command_gets_a_hint() -> None:
    result = run(None, "jbos")
    assert result.exit_code == 2
    assert 'did you mean "jobs"?' in result.stderr


def test_wrong_use_exits_2() -> None:
    assert run(None).exit_code == 2
    assert run(None, "jobs", "--nothing").exit_code == 2
    assert run(None, "logs").exit_code == 2
    assert run(None, "--timeout", "-1", "jobs").exit_code == 2


def test_no_master_is_one_message_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHTRAIN_HOME", "")
    result = run(None, "jobs")
    assert result.exit_code == 1
    assert result.stderr == "no master answers at 127.0.0.1:7470\n"
    assert result.stdout == ""
    # A home that was given says more.
    missing = run(None, "--home", str(tmp_path / "hmoe"), "jobs")
    assert f"{tmp_path / 'hmoe'}, given as the home, is not there" in missing.stderr
    (tmp_path / "state").mkdir()
    stopped = run(None, "--home", str(tmp_path), "jobs")
    assert f"does not run: meshtrain master --home {tmp_path}" in stopped.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("what you wrote"), 2), (StoreError("what broke"), 1)]
)
def test_expected_errors_are_told_without_a_traceback(error: Exception, code: int) -> None:
    def command() -> None:
        raise error

    result = _run_alone(command)
    assert (result.exit_code, result.stderr) == (code, f"{error}\n")


def test_a_bug_keeps_its_traceback() -> None:
    def command() -> None:
        raise ZeroDivisionError

    assert isinstance(_run_alone(command).exception, ZeroDivisionError)


def test_a_reader_that_has_enough_is_no_failure() -> None:
    def command() -> None:
        raise BrokenPipeError

    assert _run_alone(command).exit_code == 0


def test_ctrl_c_exits_130() -> None:
    def command() -> None:
        raise KeyboardInterrupt

    assert _run_alone(command).exit_code == 130


def _run_alone(command: object) -> object:
    class Group(MeshGroup):
        def get_command(self, ctx: object, cmd_name: str) -> object:
            return as_command(cmd_name, command)

    app = typer.Typer(cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["anything"])


def test_commands_of_programs_are_plain_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "extra"

        def load(self) -> object:
            def command(number: int = 3) -> None:
                """Says a number. Example: meshtrain extra --number 4"""
                typer.echo(number)

            return command

    monkeypatch.setattr("meshtrain.cli.main._entry_points", lambda: {"extra": Entry()})
    assert out(None, "extra", "--number", "4") == "4\n"
    text = out(None, "--help")
    assert "Says a number." in text
    # Not installed here, so not offered.
    assert "  top " not in text
    result = run(None, "top")
    assert result.exit_code == 2
    assert "not installed" in result.stderr


def test_the_address_is_given_or_found_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHTRAIN_HOME", "")
    monkeypatch.setenv("MESHTRAIN_MASTER", "")
    assert Cli(master="127.0.0.1:1").address == "127.0.0.1:1"
    cli = cli_from(None, tmp_path, 1.0, None)
    assert cli.address == ADDRESS_DEFAULT
    (tmp_path / "master.json").write_text(json.dumps({"host": "127.0.0.1", "control": 5555}))
    assert cli.address == "127.0.0.1:5555"
    (tmp_path / "master.json").write_text(json.dumps({"host": "::1", "control": 5555}))
    assert cli.address == "[::1]:5555"
    (tmp_path / "master.json").write_text("broken")
    assert cli.address == ADDRESS_DEFAULT


def test_the_groups_options_reach_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    """They read their settings from the environment."""
    monkeypatch.setenv("MESHTRAIN_MASTER", "")
    monkeypatch.setenv("MESHTRAIN_HOME", "")
    seen = {}

    class Entry:
        def load(self) -> object:
            def command() -> None:
                import os

                seen.update(os.environ)

            return command

    monkeypatch.setattr("meshtrain.cli.main._entry_points", lambda: {"worker": Entry()})
    CliRunner().invoke(
        build(),
        ["--master", "127.0.0.1:9", "--home", "/srv/mesh", "worker"],
        obj=cli_with(MasterDouble()),
    )
    assert seen["MESHTRAIN_MASTER"] == "127.0.0.1:9"
    assert seen["MESHTRAIN_HOME"] == "/srv/mesh"


def test_simple_commands_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from meshtrain.cli.main import build\n"
        "try:\n    build()(['--help'], prog_name='meshtrain')\n"
        "except SystemExit:\n    pass\n"
        "import meshtrain.cli.jobs, meshtrain.cli.nodes, meshtrain.cli.logs, meshtrain.cli.bases\n"
        "import meshtrain.cli.cancel, meshtrain.cli.retry, meshtrain.cli.drain\n"
        "heavy = {'torch', 'textual', 'matplotlib', 'aiohttp', 'pydantic', 'numpy', 'ruamel'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
