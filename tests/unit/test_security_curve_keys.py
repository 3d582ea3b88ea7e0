"""The keys of a person's link, read alone, are those that a command shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrain.core.member import MemberKind, Members
from meshtrain.errors import SettingsError
from meshtrain.net.curve import client_security
from meshtrain.security.curve_keys import load_curve_keys
from meshtrain.security.keys import Identity
from meshtrain.security.standing import KEYS_FOLDER, keep_standing, load_standing


@pytest.fixture
def person(tmp_path: Path) -> Path:
    folder = tmp_path / "person"
    folder.mkdir(mode=0o700)
    master = Identity.load_or_create(tmp_path / "master", "master", MemberKind.MASTER)
    ada = Identity.load_or_create(folder / KEYS_FOLDER, "ada", MemberKind.PERSON)
    members = Members(1, (master.member, ada.member))
    keep_standing(folder, members, "10.0.0.1:7470")
    return folder


def test_they_are_those_of_a_command(person: Path) -> None:
    keys = load_curve_keys(person)
    standing = load_standing(person, MemberKind.PERSON)
    security = client_security(standing)
    assert keys is not None and standing is not None and security is not None
    assert keys.master_key == security.master_key
    assert keys.secret == standing.identity.curve_secret
    assert keys.member == standing.identity.member
    assert keys.master_address == standing.master_address


def test_nobody_has_none(tmp_path: Path) -> None:
    assert load_curve_keys(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["mesh.json", "members.json", "keys/member.json"])
def test_P11_what_is_damaged_or_open_to_others_is_refused(person: Path, name: str) -> None:
    path = person / name
    good = path.read_bytes()
    path.write_bytes(b"{")
    with pytest.raises(SettingsError):
        load_curve_keys(person)
    path.write_bytes(good)
    path.chmod(0o644)
    with pytest.raises(SettingsError):
        load_curve_keys(person)


def test_P10_a_missing_key_and_a_node_s_are_refused(person: Path, tmp_path: Path) -> None:
    (person / KEYS_FOLDER / "curve.key").unlink()
    with pytest.raises(SettingsError):
        load_curve_keys(person)
    node = tmp_path / "node"
    node.mkdir(mode=0o700)
    master = Identity.load_or_create(tmp_path / "master", "master", MemberKind.MASTER)
    gpu = Identity.load_or_create(node / KEYS_FOLDER, "gpu1", MemberKind.NODE)
    keep_standing(node, Members(1, (master.member, gpu.member)), "10.0.0.1:7470")
    with pytest.raises(SettingsError, match="not a person's"):
        load_curve_keys(node)
