"""`meshtrain install`: put the daemons' units, users, folders and settings on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

import meshtrain
from meshtrain.cli.output import print_json, say, tell
from meshtrain.cli.unit_files import (
    STATE,
    SYSUSERS,
    TMPFILES,
    UNITS,
    Placed,
    Role,
    check_program,
    files_of,
    service,
)
from meshtrain.errors import MeshtrainError, UserError

COMMAND_TIMEOUT_S = 1000
"""A daemon may take 15 minutes to get ready."""
TARGET = "meshtrain.target"


class Action(Enum):
    """What becomes of a file."""

    WRITE = "new"
    REPLACE = "changed"
    BESIDE = "yours stays; the shipped one is beside it"
    KEEP = "as it was"
    REMOVE = "removed"


class Step(msgspec.Struct, frozen=True):
    """One file, and what is done with it."""

    action: Action
    path: Path
    text: str = ""


def command(
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Units, users and folders for systemd.")
    ] = False,
    master: Annotated[bool, typer.Option("--master", help="The master runs here.")] = False,
    worker: Annotated[bool, typer.Option("--worker", help="A worker runs here.")] = False,
    start: Annotated[
        bool, typer.Option("--start", help="Also enable and start, or restart, the daemons.")
    ] = False,
    uninstall: Annotated[
        bool, typer.Option("--uninstall", help="Stop them and remove it; state stays.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    prefix: Annotated[
        Path, typer.Option(metavar="DIR", help="Another root to put files below.")
    ] = Path("/"),
    program: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The meshtrain that the units start.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was done as JSON; the rest goes to stderr.")
    ] = False,
) -> None:
    """Put a master, a worker or both under systemd. Run again after an upgrade.

    Settings that were edited are never overwritten. Without --start it ends with
    the commands that remain to be run.

    \b
    Examples:
      meshtrain install --systemd --worker --start
      meshtrain install --systemd --master --dry-run
      meshtrain install --systemd --worker --uninstall
    """
    roles = [role for role, asked in ((Role.MASTER, master), (Role.WORKER, worker)) if asked]
    if not systemd:
        raise UserError("say --systemd: nothing else can be installed")
    if not roles:
        raise UserError("say what this host is: --master, --worker, or both")
    prefix = prefix.absolute()
    here = prefix == Path("/")
    if start and (uninstall or not here):
        raise UserError("--start goes with installing on this host alone")
    if sys.platform != "linux":
        raise UserError("systemd is on Linux alone: run meshtrain master by hand here")
    program = (program or own_program()).absolute()
    if not uninstall and here:
        interpreter = Path(sys.executable).resolve()
        check_program(program, roles, also=(interpreter, Path(meshtrain.__file__)))
    if here and not dry_run and os.geteuid() != 0:
        raise UserError("only root may put units in place: run it with sudo, or try --dry-run")
    work = _uninstallation(prefix, roles) if uninstall else _installation(prefix, roles, program)
    told = tell if as_json else say
    for line in work.before if here else []:
        _run(line, told, really=not dry_run)
    for step in work.steps:
        told(f"{step.path}  {step.action.value}")
        if not dry_run:
            carry_out(step)
    for line in work.after if here else []:
        _run(line, told, really=not dry_run)
    if start:
        for line in work.start:
            _run(line, told, really=not dry_run)
    elif here and work.start:
        told("\nThen run:")
        for line in work.start:
            told("  " + " ".join(line))
        told(f"\nSettings: /etc/meshtrain. How this host does: meshtrain doctor --as {roles[0]}")
    if uninstall:
        told(
            f"\nSettings and state stay: /etc/meshtrain, /{STATE}, /var/cache/meshtrain, the users"
        )
    if as_json:
        print_json(
            {
                "files": [
                    {"path": str(step.path), "action": step.action.name.lower()}
                    for step in work.steps
                ],
                "then_run": [] if start or not here else work.start,
                "dry_run": dry_run,
            }
        )


def own_program() -> Path:
    """The `meshtrain` that belongs to this interpreter, else the one on the path.

    Raises UserError when there is none.
    """
    beside = Path(sys.executable).with_name("meshtrain")
    if beside.is_file():
        return beside
    found = shutil.which("meshtrain")
    if found is None:
        raise UserError("no program meshtrain is on the path: name it with --program")
    return Path(found)


_Commands = list[list[str]]


class _Work(NamedTuple):
    steps: list[Step]
    before: _Commands
    after: _Commands
    start: _Commands
    """What people may want to do themselves, after a look at the settings."""


def _installation(prefix: Path, roles: Sequence[Role], program: Path) -> _Work:
    steps = [step_for(prefix, placed) for placed in files_of(roles, program)]
    services = [service(role) for role in roles]
    folders = [f"/{TMPFILES}/meshtrain-{role}.conf" for role in roles]
    after = [
        ["systemd-sysusers", f"/{SYSUSERS}/meshtrain.conf"],
        ["systemd-tmpfiles", "--create", *folders],
    ]
    start = [
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", TARGET, *services],
        # Starts what is stopped, and has what runs use the newest version.
        ["systemctl", "restart", *services],
        # So that stopping the target stops them.
        ["systemctl", "start", TARGET],
    ]
    return _Work(steps, [], after, start)


def _uninstallation(prefix: Path, roles: Sequence[Role]) -> _Work:
    paths: list[str] = []
    for role in roles:
        paths += [f"{UNITS}/{service(role)}", f"{TMPFILES}/meshtrain-{role}.conf"]
    others = [role for role in Role if role not in roles]
    last = not any((prefix / UNITS / service(role)).exists() for role in others)
    units = [service(role) for role in roles]
    if last:
        paths += [f"{UNITS}/{TARGET}", f"{SYSUSERS}/meshtrain.conf"]
        units.append(TARGET)
    present = [prefix / path for path in paths if (prefix / path).exists()]
    steps = [Step(Action.REMOVE, path) for path in present]
    there = [unit for unit in units if (prefix / UNITS / unit).exists()]
    before = [["systemctl", "disable", "--now", *there]] if there else []
    return _Work(steps, before, [["systemctl", "daemon-reload"]], [])


def step_for(prefix: Path, placed: Placed) -> Step:
    """What is to be done so that a file is in place."""
    path = prefix / placed.path
    there = path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
    if there is None:
        return Step(Action.WRITE, path, placed.text)
    if there == placed.text:
        return Step(Action.KEEP, path)
    if not placed.edited_by_people:
        return Step(Action.REPLACE, path, placed.text)
    return Step(Action.BESIDE, path.with_name(path.name + ".new"), placed.text)


def carry_out(step: Step) -> None:
    """Does it; a file appears whole or not at all. Raises MeshtrainError when it can't."""
    try:
        if step.action is Action.REMOVE:
            step.path.unlink(missing_ok=True)
        elif step.action is not Action.KEEP:
            step.path.parent.mkdir(parents=True, exist_ok=True)
            written = step.path.with_name(f".{step.path.name}.{os.getpid()}")
            written.write_text(step.text, encoding="utf-8")
            # Whatever umask root has: everybody reads units and settings, no secret is in them.
            written.chmod(0o644)
            written.replace(step.path)
    except OSError as error:
        raise MeshtrainError(
            f"{step.path} can't be put in place: {error.strerror}. Mend that and run it again: "
            "what is done already is left as it is"
        ) from error


def _run(line: list[str], told: Callable[[str], None], *, really: bool) -> None:
    told("$ " + " ".join(line))
    if not really:
        return
    try:
        done = subprocess.run(line, check=False, timeout=COMMAND_TIMEOUT_S)
    except OSError as error:
        raise MeshtrainError(
            f"{line[0]} can't be run: {error.strerror}. Is this systemd?"
        ) from None
    except subprocess.TimeoutExpired:
        raise MeshtrainError(f"{' '.join(line)} takes more than {COMMAND_TIMEOUT_S} s") from None
    if done.returncode:
        raise MeshtrainError(
            f"{' '.join(line)} failed with exit code {done.returncode}. What went wrong stands "
            "above, and in: journalctl -u 'meshtrain-*' -n 50"
        )
