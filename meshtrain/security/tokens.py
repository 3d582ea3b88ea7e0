"""Join tokens: one word that lets somebody join the mesh, and the master's list of them.

A token tells where the master is and how it is recognised, and holds a secret of
128 bits. The master keeps only a hash of the secret, with what it is good for.

    mt1.<base64url of: fields in MessagePack, then 4 bytes of their SHA-256>
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import sys
import threading
from pathlib import Path
from typing import Annotated, Final

import msgspec
from zmq.utils import z85

from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError, UserError
from meshtrain.security.private_file import read_private, remove_leftovers, write_private

PREFIX: Final = "mt1."
SECRET_BYTES: Final = 16
TOKENS_MAX: Final = 1000
"""Tokens that may be open at once."""
KEPT_S: Final = 7 * 86400.0
"""How long a token's end is remembered, so that a late user is told the reason."""
WRONG_TRIES_PER_S_MAX: Final = 10.0
"""Wrong secrets that are looked at per second; then all wait. A guesser needs 2^127."""
WRONG_TRIES_AT_ONCE_MAX: Final = 20
_CHECK_BYTES: Final = 4
_WORD_CHARS_MAX: Final = 1000
_FILE_BYTES_MAX: Final = 1 << 20
_HASH_LABEL: Final = b"meshtrain join token 1\0"
_OTHER_VERSION = re.compile(r"mt[0-9]+\.")

Host = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9:._%-]{1,253}\Z")]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Secret = Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


class TokenError(UserError):
    """Raised when a join token lets nobody in: mistyped, unknown, expired or used up."""


class _Fields(msgspec.Struct, frozen=True, array_like=True):
    host: Host
    http_port: PortNumber
    control_port: PortNumber
    cert: Bytes32
    curve: Bytes32
    secret: Secret


_fields_decoder = msgspec.msgpack.Decoder(_Fields)


def read_token(word: str) -> str:
    """A token as it was given, or from standard input where that is `-`.

    What a command is given can be seen by all who are on its host.
    """
    return sys.stdin.readline(_WORD_CHARS_MAX + 1).strip() if word == "-" else word


