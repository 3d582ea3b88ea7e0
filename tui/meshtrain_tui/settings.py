"""The settings of the dashboard: what somebody likes to see, and which keys they press.

`$XDG_CONFIG_HOME/meshtrain/top.yaml`, or a file named with --settings; .yaml,
.toml and .json are read. Every value has a default, so that no file is needed:

    theme: light            dark, light, contrast, or one of Textual's own themes
    density: compact        compact, normal or wide
    readonly: true          no action is offered
    keys:                   action: key, or several with commas
      jobs.cancel: ctrl+k
      screen.filter: F, slash
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from meshtrain.errors import SettingsError
from meshtrain.spec.problems import JobFileError, Places, hint, shown
from meshtrain.spec.reader import read

FILE_SIZE_MAX_BYTES = 64_000
KEYS_MAX = 200


class Density(StrEnum):
    """How much is put on the screen."""

    COMPACT = "compact"
    NORMAL = "normal"
    WIDE = "wide"


def _check_theme(value: object) -> str:
    if isinstance(value, str) and 0 < len(value) <= 64:
        return value
    raise ValueError(f"{shown(value)} is no name of a theme")


def _check_density(value: object) -> Density:
    try:
        return Density(str(value))
    except ValueError:
        words = ", ".join(Density)
        raise ValueError(f"{shown(value)} is none of {words}{hint(str(value), Density)}") from None


def _check_readonly(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {shown(value)}")


def _check_keys(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > KEYS_MAX:
        raise ValueError(f"expected at most {KEYS_MAX} lines `action: key`, got {shown(value)}")
    for action, keys in value.items():
        if not isinstance(action, str) or not isinstance(keys, str):
            raise ValueError(
                f'{shown(action)}: {shown(keys)} is no key; write it in quotes, such as "5"'
            )
    return dict(value)


class TopSettings(BaseModel):
    """What somebody likes to see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    theme: Annotated[str, BeforeValidator(_check_theme)] = "dark"
    density: Annotated[Density, BeforeValidator(_check_density)] = Density.NORMAL
    readonly: Annotated[bool, BeforeValidator(_check_readonly)] = False
    keys: Annotated[Mapping[str, str], BeforeValidator(_check_keys)] = Field(default_factory=dict)


def default_file() -> Path:
    """`$XDG_CONFIG_HOME/meshtrain/top.yaml`, or `~/.config/meshtrain/top.yaml`."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG rules: a relative path there is to be ignored.
    root = Path(config) if config.startswith("/") else Path.home() / ".config"
    return root / "meshtrain" / "top.yaml"


def read_settings(named: Path | None = None) -> TopSettings:
    """The settings in the file that is named, which must be there, or in the default one.

    Raises SettingsError naming the file, the line, the setting and the mend.
    """
    file = default_file() if named is None else named.expanduser()
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_SIZE_MAX_BYTES + 1)
    except FileNotFoundError:
        if named is None:
            return TopSettings()
        raise SettingsError(f"{file} is not there. Check its path.") from None
    except OSError as error:
        raise SettingsError(f"{file} can't be read: {error.strerror}. Check its path.") from None
    if len(data) > FILE_SIZE_MAX_BYTES:
        raise SettingsError(f"{file} has more than {FILE_SIZE_MAX_BYTES:,} bytes: is it the one?")
    if not data.strip():
        return TopSettings()
    try:
        document = read(data, file.name)
    except JobFileError as error:
        raise SettingsError(_problems(file, error)) from None
    if document.problems:
        raise SettingsError(_problems(file, JobFileError(file.name, document.problems)))
    if not isinstance(document.tree, dict):
        raise SettingsError(f"{file}: expected lines `setting: value`, such as `theme: light`.")
    return _validated(document.tree, document.places, file)


def _problems(file: Path, error: JobFileError) -> str:
    lines = [
        f"{file}{f', line {problem.spot.line}' if problem.spot else ''}: {problem.text}"
        for problem in error.problems
    ]
    return "\n".join([*lines, "Mend the file and start again."])


def _validated(tree: dict[str, object], places: Places, file: Path) -> TopSettings:
    try:
        return TopSettings.model_validate(tree)
    except ValidationError as error:
        lines = []
        for details in error.errors(include_url=False):
            key = str(details["loc"][0]) if details["loc"] else ""
            place = places.get((key,))
            known = list(TopSettings.model_fields)
            if details["type"] == "extra_forbidden":
                what = f"unknown setting{hint(key, known) or '; known: ' + ', '.join(known)}"
            else:
                what = str(details.get("ctx", {}).get("error", details["msg"]))
            where = f", line {place.key.line}" if place else ""
            lines.append(f"{file}{where}: {key}: {what}")
        raise SettingsError("\n".join([*lines, "Mend the file and start again."])) from None
