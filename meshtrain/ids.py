"""Digests and identifiers, and how people read them."""

from __future__ import annotations

import secrets

import xxhash

DIGEST_HEX_LEN = 32
"""Length of an xxh3-128 digest in hexadecimal digits."""


def digest(data: bytes) -> str:
    """The xxh3-128 of `data`, as 32 hexadecimal digits.

    Guards against accidents, not against people: xxh3 is not cryptographic.
    """
    return xxhash.xxh3_128_hexdigest(data)


def short(digest_hex: str) -> str:
    """A digest as people read it: `7f3a…c21`."""
    if len(digest_hex) <= 8:
        return digest_hex
    return f"{digest_hex[:4]}…{digest_hex[-3:]}"


def new_id(prefix: str) -> str:
    """A fresh identifier such as `node-5f0c93a1`, unique for all practical purposes."""
    return f"{prefix}-{secrets.token_hex(4)}"