class JoinToken(msgspec.Struct, frozen=True):
    """What is in a token.

    `cert_sha256` (hex) and `curve_key` (Z85) are the master's, which the joiner
    pins; `secret` is what lets it in.
    """

    host: str
    http_port: int
    control_port: int
    cert_sha256: str
    curve_key: str
    secret: bytes

    def __repr__(self) -> str:
        return f"JoinToken({self.host}, HTTP port {self.http_port})"

    def word(self) -> str:
        """The token as people paste it. Raises TokenError when a field can't be in one."""
        try:
            fields = _Fields(
                self.host,
                self.http_port,
                self.control_port,
                bytes.fromhex(self.cert_sha256),
                z85.decode(self.curve_key),
                self.secret,
            )
            data = msgspec.msgpack.encode(fields)
            _fields_decoder.decode(data)
        except (ValueError, KeyError) as error:
            raise TokenError(
                f"no token can be made for the master at {self.host}: {error}"
            ) from error
        text = base64.urlsafe_b64encode(data + _check(data)).decode().rstrip("=")
        return PREFIX + text

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The token in a word; white space that came with the pasting is passed over.

        Raises TokenError, which tells a slip of the hand from what is no token.
        """
        word = "".join(text.split())
        if not word.startswith(PREFIX):
            if _OTHER_VERSION.match(word):
                raise TokenError(
                    "this token was made by another version of meshtrain: install the version "
                    "here that the master runs"
                )
            raise TokenError(
                f"this is no join token: one begins with '{PREFIX}'; make one with "
                "`meshtrain token` where the master runs"
            )
        body = word.removeprefix(PREFIX)
        if len(body) > _WORD_CHARS_MAX:
            raise TokenError(
                f"this is no join token: it has more than {_WORD_CHARS_MAX} characters"
            )
        slip = "this token was mistyped or cut short: copy the whole of it again"
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise TokenError(slip) from error
        data, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        if not data or check != _check(data):
            raise TokenError(slip)
        try:
            fields = _fields_decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TokenError(f"this token holds nonsense ({error}): make a new one") from error
        return cls(
            fields.host,
            fields.http_port,
            fields.control_port,
            fields.cert.hex(),
            z85.encode(fields.curve).decode(),
            fields.secret,
        )


class OpenToken(msgspec.Struct, frozen=True):
    """What the master keeps of a token. Times are seconds since 1970."""

    secret_sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    kind: MemberKind
    expires_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    uses_left: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    issuer: str = ""
    """The person who made it: it ends with that membership."""
    pending: str = ""
    """A hash of who used it last and may not be on the list yet: asking again is no other use."""


class TokensFile:
    """The master's tokens on disk, read at start; one process alone may write it, any may read.

    Raises SettingsError when the file is damaged or others may touch it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tidied = False
        self._lock = threading.Lock()
        self._tokens = _read(path)
        self._tries_left = float(WRONG_TRIES_AT_ONCE_MAX)
        self._tried_s = 0.0

    @property
    def tokens(self) -> tuple[OpenToken, ...]:
        return self._tokens

    def issue(
        self, kind: MemberKind, ttl_s: float, uses_max: int, now_s: float, issuer: str = ""
    ) -> bytes:
        """The secret of a new token, which is on the disk when this returns.

        Raises TokenError when too many are open, or when a master is to be let in.
        """
        if kind is MemberKind.MASTER:
            raise TokenError("a mesh has one master: tokens are for nodes and persons")
        secret = secrets.token_bytes(SECRET_BYTES)
        token = OpenToken(_hash(secret), kind, now_s + ttl_s, uses_max, issuer)
        with self._lock:
            kept = [old for old in self._tokens if old.expires_s + KEPT_S > now_s]
            if sum(_is_open(old, now_s) for old in kept) >= TOKENS_MAX:
                raise TokenError(
                    f"{TOKENS_MAX} tokens are open, which is the limit: wait until some expire, or "
                    "make one token for several members"
                )
            while len(kept) >= TOKENS_MAX:
                kept.remove(next(old for old in kept if not _is_open(old, now_s)))
            self._put((*kept, token))
        return secret

    def redeem(self, secret: bytes, kind: MemberKind, now_s: float, user: str = "") -> None:
        """Use a token once; the use is counted on the disk when this returns.

        `user` stands for who uses it. The same one may do so again until `settle`: the
        master may have died before it was on the list.

        Raises TokenError when the secret is unknown, expired, used up or for another
        kind of member, and when too many wrong ones were tried; no use is counted then.
        """
        with self._lock:
            token = self._known(secret, now_s)
            if token.kind is not kind:
                raise TokenError(
                    f"this token lets a {token.kind.value} join, not a {kind.value}: make another "
                    f"with `meshtrain token{_FLAG[kind]}` where the master runs"
                )
            if token.expires_s <= now_s:
                raise TokenError(_EXPIRED)
            if user and token.pending == user:
                return
            if not token.uses_left:
                raise TokenError(_USED_UP)
            self._replace(token, now_s, uses_left=token.uses_left - 1, pending=user)

    def settle(self, secret: bytes, now_s: float) -> None:
        """Who used a token last is on the list: asking again is another use from now on."""
        with self._lock:
            token = self._known(secret, now_s)
            if token.pending:
                self._replace(token, now_s, pending="")

    def close_those_of(self, issuer: str, now_s: float) -> int:
        """End the open tokens that a person made; returns how many, on the disk by then."""
        with self._lock:
            closed = [t for t in self._tokens if t.issuer == issuer and _is_open(t, now_s)]
            if closed:
                ended = {
                    id(token): msgspec.structs.replace(token, uses_left=0, pending="")
                    for token in closed
                }
                self._put(tuple(ended.get(id(token), token) for token in self._tokens))
            return len(closed)

    def require_known(self, secret: bytes, now_s: float) -> None:
        """Raises TokenError unless this is the secret of a token, used up or not."""
        with self._lock:
            self._known(secret, now_s)

    def _known(self, secret: bytes, now_s: float) -> OpenToken:
        passed_s = max(0.0, now_s - self._tried_s)
        self._tried_s = now_s
        self._tries_left = min(
            WRONG_TRIES_AT_ONCE_MAX, self._tries_left + passed_s * WRONG_TRIES_PER_S_MAX
        )
        if self._tries_left < 1:
            raise TokenError("too many wrong join tokens were tried: try again in a few seconds")
        wanted = _hash(secret)
        found = None
        for token in self._tokens:
            # Each is compared in full, so that time tells a guesser nothing.
            if hmac.compare_digest(token.secret_sha256, wanted):
                found = token
        if found is None or found.expires_s + KEPT_S <= now_s:
            self._tries_left -= 1
            raise TokenError(_UNKNOWN)
        return found

    def _replace(self, token: OpenToken, now_s: float, **changes: object) -> None:
        changed = msgspec.structs.replace(token, **changes)
        self._put(
            tuple(
                changed if old is token else old
                for old in self._tokens
                if old.expires_s + KEPT_S > now_s
            )
        )

    def _put(self, tokens: tuple[OpenToken, ...]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._tidied:
            # Not at the reading: others read too, while the one that writes is at it.
            remove_leftovers(self._path)
            self._tidied = True
        write_private(self._path, msgspec.json.format(msgspec.json.encode(tokens)) + b"\n")
        self._tokens = tokens


_NEW_ONE: Final = "make a new one with `meshtrain token` where the master runs"
_FLAG: Final = {MemberKind.NODE: "", MemberKind.PERSON: " --person", MemberKind.MASTER: ""}
_UNKNOWN: Final = f"the master doesn't know this token, or it expired long ago: {_NEW_ONE}"
_EXPIRED: Final = f"this token has expired: {_NEW_ONE}"
_USED_UP: Final = f"this token is used up: {_NEW_ONE}"


def _is_open(token: OpenToken, now_s: float) -> bool:
    return token.uses_left > 0 and token.expires_s > now_s


def _hash(secret: bytes) -> str:
    """A plain hash is enough for a secret that was drawn, not thought up."""
    return hashlib.sha256(_HASH_LABEL + secret).hexdigest()


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_CHECK_BYTES]


_tokens_decoder = msgspec.json.Decoder(tuple[OpenToken, ...])


def _read(path: Path) -> tuple[OpenToken, ...]:
    try:
        data = read_private(path, _FILE_BYTES_MAX)
    except FileNotFoundError:
        return ()
    try:
        tokens = _tokens_decoder.decode(data)
        problem = "" if len(tokens) <= TOKENS_MAX else f"it has {len(tokens)} tokens"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise SettingsError(
            f"{path} is damaged ({problem}): restore it from a backup, or delete it; open tokens "
            "are lost then, members are not"
        )
    return tokens
