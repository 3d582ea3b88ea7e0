"""P10: what makes a host a member is whole, private and of one mesh, or nothing of it counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from member_keys import ALL, MASTER, NODE, PERSON, identity, members

from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError
from meshtrain.security.keys import Identity
from meshtrain.security.private_file import (
    make_private_home,
    require_unshared,
    require_unshared_inbox,
)
from meshtrain.security.standing import (
    PERSON_FOLDER,
    has_used,
    keep_standing,
    load_standing,
)
from meshtrain.security.way import ADDRESS_DEFAULT, PORTS_FILE, find_way

WHERE = "10.0.0.5:7470"
OTHER_MASTER = identity(MemberKind.MASTER, "master", 1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A node's home, which joined."""
    home = tmp_path / "home"
    make_private_home(home)
    Identity.load_or_create(home / "keys", "gpu1", MemberKind.NODE)
    keep_standing(home, members(*ALL), WHERE)
    return home


def test_what_was_kept_is_loaded(home: Path) -> None:
    standing = load_standing(home, MemberKind.NODE)
    assert standing is not None
    assert (standing.identity.name, standing.master_address) == ("gpu1", WHERE)
    assert standing.master == MASTER.member


def test_a_home_without_anything_is_no_member_s(tmp_path: Path) -> None:
    assert load_standing(tmp_path, MemberKind.NODE) is None
    assert load_standing(tmp_path / "not-there", MemberKind.PERSON) is None


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda home: (home / "mesh.json").unlink(), "not finished: join again"),
        (lambda home: (home / "keys").rename(home / "k"), "keys is missing"),
        (lambda home: home.chmod(0o770), "chmod go-w"),
        (lambda home: home.chmod(0o702), "everybody on this host may write"),
        (lambda home: (home / "mesh.json").chmod(0o644), "chmod 600"),
        (lambda home: (home / "members.json").chmod(0o640), "chmod 600"),
        (lambda home: (home / "keys").chmod(0o750), "chmod 700"),
        (lambda home: (home / "mesh.json").write_text("{"), "damaged"),
        (lambda home: (home / "mesh.json").write_text('{"master": 5}'), "damaged"),
    ],
)
def test_P10_a_node_that_has_a_part_of_it_takes_no_orders_from_loopback(
    home: Path, spoil: Callable[[Path], object], expected: str
) -> None:
    spoil(home)
    with pytest.raises(SettingsError, match=expected):
        load_standing(home, MemberKind.NODE)


