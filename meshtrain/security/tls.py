"""TLS between members: 1.3 only, each server known by the certificate that the roll pins.

There is no authority that signs certificates, and no name in one is looked at:
the list of members says which certificate a server has, by its SHA-256. The
check is part of the handshake, so that nothing is sent to a server that shows
another one.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from typing import Final

from meshtrain.errors import SettingsError
from meshtrain.security.keys import Identity

_ALPN: Final = ("http/1.1",)


class WrongCertificateError(ssl.SSLCertVerificationError):
    """Raised in the handshake when a server shows another certificate than its member has."""


def server_context(identity: Identity) -> ssl.SSLContext:
    """The context of a member's own HTTPS server.

    Raises:
        SettingsError: when its certificate and key can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Nobody resumes a session here: connections are kept instead.
    context.num_tickets = 0
    context.set_alpn_protocols(_ALPN)
    try:
        context.load_cert_chain(identity.cert_path, identity.key_path)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the certificate {identity.cert_path} and its key can't be used: {error}. Restore "
            "the folder from a backup, or move it away and join the mesh anew"
        ) from error
    return context


def pinned_context(cert_sha256: str) -> ssl.SSLContext:
    """A client's context that takes one certificate and no other.

    Args:
        cert_sha256: the SHA-256 of the certificate in DER, in hex.
    """
    return _PinnedContext(cert_sha256)


class _PinnedContext(ssl.SSLContext):
    cert_sha256: str

    def __new__(cls, cert_sha256: str) -> _PinnedContext:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        self.cert_sha256 = cert_sha256
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        # The pin takes the place of both.
        self.check_hostname = False
        self.verify_mode = ssl.CERT_NONE
        self.set_alpn_protocols(_ALPN)
        # One for sockets as they are, one for asyncio: neither is left unpinned.
        self.sslsocket_class = _PinnedSocket
        self.sslobject_class = _PinnedObject
        return self


class _PinnedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        _check(self.context, self.getpeercert(binary_form=True))


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check(self.context, self.getpeercert(binary_form=True))


def _check(context: ssl.SSLContext, cert_der: bytes | None) -> None:
    expected = context.cert_sha256 if isinstance(context, _PinnedContext) else ""
    shown = hashlib.sha256(cert_der or b"").hexdigest()
    if not hmac.compare_digest(shown, expected):
        raise WrongCertificateError(
            f"its certificate is {shown[:16]}…, that of the member is {expected[:16]}…: this is "
            "another server, or the member got new keys"
        )
