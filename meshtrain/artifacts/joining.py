"""Joins a mesh: keys of one's own, a token for a place on the list, and the list kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

from meshtrain.artifacts.enrol import enrol
from meshtrain.core.member import MemberKind
from meshtrain.security.keys import Identity
from meshtrain.security.private_file import make_private_home
from meshtrain.security.standing import (
    KEYS_FOLDER,
    Standing,
    has_used,
    keep_standing,
    load_standing,
    require_kind,
)
from meshtrain.security.tokens import JoinToken


async def join_mesh(folder: Path, word: str, name: str, kind: MemberKind) -> Standing:
    """Join with a token, and keep what that gives in `folder`.

    May be called again with the same token: who is a member by it stays one, and
    asks nobody. So a daemon that is always started with its token starts while the
    master is away, and when the token has expired long ago.

    Args:
        folder: a worker's home, or the folder of a person.
        word: the token, as `meshtrain token` printed it.
        name: what the mesh will know the member by.

    Raises:
        TokenError: when the word is no token.
        EnrolmentError: when the master refuses, or can't be reached.
        SettingsError: when the folder holds other keys, or damaged ones.
    """
    token = JoinToken.parse(word)
    token_sha256 = hashlib.sha256(token.word().encode()).hexdigest()
    make_private_home(folder)
    keys = folder / KEYS_FOLDER
    if keys.exists():
        require_kind(Identity.load(keys), kind, folder)
    identity = Identity.load_or_create(keys, name, kind)
    if not has_used(folder, token_sha256):
        members = await enrol(token, identity)
        host = f"[{token.host}]" if ":" in token.host else token.host
        keep_standing(folder, members, f"{host}:{token.control_port}", token_sha256)
    standing = load_standing(folder, kind)
    assert standing is not None, "it was kept just now"
    return standing
