"""Who belongs to the mesh: its members, and the list of them that every node keeps."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class MemberKind(StrEnum):
    MASTER = "master"
    NODE = "node"
    PERSON = "person"


class Member(msgspec.Struct, frozen=True):
    """One member and its public keys. Names are unique within a kind."""

    name: str
    kind: MemberKind
    curve_key: str
    """Its ZeroMQ CURVE public key, in Z85: 40 letters."""
    sign_key: str
    """Its Ed25519 public key, in hex: 64 letters."""
    cert_sha256: str
    """The SHA-256 of its TLS certificate (DER), in hex: what its HTTP server is known by."""
    revoked: bool = False


class Members(msgspec.Struct, frozen=True):
    """The list as of a version; a later version replaces an earlier one whole."""

    version: int
    members: tuple[Member, ...]
