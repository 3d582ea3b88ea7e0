"""Where settings come from: a TOML file, over it the environment, over that flags.

The environment variable of `lease_s` is `MESHTRAIN_LEASE_S`; lists and labels
are written there with commas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from meshtrain.errors import SettingsError
from meshtrain.spec.problems import JobFileError, Places, hint
from meshtrain.spec.reader import read
from meshtrain.spec.settings import MasterSettings, Settings, WorkerSettings

ENV_PREFIX = "MESHTRAIN_"

Model = TypeVar("Model", bound=Settings)


def load_settings(
    model: type[Model],
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Model:
    """Settings from `file`, over it `env`, over that `flags`.

    Args:
        file: a TOML file, or None.
        env: the process's environment; variables without MESHTRAIN_ are not looked at.
        flags: by setting name; None means that the flag wasn't given.

    Raises SettingsError naming the file and line, the variable or the flag, and the mend.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if file is not None:
        tree, places = _read_file(file)
        for key, value in tree.items():
            place = places.get((key,))
            values[key] = value
            origins[key] = f"{file}, line {place.key.line}" if place else str(file)
    for key in model.model_fields:
        variable = ENV_PREFIX + key.upper()
        written = (env or {}).get(variable)
        if written is not None and written != "":
            values[key] = _from_text(model, key, written)
            origins[key] = f"environment variable {variable}"
    for key, value in (flags or {}).items():
        if value is not None:
            values[key] = value
            origins[key] = f"flag --{key.replace('_', '-')}"
    settings = _validate(model, values, origins)
    _check_together(settings, origins)
    return settings


def _read_file(file: Path) -> tuple[dict[str, Any], Places]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SettingsError(f"{file} can't be read: {error.strerror}. Check its path.") from None
    if not data.strip():
        return {}, {}
    try:
        document = read(data, "settings.toml")
    except JobFileError as error:
        raise SettingsError(_file_problems(file, error)) from None
    if document.problems:
        raise SettingsError(_file_problems(file, JobFileError(str(file), document.problems)))
    return document.tree, document.places


def _file_problems(file: Path, error: JobFileError) -> str:
    lines = [
        f"{file}{f', line {problem.spot.line}' if problem.spot else ''}: {problem.text}"
        for problem in error.problems
    ]
    return "\n".join([*lines, "Mend the file and start again."])


def _from_text(model: type[Settings], key: str, written: str) -> Any:
    """A variable's text as the setting's own type; what doesn't fit stays text, and is told."""
    annotation = model.model_fields[key].annotation
    if annotation in (bool, bool | None):
        return {"true": True, "1": True, "false": False, "0": False}.get(written.lower(), written)
    parse: Callable[[str], Any] | None = {int: int, float: float}.get(annotation)  # type: ignore[arg-type]
    if parse is None or len(written) > 64:
        return written
    try:
        return parse(written)
    except ValueError:
        return written


def _validate(model: type[Model], values: dict[str, Any], origins: dict[str, str]) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for details in error.errors(include_url=False):
            key = str(details["loc"][0]) if details["loc"] else ""
            origin = origins.get(key, "settings")
            if details["type"] == "extra_forbidden":
                known = list(model.model_fields)
                what = f"unknown setting{hint(key, known) or '; known: ' + ', '.join(known)}"
            elif details["type"] == "value_error":
                what = str(details.get("ctx", {}).get("error", details["msg"]))
            else:
                what = details["msg"]
            lines.append(f"{origin}: {key}: {what}")
        raise SettingsError("\n".join([*lines, "Mend it and start again."])) from None


def _check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    if isinstance(settings, WorkerSettings) and settings.node_name == "master":
        origin = origins.get("node_name", "settings")
        raise SettingsError(f'{origin}: "master" is the master\'s own name. Give the node another.')
    if not isinstance(settings, MasterSettings):
        return
    if settings.heartbeat_s * 2 > settings.lease_s:
        origin = origins.get("lease_s") or origins.get("heartbeat_s") or "settings"
        raise SettingsError(
            f"{origin}: lease_s ({settings.lease_s:g} s) must be at least twice heartbeat_s "
            f"({settings.heartbeat_s:g} s), or one lost message loses a job. Raise lease_s."
        )
    ports = ["control_port", "bulk_port", "feed_port", "http_port"]
    if settings.secure and not settings.encrypt_artifacts:
        ports.append("enrol_port")
    taken: dict[int, str] = {}
    for name in ports:
        port = getattr(settings, name)
        if port and port in taken:
            origin = origins.get(name) or origins.get(taken[port]) or "settings"
            raise SettingsError(
                f"{origin}: {name} and {taken[port]} are both {port}. Give each its own port."
            )
        taken[port] = name


def master_settings(
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> MasterSettings:
    """The master's settings; see `load_settings`."""
    return load_settings(MasterSettings, file, env, flags)


def worker_settings(
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> WorkerSettings:
    """The worker's settings; see `load_settings`."""
    return load_settings(WorkerSettings, file, env, flags)