def test_P10_a_link_in_place_of_the_address_is_refused(home: Path, tmp_path: Path) -> None:
    (home / "mesh.json").rename(tmp_path / "elsewhere")
    (home / "mesh.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="is a link"):
        load_standing(home, MemberKind.NODE)


def test_a_home_of_another_kind_asks_for_another_home(home: Path) -> None:
    with pytest.raises(SettingsError, match="a person needs one of its own: name another"):
        load_standing(home, MemberKind.PERSON)


def test_a_list_without_a_master_says_to_join_again(home: Path) -> None:
    (home / "members.json").unlink()
    standing = load_standing(home, MemberKind.NODE)
    assert standing is not None
    with pytest.raises(SettingsError, match="names no master"):
        _ = standing.master


def test_P10_the_list_of_another_mesh_makes_way_whatever_its_version_is(home: Path) -> None:
    keep_standing(home, members(OTHER_MASTER, NODE, version=0), "10.0.0.9:7470")
    standing = load_standing(home, MemberKind.NODE)
    assert standing is not None
    assert standing.master == OTHER_MASTER.member


def test_P10_an_older_list_of_the_same_mesh_revives_nobody(home: Path) -> None:
    keep_standing(home, members(MASTER, NODE, revoked=(PERSON,), version=9), WHERE)
    keep_standing(home, members(*ALL, version=8), WHERE)
    standing = load_standing(home, MemberKind.NODE)
    assert standing is not None
    assert standing.members.roll.by_name(MemberKind.PERSON, "ada") is None


def test_P12_what_is_there_already_is_not_written_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    keep_standing(home, members(*ALL), WHERE)
    with pytest.raises(SettingsError, match="can't be written"):
        keep_standing(home, members(*ALL), "10.0.0.6:7470")


def test_a_token_that_was_used_is_remembered_by_its_hash(home: Path) -> None:
    keep_standing(home, members(*ALL), WHERE, "ab" * 32)
    assert has_used(home, "ab" * 32)
    assert not has_used(home, "cd" * 32)
    assert not has_used(home / "elsewhere", "ab" * 32)


# --- homes -------------------------------------------------------------------------------


def test_P10_a_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        make_private_home(tmp_path / "a" / "home")
    finally:
        os.umask(former)
    assert (tmp_path / "a" / "home").stat().st_mode & 0o777 == 0o700


def test_P10_what_others_own_or_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    require_unshared(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(SettingsError, match="chown"):
        require_unshared(tmp_path)


def test_P10_an_inbox_is_a_group_s_at_most(tmp_path: Path) -> None:
    require_unshared_inbox(tmp_path / "not-there-yet")
    tmp_path.chmod(0o3770)
    require_unshared_inbox(tmp_path)
    tmp_path.chmod(0o1777)
    with pytest.raises(SettingsError, match="`chmod o-w"):
        require_unshared_inbox(tmp_path)


# --- the way of commands -------------------------------------------------------------------


@pytest.fixture
def person_home(tmp_path: Path) -> Path:
    home = tmp_path / "person-home"
    make_private_home(home / PERSON_FOLDER)
    home.chmod(0o755)
    Identity.load_or_create(home / PERSON_FOLDER / "keys", "ada", MemberKind.PERSON)
    keep_standing(home / PERSON_FOLDER, members(*ALL), WHERE)
    return home


def tell_ports(home: Path, *, secure: bool, host: str = "127.0.0.1") -> None:
    told = {"host": host, "control": 1234, "secure": secure, "more": [1]}
    (home / PORTS_FILE).write_text(json.dumps(told))


def test_without_anything_the_way_is_the_default(tmp_path: Path) -> None:
    assert find_way(None, tmp_path).address == ADDRESS_DEFAULT
    assert find_way("10.0.0.1:5", tmp_path).standing is None


def test_a_person_s_way_leads_to_the_mesh_that_was_joined(person_home: Path) -> None:
    for asked in (None, WHERE):
        way = find_way(asked, person_home)
        assert way.address == WHERE
        assert way.standing is not None
        assert way.standing.identity.name == "ada"
    other = find_way("10.0.0.7:7470", person_home)
    assert other.standing is not None


def test_P10_on_loopback_keys_are_shown_to_the_mesh_that_wants_them(person_home: Path) -> None:
    assert find_way("127.0.0.1:7470", person_home).standing is None
    tell_ports(person_home, secure=False)
    assert find_way(None, person_home).standing is None
    tell_ports(person_home, secure=True, host="0.0.0.0")
    way = find_way(None, person_home)
    assert (way.address, way.standing is not None) == ("127.0.0.1:1234", True)
    tell_ports(person_home, secure=True, host="::")
    assert find_way("[::1]:1234", person_home).standing is not None


@pytest.mark.parametrize("told", ["", "[", '{"host": 1}', "[" * 10_000, "\x00"])
def test_P11_nonsense_in_the_master_s_word_is_none(person_home: Path, told: str) -> None:
    (person_home / PORTS_FILE).write_text(told)
    assert find_way(None, person_home).address == WHERE


def test_P10_a_home_that_others_may_write_shows_no_way(person_home: Path) -> None:
    person_home.chmod(0o777)
    with pytest.raises(SettingsError, match="chmod go-w"):
        find_way(None, person_home)


def test_a_person_that_did_not_finish_to_join_is_nobody_yet(person_home: Path) -> None:
    (person_home / PERSON_FOLDER / "mesh.json").unlink()
    assert find_way(None, person_home).standing is None


def test_what_is_written_is_what_an_older_version_wrote(home: Path) -> None:
    (home / "mesh.json").write_bytes(msgspec.json.encode({"master": WHERE}))
    standing = load_standing(home, MemberKind.NODE)
    assert standing is not None
    assert standing.master_address == WHERE
