"""`meshtrain install --systemd` below a root of its own: what it puts there, and what it leaves."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from cli_double import out, run

from meshtrain.cli import install, unit_files
from meshtrain.cli.unit_files import Role, check_program, files_of, settings_text
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.spec.settings_loading import master_settings, worker_settings

UNITS = "usr/local/lib/systemd/system"


def put(root: Path, *arguments: str) -> str:
    program = root.parent / "meshtrain"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return out(
        None, "install", "--systemd", "--prefix", str(root), "--program", str(program), *arguments
    )


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def test_both_roles_are_put_in_place(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "--master", "--worker")
    found = tree(root)
    assert sorted(found) == [
        "etc/meshtrain/master.toml",
        "etc/meshtrain/worker.toml",
        "usr/local/lib/systemd/system/meshtrain-master.service",
        "usr/local/lib/systemd/system/meshtrain-worker.service",
        "usr/local/lib/systemd/system/meshtrain.target",
        "usr/local/lib/sysusers.d/meshtrain.conf",
        "usr/local/lib/tmpfiles.d/meshtrain-master.conf",
        "usr/local/lib/tmpfiles.d/meshtrain-worker.conf",
    ]
    for role in Role:
        unit = found[f"{UNITS}/meshtrain-{role}.service"]
        start = f"ExecStart={tmp_path}/meshtrain {role} --config /etc/meshtrain/{role}.toml"
        assert start in unit.splitlines()
        assert "@" not in re.sub(r"@[a-z-]+\b", "", unit)
    assert all((root / name).stat().st_mode & 0o777 == 0o644 for name in found)


def test_one_role_leaves_the_other_out(tmp_path: Path) -> None:
    put(tmp_path / "root", "--worker")
    assert not any("master" in name for name in tree(tmp_path / "root"))


def test_the_installed_settings_are_read_by_the_daemons(tmp_path: Path) -> None:
    put(tmp_path / "root", "--master", "--worker")
    settings = tmp_path / "root/etc/meshtrain"
    master = master_settings(settings / "master.toml")
    assert master.home == Path("/var/lib/meshtrain/master")
    worker = worker_settings(settings / "worker.toml")
    assert worker.home == Path("/var/lib/meshtrain/worker")
    assert worker.jobs_on_stop == "leave"
    assert master.secure is True


def test_running_it_again_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "--master", "--worker")
    before = tree(root)
    told = put(root, "--master", "--worker")
    assert tree(root) == before
    assert told.count("as it was") == len(before)


def test_edited_settings_stay_and_the_new_ones_lie_beside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "--worker")
    path = root / "etc/meshtrain/worker.toml"
    shipped = path.read_text()
    path.write_text('master = "10.0.0.1:7470"\n')
    assert "yours stays" in put(root, "--worker")
    assert path.read_text() == 'master = "10.0.0.1:7470"\n'
    assert path.with_name("worker.toml.new").read_text() == shipped


def test_an_old_unit_is_replaced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "--worker")
    unit = root / UNITS / "meshtrain-worker.service"
    shipped = unit.read_text()
    unit.write_text("[Service]\nExecStart=/old\n")
    assert f"{unit}  changed" in put(root, "--worker")
    assert unit.read_text() == shipped


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    told = put(root, "--master", "--dry-run")
    assert "meshtrain-master.service  new" in told
    assert not root.exists()


def test_uninstalling_one_role_keeps_what_the_other_needs(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, "--master", "--worker")
    put(root, "--master", "--uninstall")
    left = set(tree(root))
    assert f"{UNITS}/meshtrain-master.service" not in left
    assert {f"{UNITS}/meshtrain-worker.service", f"{UNITS}/meshtrain.target"} <= left
    assert "etc/meshtrain/master.toml" in left
    put(root, "--worker", "--uninstall")
    assert set(tree(root)) == {"etc/meshtrain/master.toml", "etc/meshtrain/worker.toml"}
    assert "meshtrain-worker" not in put(root, "--worker", "--uninstall").replace("meshtrain-*", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "say --systemd"),
        (["--systemd"], "--master, --worker, or both"),
        (["--systemd", "--worker", "--start", "--prefix", "/somewhere"], "on this host alone"),
        (["--systemd", "--worker", "--start", "--uninstall"], "on this host alone"),
    ],
)
def test_wrong_use_is_told_with_its_mend(arguments: list[str], told: str) -> None:
    result = run(None, "install", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_only_root_may_put_units_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(install, "check_program", lambda *args, **kwargs: None)
    written: list[object] = []
    monkeypatch.setattr(install, "carry_out", written.append)
    result = run(None, "install", "--systemd", "--worker")
    assert result.exit_code == 2
    assert "only root" in result.stderr
    assert written == []


def test_a_file_that_can_t_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/usr").write_text("in the way")
    with pytest.raises(AssertionError, match="can't be put in place"):
        put(tmp_path / "root", "--worker")


@pytest.mark.parametrize("name", ["mesh train", 'mesh"train', "mesh\ntrain"])
def test_a_path_that_would_break_the_unit_is_refused(tmp_path: Path, name: str) -> None:
    program = tmp_path / name
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(UserError, match="can't stand in a unit"):
        check_program(program, [Role.WORKER])


def test_p11_specifiers_in_a_path_stand_for_themselves(tmp_path: Path) -> None:
    """P11: a folder called %h is a folder called %h."""
    placed = {file.path: file.text for file in files_of([Role.WORKER], Path("/opt/%h/$x/mesh"))}
    assert "ExecStart=/opt/%%h/$$x/mesh worker" in placed[f"{UNITS}/meshtrain-worker.service"]


def test_a_program_that_units_can_t_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    program = closed / "meshtrain"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    closed.chmod(0o700)
    with pytest.raises(UserError, match="other users can't enter"):
        check_program(program, [Role.WORKER])
    monkeypatch.setattr(unit_files, "_HIDDEN_FROM_MASTER", (str(tmp_path),))
    with pytest.raises(UserError, match="ProtectHome"):
        check_program(program, [Role.MASTER])
    with pytest.raises(UserError, match="is no program"):
        check_program(tmp_path / "absent", [Role.WORKER])


def test_settings_without_a_home_line_are_refused() -> None:
    with pytest.raises(MeshtrainError, match="no line for `home`"):
        settings_text("# nothing\n", Role.MASTER)
    on = 'home = "/var/lib/meshtrain/master"\nsecure = true\n'
    assert settings_text('# home = "/x"\n# secure = false\n', Role.MASTER) == on
    assert settings_text('# home = "/x"\n', Role.MASTER) == on
