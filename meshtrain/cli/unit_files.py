"""Which files meshtrain has on a host with systemd: where each goes, and what it holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec

import meshtrain
from meshtrain.errors import UserError


class Role(StrEnum):
    MASTER = "master"
    WORKER = "worker"


UNITS = "usr/local/lib/systemd/system"
"""Where units of what isn't a package of the system go; `systemctl edit` lays its own over them."""
SYSUSERS = "usr/local/lib/sysusers.d"
TMPFILES = "usr/local/lib/tmpfiles.d"
SETTINGS = "etc/meshtrain"
STATE = "var/lib/meshtrain"
SWITCHED_ON = {Role.MASTER: "secure = true", Role.WORKER: 'jobs_on_stop = "leave"'}
"""What keeps strangers out, and jobs over a restart: in plain sight in an installed file."""
PROGRAM_MARK = "@MESHTRAIN@"
_HIDDEN_FROM_MASTER = ("/home", "/root", "/run/user")
"""Folders that the master's unit can't see (ProtectHome)."""
_UNFIT_FOR_UNITS = re.compile(r"[\x00-\x1f\x7f\"'\\]")


class Placed(msgspec.Struct, frozen=True):
    """One file of an installation."""

    path: str
    """Below the root of the host."""
    text: str
    edited_by_people: bool = False
    """Then what lies there stays, and a new version is put beside it."""


def service(role: Role) -> str:
    """The name of a role's unit."""
    return f"meshtrain-{role}.service"


def files_of(roles: Iterable[Role], program: Path) -> list[Placed]:
    """All files of an installation.

    Args:
        program: the `meshtrain` that the units start; see `check_program`.
    """
    units = _shipped("systemd")
    settings = _shipped("configs")
    placed = [
        Placed(f"{UNITS}/meshtrain.target", _text(units / "meshtrain.target")),
        Placed(f"{SYSUSERS}/meshtrain.conf", _text(units / "meshtrain.sysusers.conf")),
    ]
    for role in roles:
        unit = _text(units / service(role))
        unit = unit.replace(PROGRAM_MARK, str(program).replace("%", "%%").replace("$", "$$"))
        folders = _text(units / f"meshtrain-{role}.tmpfiles.conf")
        placed += [
            Placed(f"{UNITS}/{service(role)}", unit),
            Placed(f"{TMPFILES}/meshtrain-{role}.conf", folders),
            Placed(
                f"{SETTINGS}/{role}.toml",
                settings_text(_text(settings / f"{role}.toml"), role),
                edited_by_people=True,
            ),
        ]
    return placed


def settings_text(template: str, role: Role) -> str:
    """The settings file of an installed daemon: every default as a comment, and its home.

    Raises UserError when the template has no line for the home.
    """
    home = f'home = "/{STATE}/{role}"'
    text, found = re.subn(r"(?m)^# home = .*$", lambda _: home, template, count=1)
    if not found:
        raise UserError(f"the shipped {role}.toml has no line for `home`: install meshtrain anew")
    line = SWITCHED_ON[role]
    key = line.split(" = ")[0]
    commented = re.compile(rf"(?m)^# {key} = .*\n(# {key} = .*\n)*")
    if commented.search(text):
        return commented.sub(f"{line}\n", text, count=1)
    return text.replace(f"{home}\n", f"{home}\n{line}\n", 1)


def check_program(program: Path, roles: Iterable[Role], *, also: Iterable[Path] = ()) -> None:
    """Raises UserError, with the mend, when units can't start the program.

    Args:
        also: what the program needs besides itself: its interpreter, its packages.
    """
    if not program.is_absolute() or _UNFIT_FOR_UNITS.search(str(program)) or " " in str(program):
        raise UserError(
            f"{program} can't stand in a unit: give the full path of meshtrain with --program, "
            "without blanks and quotes"
        )
    if not os.access(program, os.X_OK) or not program.is_file():
        raise UserError(f"{program} is no program: give the path of meshtrain with --program")
    for path in (program, *also):
        reason = _out_of_reach(path, roles)
        if reason:
            raise UserError(
                f"the units can't start {program}: {path} {reason}. Install meshtrain where "
                "every user may read it, and install from there (in a clone of its repository):\n"
                "  python3 -m venv /opt/meshtrain\n"
                "  /opt/meshtrain/bin/pip install -c constraints.txt '.[train,gpu,plots]'\n"
                "  /opt/meshtrain/bin/meshtrain install --systemd …"
            )


def _out_of_reach(path: Path, roles: Iterable[Role]) -> str:
    path = path.resolve()
    if Role.MASTER in roles:
        for hidden in _HIDDEN_FROM_MASTER:
            if path.is_relative_to(hidden):
                return f"lies below {hidden}, which the master's unit can't see (ProtectHome)"
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 0o001 and folder.is_dir():
            return f"lies below {folder}, which other users can't enter"
    return ""


def _shipped(folder: str) -> Path:
    """What comes with meshtrain: installed beside the package, or in the checkout."""
    package = Path(meshtrain.__file__).parent
    for place in (package / folder, package.parent / folder):
        if place.is_dir():
            return place
    raise UserError(f"this installation of meshtrain lacks its {folder}: install it anew")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
