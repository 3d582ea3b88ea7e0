"""The master's settings of notifications: who is told of sweeps that don't say, and by what."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any

from pydantic import BaseModel, Field

from meshtrain.spec import kinds
from meshtrain.spec.kinds import Kind
from meshtrain.spec.notify_kinds import OCCASIONS_KIND, WEBHOOK
from meshtrain.spec.problems import shown

COMMANDS_MAX = 64
HOSTS_MAX = 64
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,252}[A-Za-z0-9])?\Z|::1\Z")


def _check_commands(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {key.strip(): text.strip() for key, _, text in pairs}
    if not isinstance(value, dict) or len(value) > COMMANDS_MAX:
        raise ValueError(
            f'expected at most {COMMANDS_MAX} commands, name = "program …"; got {shown(value)}'
        )
    for name, line in value.items():
        kinds.NAME.check(name)
        kinds.text("text", len_max=1000).check(line)
        try:
            program = shlex.split(line)[0]
        except (ValueError, IndexError):
            raise ValueError(f"{shown(line)} is no command: check its quotes") from None
        if not program.startswith("/"):
            raise ValueError(f"{shown(line)}: name the program by its absolute path")
    return dict(value)


def _check_hosts(value: Any) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or len(names) > HOSTS_MAX:
        raise ValueError(f"expected a list of at most {HOSTS_MAX} hosts, got {shown(value)}")
    for name in names:
        if not isinstance(name, str) or (name and _HOST.match(name) is None):
            raise ValueError(f"{shown(name)} is not a host name or an IP address")
    return tuple(dict.fromkeys(name.casefold() for name in names if name))


COMMANDS = Kind('name = "program …"', _check_commands, {"type": "object"})
HOSTS = Kind("list of hosts", _check_hosts, {"type": "array"})


class NotifySettings(BaseModel):
    """The part of the master's settings that is about notifications."""

    notify_on: Annotated[tuple[str, ...], OCCASIONS_KIND] = Field(
        ("end",),
        description="What is told of sweeps that don't say: end, failure, first_failure.",
    )
    notify_command: Annotated[str | None, kinds.NAME] = Field(
        None, description="Which of notify_commands is run for them; not given: none."
    )
    notify_webhook: Annotated[str | None, WEBHOOK] = Field(
        None, description="URL that gets a POST for them; not given: none."
    )
    notify_secret: Annotated[str | None, kinds.NAME] = Field(
        None, description="File below HOME/notify whose content signs that POST."
    )
    notify_commands: Annotated[dict[str, str], COMMANDS] = Field(
        default_factory=dict,
        description="Programs that notifications run on this host; job files name them, and "
        "bring none.",
    )
    notify_hosts: Annotated[tuple[str, ...], HOSTS] = Field(
        (),
        description="Hosts that webhooks reach although they are private, or by http; else public "
        "ones by https alone.",
    )
    notify_timeout_s: Annotated[float, kinds.number("seconds", 0, 3600, above=True)] = Field(
        20.0, description="Seconds that a notification may take, each time it is tried."
    )
    notify_tries_max: Annotated[int, kinds.whole("whole number, 1 to 20", 1, 20)] = Field(
        6, description="How often a notification is tried before it is given up."
    )
