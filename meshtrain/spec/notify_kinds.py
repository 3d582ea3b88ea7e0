"""What may stand under `notify:` and in the settings of that, and what is kept of it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import msgspec

from meshtrain.spec.kinds import Kind
from meshtrain.spec.problems import hint, shown

URL_CHARS_MAX = 1000
_URL = re.compile(r"https?://[!-~]+\Z")


class Occasion(StrEnum):
    """What people are told of a sweep."""

    END = "end"
    """All its jobs have ended, however."""
    FAILURE = "failure"
    """They have, and some of them failed."""
    FIRST_FAILURE = "first_failure"
    """A job failed for good, the first one; others may still run."""


class NotifySpec(msgspec.Struct, frozen=True):
    """Who is told how a sweep goes, and of what."""

    on: tuple[str, ...] = ()
    """Of `Occasion`; none tells nobody, whatever the master's settings say."""
    command: str | None = None
    """The name of a command of the master's settings."""
    webhook: str | None = None
    secret: str | None = None
    """The name of a file below HOME/notify on the master's host."""


def _check_occasions(value: Any) -> tuple[str, ...]:
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a list of {', '.join(Occasion)}, got {shown(value)}")
    for word in words:
        if word and word not in tuple(Occasion):
            close = hint(word, tuple(Occasion))
            raise ValueError(f"{shown(word)} is not one of {', '.join(Occasion)}{close}")
    return tuple(dict.fromkeys(word for word in words if word))


def _check_webhook(value: Any) -> str:
    wanted = 'write "https://hooks.example.org/…"'
    if not isinstance(value, str) or len(value) > URL_CHARS_MAX or _URL.match(value) is None:
        raise ValueError(f"{shown(value)} is not a URL: {wanted}")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{shown(value)} is not a URL ({error}): {wanted}") from None
    if not parts.hostname or port == 0:
        raise ValueError(f"{shown(value)} names no host: {wanted}")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError(
            f"{shown(value)} holds a name, a password or a #: leave them out, and sign with a "
            "secret instead"
        )
    return value


OCCASIONS_KIND = Kind(
    ", ".join(Occasion),
    _check_occasions,
    {
        "anyOf": [
            {"enum": [str(occasion) for occasion in Occasion]},
            {"type": "array", "items": {"enum": [str(occasion) for occasion in Occasion]}},
        ]
    },
)
WEBHOOK = Kind("http or https URL", _check_webhook, {"type": "string", "pattern": "^https?://"})
