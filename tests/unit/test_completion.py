"""Shell completion: the tables of the scripts, the scripts in their shells, and the live names."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_double import out, run

from meshtrain.cli.completion import Shell
from meshtrain.cli.completion_table import LIVE
from meshtrain.net.quick_question import ask_quickly

JOBS = (
    "few_shot/backbone=resnet50,\t8 jobs",
    "few_shot/backbone=resnet101,\t8 jobs",
    "few_shot/colon:a,fold=1\twaiting",
)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, and a meshtrain that notes what it is asked."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in Shell:
        (folder / f"completion.{shell}").write_text(out(None, "completion", shell))
    program = folder / "meshtrain"
    names = "\n".join(JOBS)
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/asked\n'
        "case $2 in node) printf 'gpu1\\tready\\ngpu2\\taway\\n';; "
        f"*) cat {folder}/names;; esac\n"
    )
    (folder / "names").write_text(names + "\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


Complete = Callable[[str], list[str]]


@pytest.fixture
def in_bash(scripts: Path, tmp_path: Path) -> Complete:
    """What bash would offer after a line: what stands in the place of the last word."""

    def complete(line: str) -> list[str]:
        code = (
            f"source {scripts}/completion.bash\n"
            'COMP_LINE="$LINE" COMP_POINT=${#LINE}\n'
            "_meshtrain\n"
            'printf "%s\\n" ${COMPREPLY[@]+"${COMPREPLY[@]}"}\n'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", code],
            env={**os.environ, "LINE": line.replace("meshtrain", str(scripts / "meshtrain"), 1)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split("\n")[:-1] if done.stdout.strip() else []

    return complete


def test_bash_offers_commands_and_options(in_bash: Complete) -> None:
    assert {"jobs", "join"} <= set(in_bash("meshtrain j"))
    assert in_bash("meshtrain nodes sh") == ["show"]
    assert "restore" in in_bash("meshtrain bases ")
    assert in_bash("meshtrain logs --fo") == ["--follow"]
    assert in_bash("meshtrain jobs --state fa") == ["failed"]
    assert in_bash("meshtrain completion ") == ["bash", "zsh", "fish"]
    assert in_bash("meshtrain token nothing ") == []


def test_bash_offers_live_names(in_bash: Complete, scripts: Path) -> None:
    (scripts / "asked").write_text("")
    assert in_bash("meshtrain drain ") == ["gpu1", "gpu2"]
    assert in_bash("meshtrain --master h:1 --home /x drain g") == ["gpu1", "gpu2"]
    assert in_bash("meshtrain bases pin --node gpu") == ["gpu1", "gpu2"]
    # For bash the last word begins after = and :, and is put in the place of that alone.
    assert in_bash("meshtrain logs -f few_shot/backbone=resnet1") == ["resnet101,"]
    assert in_bash("meshtrain logs few_shot/colon:") == ["a,fold=1"]
    assert in_bash("meshtrain cancel few_shot/x few_shot/b") == [
        "few_shot/backbone=resnet50,",
        "few_shot/backbone=resnet101,",
    ]
    assert (scripts / "asked").read_text().splitlines() == [
        "__names node ",
        "__names node g --master h:1 --home /x",
        "__names node gpu",
        "__names job few_shot/backbone=resnet1",
        "__names job few_shot/colon:",
        "__names any few_shot/b",
    ]


def test_bash_offers_files(in_bash: Complete, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").touch()
    (tmp_path / "scripts").mkdir()
    assert in_bash("meshtrain submit sw") == ["sweep.yaml"]
    assert in_bash("meshtrain --home s") == ["scripts"]
    assert in_bash("meshtrain results x --plot sw") == ["sweep.yaml"]


def test_fish_offers_the_same(scripts: Path, tmp_path: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    program = scripts / "meshtrain"

    def complete(line: str) -> list[str]:
        code = f"source {scripts}/completion.fish; complete -C '{line}'"
        done = subprocess.run(
            [fish, "--no-config", "-c", code],
            env={
                **os.environ,
                "PATH": f"{program.parent}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "XDG_DATA_HOME": str(tmp_path / "data"),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    assert {"jobs", "join"} <= set(complete("meshtrain j"))
    assert complete("meshtrain nodes sh") == ["show"]
    assert complete("meshtrain drain ") == ["gpu1", "gpu2"]
    assert complete("meshtrain jobs --state fa") == ["failed"]
    assert complete("meshtrain logs few_shot/backbone=resnet1") == ["few_shot/backbone=resnet101,"]
    (tmp_path / "sweep.yaml").touch()
    assert complete("meshtrain submit sw") == ["sweep.yaml"]


def test_zsh_offers_the_same(scripts: Path, tmp_path: Path) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    # Completion runs in an interactive shell alone: what it would show is caught instead.
    code = f"""
compadd() {{
    local last="$argv[-1]"
    if [[ "$argv[-2]" == -a ]]; then print -l -- "${{(@P)last}}"; else shift; print -l -- "$@"; fi
}}
_describe() {{ local last="$argv[-1]"; print -l -- "${{(@P)last}}"; }}
_files() {{ print files; }}
source {scripts}/completion.zsh
words=("$@") CURRENT=$# PREFIX="$argv[-1]"
_meshtrain
"""

    def complete(*words: str) -> list[str]:
        done = subprocess.run(
            [zsh, "-f", "-c", code, "zsh", str(scripts / "meshtrain"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert "jobs:List sweeps and their jobs" in complete("")
    assert any(line.startswith("show:") for line in complete("nodes", ""))
    assert complete("drain", "") == ["gpu1", "gpu2"]
    assert "failed" in complete("jobs", "--state", "")
    assert "few_shot/backbone=resnet101," in complete("logs", "-f", "few_shot/")
    assert complete("submit", "") == ["files"]


@pytest.mark.parametrize("shell", list(Shell))
def test_a_script_is_put_where_the_shell_looks(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    told = out(None, "completion", shell, "--install")
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    assert str(path) in told
    assert path.read_text() == out(None, "completion", shell)
    (tmp_path / "blocked").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "blocked"))
    result = run(None, "completion", shell, "--install")
    assert result.exit_code == 2
    assert "can't be written" in result.stderr


def test_each_kind_of_name_is_one_that_the_master_knows() -> None:
    from meshtrain_daemon.master.completing import _KINDS

    assert set(LIVE) == set(_KINDS)


def test_names_of_a_mesh_that_is_away_are_none_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "master.json").write_text("broken")
    code = (
        "import sys; sys.argv = ['meshtrain', '__names', 'job', 'few', *sys.argv[1:]]\n"
        "from meshtrain.security import where\n"
        # A mesh may run on this host, at the port that is asked where nothing else is known.
        "where.ADDRESS_DEFAULT = '127.0.0.1:9'\n"
        "from meshtrain.cli.entry import main\n"
        "main()\n"
        "heavy = {'typer', 'rich', 'cryptography', 'pydantic', 'zmq', 'meshtrain.wire.messages'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    for arguments in (["--master", "127.0.0.1:9"], ["--master", "no address"], []):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--home", str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr) == ("", "[]\n")


def test_nobody_is_asked_off_loopback_without_keys() -> None:
    from meshtrain.errors import SettingsError

    with pytest.raises(SettingsError):
        ask_quickly("192.0.2.1:7470", "names", ("job", ""), within_s=0.1)
