"""A member's own keys: who it is to the mesh, in a folder that only it can read.

    keys/
      member.json   its public record: name, kind, and the public half of each key
      curve.key     ZeroMQ CURVE, the secret half, in Z85
      sign.key      Ed25519, PKCS 8 in PEM: signs its requests over HTTP
      tls.key       ECDSA P-256, PKCS 8 in PEM: its HTTP server
      tls.crt       the certificate to it, signed by itself and pinned by others

The folder appears whole, by a rename, so that a crash leaves no half identity.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

import msgspec
import zmq
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from meshtrain.core.member import Member, MemberKind
from meshtrain.errors import SettingsError
from meshtrain.security.member_check import problem_of, problem_of_name
from meshtrain.security.private_file import (
    FOLDER_MODE,
    fsync_folder,
    read_private,
    require_private_folder,
    write_new,
)

MEMBER_FILE: Final = "member.json"
CURVE_FILE: Final = "curve.key"
SIGN_FILE: Final = "sign.key"
TLS_KEY_FILE: Final = "tls.key"
TLS_CERT_FILE: Final = "tls.crt"

CERT_DAYS: Final = 30 * 365
_CERT_SLACK: Final = datetime.timedelta(days=2)
"""Clocks of hosts differ; who pins a certificate doesn't ask when it was made."""
_FILE_BYTES_MAX: Final = 64 * 1024
_LEFTOVER_S: Final = 3600
"""A temporary folder older than this was left by a crash."""


