"""Where results and bases are archived: a folder, or a URL that fsspec takes."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from meshtrain.spec import kinds
from meshtrain.spec.kinds import Kind
from meshtrain.spec.problems import shown

URL_LEN_MAX = 1024
LOCAL_PROTOCOLS = ("file", "local")

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)\Z", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


class ArchiveWhat(StrEnum):
    """What goes to the archive."""

    RESULTS = "results"
    BASES = "bases"
    BOTH = "both"

    @property
    def results(self) -> bool:
        return self is not ArchiveWhat.BASES

    @property
    def bases(self) -> bool:
        return self is not ArchiveWhat.RESULTS


def check_archive_url(value: Any) -> str:
    """The URL in the one form that an archive is known by: a folder is its absolute path.

    Raises ValueError with the mend; never shows a password that stands in the URL.
    """
    if not isinstance(value, str) or not value.strip() or len(value) > URL_LEN_MAX:
        raise ValueError(f"{shown(value)} is no URL: write s3://bucket/prefix or /mnt/share/mesh")
    if value.startswith(("/", "~")):
        return _folder(value)
    match = _URL.match(value)
    if match is None:
        raise ValueError(
            "it is no URL: write s3://bucket/prefix, file:///mnt/share/mesh or an absolute path"
        )
    protocol, rest = match[1], match[2]
    if "::" in value:
        raise ValueError("URLs joined by `::` are not taken: write the one that is written to")
    authority, _, path = rest.partition("/")
    user, at, _ = authority.rpartition("@")
    if at and ":" in user:
        raise ValueError(
            f"the {protocol} URL has a password in it, where every reader of the settings sees "
            "it. Take it out, and give it by the environment or the library's own file: see "
            "docs/reference/archive.md"
        )
    if protocol in LOCAL_PROTOCOLS:
        if authority:
            raise ValueError(f"a folder is written with three slashes: {protocol}:///{rest}")
        return _folder("/" + unquote(path))
    if "?" in value or "#" in value:
        raise ValueError(
            "a URL with `?` or `#` is not taken: what the library needs to know comes from the "
            "environment or its own file, see docs/reference/archive.md"
        )
    if _CONTROL.search(value):
        raise ValueError("the URL has a blank or a control character in it: take it out")
    if not authority and not path.strip("/"):
        raise ValueError(f"{shown(value)} names no place: write s3://bucket/prefix")
    parts = path.split("/")
    if ".." in parts or "." in parts:
        raise ValueError(f"{shown(value)} has a `.` or `..` in its path: write it without")
    return f"{protocol}://{rest.rstrip('/')}"


def _folder(written: str) -> str:
    if "\0" in written:
        raise ValueError(f"{shown(written)} is not a path")
    path = Path(written).expanduser()
    if ".." in path.parts:
        raise ValueError(f"{shown(written)} has a `..` in it: write the path without")
    if path == Path("/"):
        raise ValueError("the root folder can't be an archive: name a folder of its own")
    return str(path)


ARCHIVE_URL = Kind("URL or absolute path", check_archive_url, {"type": "string"})
ARCHIVE_WHAT = kinds.choice("results, bases or both", ArchiveWhat)
