"""Read tokens: a word that lets a program read what a mesh does, and nothing else.

Prometheus, Grafana and scripts can't sign requests. They show a token, by TLS,
and get the metrics, the health and the JSON API: no log, no artifact, no
command. The master keeps a hash of each secret, under a name; a token ends at
its time, when it is revoked, and with the membership of who made it.

    mr1.<base64url of 24 drawn bytes>
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
from pathlib import Path
from typing import Annotated, Final

import msgspec

from meshtrain.core.member import MemberKind
from meshtrain.errors import NotFoundError, SettingsError
from meshtrain.security.member_check import problem_of_name
from meshtrain.security.private_file import read_private, remove_leftovers, write_private
from meshtrain.security.tokens import TokenError

PREFIX: Final = "mr1."
READERS_MAX: Final = 100
"""Read tokens at a time: each is compared at each request."""
_SECRET_BYTES: Final = 24
_WORD = re.compile(r"mr1\.[A-Za-z0-9_-]{32}\Z")
_FILE_BYTES_MAX: Final = 1 << 20
_HASH_LABEL: Final = b"meshtrain read token 1\0"


class Reader(msgspec.Struct, frozen=True):
    """What the master keeps of a read token. Times are seconds since 1970."""

    name: str
    secret_sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    expires_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    issuer: str = ""
    """The person who made it: it ends with that membership."""
    made_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0


class Readers:
    """The read tokens on disk, read at start; one process alone may write them.

    Raises SettingsError when the file is damaged or others may touch it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tidied = False
        self._lock = threading.Lock()
        self._readers = _read(path)

    @property
    def readers(self) -> tuple[Reader, ...]:
        return self._readers

    def issue(self, name: str, ttl_s: float, now_s: float, issuer: str = "") -> str:
        """A new read token, as one word; it is on the disk when this returns.

        Raises TokenError when the name is none, or is taken by one that is good still,
        and when there are too many.
        """
        if problem := problem_of_name(name, MemberKind.PERSON):
            raise TokenError(problem.replace("for a member", "for a read token"))
        word = PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        with self._lock:
            kept = tuple(reader for reader in self._readers if reader.expires_s > now_s)
            if any(reader.name == name for reader in kept):
                raise TokenError(
                    f"a read token named '{name}' is there: choose another name, or end that one "
                    f"first (`meshtrain token --revoke {name}`)"
                )
            if len(kept) >= READERS_MAX:
                raise TokenError(
                    f"there are {READERS_MAX} read tokens, which is the limit: end some first "
                    "(`meshtrain token --list`)"
                )
            self._put((*kept, Reader(name, _hash(word), now_s + ttl_s, issuer, now_s)))
        return word

    def revoke(self, name: str) -> bool:
        """End a read token; on the disk when this returns.

        Raises NotFoundError when none has that name.
        """
        with self._lock:
            kept = tuple(reader for reader in self._readers if reader.name != name)
            if len(kept) == len(self._readers):
                raise NotFoundError(
                    f"no read token is named '{name[:80]}'; `meshtrain token --list` lists all"
                )
            self._put(kept)
            return True

    def end_those_of(self, issuer: str) -> int:
        """End the read tokens that a person made; returns how many, on the disk by then."""
        with self._lock:
            kept = tuple(reader for reader in self._readers if reader.issuer != issuer)
            ended = len(self._readers) - len(kept)
            if ended:
                self._put(kept)
            return ended

    def name_of(self, word: str, now_s: float) -> str | None:
        """The name of the token, if it is good; asks no disk, so that each request can."""
        if _WORD.match(word) is None:
            return None
        wanted, found = _hash(word), None
        for reader in self._readers:
            # Each is compared in full, so that time tells a guesser nothing.
            if hmac.compare_digest(reader.secret_sha256, wanted) and reader.expires_s > now_s:
                found = reader.name
        return found

    def _put(self, readers: tuple[Reader, ...]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._tidied:
            # Not at the reading: others read too, while the one that writes is at it.
            remove_leftovers(self._path)
            self._tidied = True
        write_private(self._path, msgspec.json.format(msgspec.json.encode(readers)) + b"\n")
        self._readers = readers


def _hash(word: str) -> str:
    """A plain hash is enough for a secret that was drawn, not thought up."""
    return hashlib.sha256(_HASH_LABEL + word.encode()).hexdigest()


_readers_decoder = msgspec.json.Decoder(tuple[Reader, ...])


def _read(path: Path) -> tuple[Reader, ...]:
    try:
        data = read_private(path, _FILE_BYTES_MAX)
    except FileNotFoundError:
        return ()
    try:
        readers = _readers_decoder.decode(data)
        problem = "" if len(readers) <= READERS_MAX else f"it has {len(readers)} tokens"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise SettingsError(
            f"{path} is damaged ({problem}): restore it from a backup, or delete it; programs "
            "that read by a token need new ones then"
        )
    return readers