class Identity:
    """One member's secret keys, loaded and checked. Made by `load` or `load_or_create`."""

    def __init__(
        self,
        folder: Path,
        member: Member,
        curve_secret: bytes,
        sign_key: ed25519.Ed25519PrivateKey,
    ) -> None:
        self._folder = folder
        self._member = member
        self._curve_secret = curve_secret
        self._sign_key = sign_key

    def __repr__(self) -> str:
        return f"Identity({self._member.kind.value} {self._member.name})"

    @classmethod
    def load_or_create(cls, folder: Path, name: str, kind: MemberKind) -> Identity:
        """The identity in `folder`, made first when there is none.

        Raises SettingsError when the one that is there has another name or kind,
        and as `load` does.
        """
        if not folder.exists() and not folder.is_symlink():
            cls._create(folder, name, kind)
        identity = cls.load(folder)
        found = identity.member
        if (found.name, found.kind) != (name, kind):
            raise SettingsError(
                f"{folder} holds the keys of {found.kind.value} '{found.name}', not of "
                f"{kind.value} '{name}': a member keeps its name; use that name, or move the "
                "folder away and join the mesh anew"
            )
        return identity

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """The identity in `folder`.

        Raises SettingsError, which names the file and the mend, when a file is
        missing or damaged, when keys don't belong together, and when others may
        read or change them.
        """
        try:
            require_private_folder(folder)
        except FileNotFoundError as error:
            raise SettingsError(
                f"{folder} has no keys: this host is no member of a mesh yet; ask for a token "
                "(`meshtrain token` where the master runs) and join with it"
            ) from error
        member = _read_member(folder / MEMBER_FILE)
        curve_secret = _read(folder / CURVE_FILE).strip()
        sign_key = _read_key(folder / SIGN_FILE)
        if not isinstance(sign_key, ed25519.Ed25519PrivateKey):
            raise _damaged(folder / SIGN_FILE, "a key of another kind than Ed25519")
        tls_key = _read_key(folder / TLS_KEY_FILE)
        if not isinstance(tls_key, ec.EllipticCurvePrivateKey):
            raise _damaged(folder / TLS_KEY_FILE, "a key of another kind than ECDSA")
        cert = _read_cert(folder / TLS_CERT_FILE)
        _require_same(folder / CURVE_FILE, _curve_public(folder, curve_secret), member.curve_key)
        _require_same(folder / SIGN_FILE, _sign_public(sign_key), member.sign_key)
        _require_same(folder / TLS_CERT_FILE, _cert_sha256(cert), member.cert_sha256)
        _require_same(
            folder / TLS_KEY_FILE,
            _spki(tls_key.public_key()),
            _spki(cert.public_key()),
            TLS_CERT_FILE,
        )
        return cls(folder, member, curve_secret, sign_key)

    @property
    def name(self) -> str:
        return self._member.name

    @property
    def member(self) -> Member:
        """What the others know of it."""
        return self._member

    @property
    def curve_public(self) -> bytes:
        """Its CURVE public key, in Z85."""
        return self._member.curve_key.encode()

    @property
    def curve_secret(self) -> bytes:
        """Its CURVE secret key, in Z85."""
        return self._curve_secret

    @property
    def cert_path(self) -> Path:
        """Its TLS certificate, a file in PEM."""
        return self._folder / TLS_CERT_FILE

    @property
    def key_path(self) -> Path:
        """The key to its TLS certificate, a file in PEM."""
        return self._folder / TLS_KEY_FILE

    def sign(self, data: bytes) -> bytes:
        """Its Ed25519 signature of `data`, 64 bytes."""
        return self._sign_key.sign(data)

    # --- making one -----------------------------------------------------------------

    @staticmethod
    def _create(folder: Path, name: str, kind: MemberKind) -> None:
        if problem := problem_of_name(name, kind):
            raise SettingsError(f"no keys can be made: {problem}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
        try:
            temporary.mkdir(FOLDER_MODE)
            temporary.chmod(FOLDER_MODE)
            _remove_leftovers(folder, temporary)
            for file_name, data in _new_files(name, kind).items():
                write_new(temporary / file_name, data)
            fsync_folder(temporary)
            temporary.rename(folder)
            fsync_folder(folder.parent)
        except OSError as error:
            # Another process of this member was faster: its keys are as good.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise SettingsError(
                    f"{folder} can't be made: {error.strerror or error}; "
                    "free disk space, or mend the permissions of the folder above it"
                ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _new_files(name: str, kind: MemberKind) -> dict[str, bytes]:
    curve_public, curve_secret = zmq.curve_keypair()
    sign_key = ed25519.Ed25519PrivateKey.generate()
    tls_key = ec.generate_private_key(ec.SECP256R1())
    cert = _self_signed(tls_key, name)
    member = Member(name, kind, curve_public.decode(), _sign_public(sign_key), _cert_sha256(cert))
    return {
        MEMBER_FILE: msgspec.json.format(msgspec.json.encode(member)) + b"\n",
        CURVE_FILE: curve_secret + b"\n",
        SIGN_FILE: _pem(sign_key),
        TLS_KEY_FILE: _pem(tls_key),
        TLS_CERT_FILE: cert.public_bytes(serialization.Encoding.PEM),
    }


def _self_signed(key: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CERT_SLACK)
        .not_valid_after(now + datetime.timedelta(days=CERT_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # Programs that aren't of the mesh, such as Prometheus, look for a name there.
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _remove_leftovers(folder: Path, temporary: Path) -> None:
    """Secrets that a crash left half made must not lie about."""
    newest_s = temporary.stat().st_mtime
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        with contextlib.suppress(OSError):
            info = leftover.lstat()
            if stat.S_ISDIR(info.st_mode) and newest_s - info.st_mtime > _LEFTOVER_S:
                shutil.rmtree(leftover, ignore_errors=True)


# --- reading one ------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return read_private(path, _FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path} is missing, so these keys are of no use: restore the folder from a backup, "
            "or move it away and join the mesh anew"
        ) from error


def _damaged(path: Path, why: str) -> SettingsError:
    return SettingsError(
        f"{path} is damaged ({why}): restore the folder from a backup, or move it away and "
        "join the mesh anew"
    )


_member_decoder = msgspec.json.Decoder(Member)


def _read_member(path: Path) -> Member:
    try:
        member = _member_decoder.decode(_read(path))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if problem := problem_of(member):
        raise _damaged(path, problem)
    if member.revoked:
        raise _damaged(path, "an own record is never marked as revoked")
    return member


def _read_key(path: Path) -> object:
    try:
        return serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(path, "no private key in PEM") from error


def _read_cert(path: Path) -> x509.Certificate:
    try:
        cert = x509.load_pem_x509_certificate(_read(path))
        cert.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _damaged(path, "no certificate in PEM") from error
    return cert


def _require_same(path: Path, derived: str, expected: str, beside: str = MEMBER_FILE) -> None:
    if derived != expected:
        raise _damaged(path, f"it doesn't belong to {beside} beside it")


def _curve_public(folder: Path, curve_secret: bytes) -> str:
    try:
        return zmq.curve_public(curve_secret).decode()
    except (zmq.ZMQError, ValueError) as error:
        raise _damaged(folder / CURVE_FILE, "no CURVE key in Z85") from error


def _sign_public(key: ed25519.Ed25519PrivateKey) -> str:
    raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return key.public_key().public_bytes(*raw).hex()


def _cert_sha256(cert: x509.Certificate) -> str:
    return hashlib.sha256(cert.public_bytes(serialization.Encoding.DER)).hexdigest()


def _spki(key: object) -> str:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return "another kind of key"
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    ).hex()


def _pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
