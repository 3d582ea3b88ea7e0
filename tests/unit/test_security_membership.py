"""P10: the list of members: who gets on it, who is off it, and what a crash leaves of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest

from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import NotFoundError, SettingsError
from meshtrain.security import member_check, membership, revoked_keys
from meshtrain.security.membership import MembersFile, MembershipError, Roll

NODE, PERSON, MASTER = MemberKind.NODE, MemberKind.PERSON, MemberKind.MASTER


def member(name: str, kind: MemberKind = NODE, key: int | None = None) -> Member:
    number = sum(name.encode()) if key is None else key
    unique = f"{kind.value}{number:08}".ljust(40, "0")
    return Member(name, kind, unique, unique.encode().hex()[:64], f"{hash(unique) & MASK:064x}")


MASK = (1 << 256) - 1
MASTER_MEMBER = member("mesh", MASTER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "members.json"


@pytest.fixture
def members(path: Path) -> MembersFile:
    file = MembersFile(path)
    file.add(MASTER_MEMBER)
    return file


def test_who_was_added_is_found_by_each_key_also_after_a_restart(
    members: MembersFile, path: Path
) -> None:
    gpu1, ada = member("gpu1"), member("ada", PERSON)
    assert members.add(gpu1)
    assert members.add(ada)
    for file in (members, MembersFile(path)):
        roll = file.roll
        assert roll.by_curve_key(gpu1.curve_key) == gpu1
        assert roll.by_sign_key(ada.sign_key) == ada
        assert roll.by_name(NODE, "gpu1") == gpu1
        assert roll.by_name(PERSON, "gpu1") is None
        assert roll.master == MASTER_MEMBER
        assert file.version == members.version
    assert path.stat().st_mode & 0o777 == 0o600


def test_p10_a_revoked_member_is_found_by_nothing(members: MembersFile, path: Path) -> None:
    gpu1 = member("gpu1")
    members.add(gpu1)
    roll = members.roll
    assert members.revoke(NODE, "gpu1")
    for each in (roll, members.roll, MembersFile(path).roll):
        assert each.by_curve_key(gpu1.curve_key) is None
        assert each.by_sign_key(gpu1.sign_key) is None
        assert each.by_name(NODE, "gpu1") is None
    assert not members.has(gpu1)
    assert not members.revoke(NODE, "gpu1")


def test_each_change_has_a_higher_version_and_is_told(members: MembersFile) -> None:
    told: list[Members] = []
    members.on_change(told.append)
    members.add(member("gpu1"))
    assert not members.add(member("gpu1"))
    members.revoke(NODE, "gpu1")
    members.add(member("gpu1", key=5))
    members.renew()
    versions = [list_.version for list_ in told]
    assert versions == sorted(set(versions))
    assert len(versions) == 4
    assert told[-1] == members.members


def test_a_change_is_on_the_disk_before_it_is_told(members: MembersFile, path: Path) -> None:
    seen: list[bool] = []
    members.on_change(lambda told: seen.append(MembersFile(path).members == told))
    members.add(member("gpu1"))
    members.revoke(NODE, "gpu1")
    assert seen == [True, True]


def test_a_list_from_a_backup_outruns_what_was_told_before(path: Path) -> None:
    """By the clock; and where that stands still or goes back, by one."""
    now_s = 1000.0
    file = MembersFile(path, now_s=lambda: now_s)
    file.add(MASTER_MEMBER)
    assert file.version == 1_000_000
    backup = path.read_bytes()
    file.add(member("gpu1"))
    assert file.version == 1_000_001
    path.write_bytes(backup)
    now_s = 2000.0
    restored = MembersFile(path, now_s=lambda: now_s)
    restored.renew()
    assert restored.version > file.version
    assert restored.members.members == (MASTER_MEMBER,)
    now_s = 500.0
    restored.renew()
    assert restored.version == 2_000_001


# --- who doesn't get on it ------------------------------------------------------------------


def test_p10_a_taken_name_is_refused_and_a_revoked_one_is_free(members: MembersFile) -> None:
    members.add(member("gpu1", key=1))
    before = members.members
    with pytest.raises(MembershipError, match=r"name of node 'gpu1' is taken.*nodes revoke gpu1"):
        members.add(member("gpu1", key=2))
    assert members.members == before
    members.revoke(NODE, "gpu1")
    assert members.add(member("gpu1", key=2))
    assert members.roll.by_name(NODE, "gpu1") == member("gpu1", key=2)
    assert members.roll.by_curve_key(member("gpu1", key=1).curve_key) is None
    assert len(members.members.members) == 2


def test_p10_revoked_keys_come_back_under_no_name(members: MembersFile) -> None:
    members.add(member("gpu1", key=1))
    members.revoke(NODE, "gpu1")
    for name in ("gpu1", "gpu2"):
        with pytest.raises(MembershipError, match="these keys were revoked"):
            members.add(member(name, key=1))


def renewed(file: MembersFile, name: str, former: int, now: int) -> None:
    file.add(member(name, key=former))
    file.revoke(NODE, name)
    file.add(member(name, key=now))


@pytest.mark.parametrize("field", ["curve_key", "sign_key", "cert_sha256"])
def test_p10_revoked_keys_come_back_under_no_name_when_theirs_has_new_ones(
    members: MembersFile, path: Path, field: str
) -> None:
    renewed(members, "gpu1", 1, 2)
    stolen = {field: getattr(member("gpu1", key=1), field)}
    for file in (members, MembersFile(path)):
        for name in ("gpu1", "gpu2"):
            with pytest.raises(MembershipError, match=r"were revoked.*those of node 'gpu1'"):
                file.add(msgspec.structs.replace(member(name, key=3), **stolen))
        assert not file.add(member("gpu1", key=2))
    members.revoke(NODE, "gpu1")
    assert members.add(member("gpu1", key=4)), "keys that nobody had are welcome"
    assert (path.parent / "revoked_keys.json").stat().st_mode & 0o777 == 0o600


def test_p10_keys_that_left_a_full_list_come_back_under_no_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "MEMBERS_MAX", 2)
    file = MembersFile(path)
    file.add(member("gpu0", key=0))
    file.add(member("gpu1", key=1))
    file.revoke(NODE, "gpu0")
    file.add(member("gpu2", key=2))
    assert [m.name for m in file.members.members] == ["gpu1", "gpu2"]
    file.revoke(NODE, "gpu1")
    with pytest.raises(MembershipError, match="those of node 'gpu0'"):
        file.add(member("gpu3", key=0))


def test_p10_a_full_list_of_revoked_keys_forgets_none_and_says_so(
    members: MembersFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked_keys, "REVOKED_MAX", 1)
    renewed(members, "gpu1", 1, 2)
    members.revoke(NODE, "gpu1")
    before = members.members
    with pytest.raises(MembershipError, match=r"which is the limit.*move .*revoked_keys.json"):
        members.require_addable(member("gpu1", key=3))
    assert members.members == before
    assert members.add(member("gpu4", key=4)), "who replaces nobody needs no room"
    with pytest.raises(MembershipError, match="were revoked"):
        members.add(member("gpu5", key=1))


def test_p10_a_crash_between_the_revoked_keys_and_the_list_is_made_good(
    members: MembersFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked_keys, "REVOKED_MAX", 1)
    members.add(member("gpu1", key=1))
    members.revoke(NODE, "gpu1")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MembersFile, "_put", die)
        with pytest.raises(KeyboardInterrupt):
            members.add(member("gpu1", key=2))
    again = MembersFile(path)
    assert again.add(member("gpu1", key=2))
    with pytest.raises(MembershipError, match="were revoked"):
        again.add(member("gpu2", key=1))


@pytest.mark.parametrize("data", [b"", b"[", b"[[1]]", b"{}"])
def test_p10_with_damaged_revoked_keys_nobody_is_let_in(
    members: MembersFile, path: Path, data: bytes
) -> None:
    renewed(members, "gpu1", 1, 2)
    (path.parent / "revoked_keys.json").write_bytes(data)
    with pytest.raises(SettingsError, match="is damaged"):
        MembersFile(path)


@pytest.mark.parametrize("field", ["curve_key", "sign_key", "cert_sha256"])
def test_p10_no_key_is_on_the_list_twice(members: MembersFile, field: str) -> None:
    members.add(member("gpu1"))
    copy = msgspec.structs.replace(member("ada", PERSON), **{field: getattr(member("gpu1"), field)})
    with pytest.raises(MembershipError, match="are those of node 'gpu1' already"):
        members.add(copy)


def test_p10_a_record_of_the_same_name_and_part_of_the_keys_is_refused(
    members: MembersFile,
) -> None:
    members.add(member("gpu1"))
    changed = msgspec.structs.replace(member("gpu1"), cert_sha256="0" * 64)
    with pytest.raises(MembershipError, match="is taken, by other keys"):
        members.add(changed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("name", "master"),
        ("curve_key", "short"),
        ("curve_key", " " * 40),
        ("curve_key", "a" * 40 + "\n"),
        ("sign_key", "A" * 64),
        ("sign_key", ""),
        ("cert_sha256", "0" * 63),
        ("revoked", True),
    ],
)
def test_p11_a_record_that_is_none_is_refused(
    members: MembersFile, field: str, value: object
) -> None:
    before = members.members
    with pytest.raises(MembershipError, match="can't be taken"):
        members.add(msgspec.structs.replace(member("gpu1"), **{field: value}))
    assert members.members == before


def test_who_isn_t_there_can_t_be_revoked_nor_can_the_master(members: MembersFile) -> None:
    with pytest.raises(NotFoundError, match="no node named 'gpu9' is a member"):
        members.revoke(NODE, "gpu9")
    with pytest.raises(MembershipError, match="the master can't be revoked"):
        members.revoke(MASTER, "mesh")


def test_the_list_is_bounded_and_revoked_members_make_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "MEMBERS_MAX", 3)
    file = MembersFile(path)
    for number in range(3):
        file.add(member(f"gpu{number}", key=number))
    with pytest.raises(MembershipError, match="3 members, which is the limit"):
        file.add(member("gpu3", key=3))
    file.revoke(NODE, "gpu1")
    file.add(member("gpu3", key=3))
    assert [m.name for m in file.members.members] == ["gpu0", "gpu2", "gpu3"]


# --- replicas -------------------------------------------------------------------------------


def test_p10_a_replica_takes_only_what_is_newer(members: MembersFile, tmp_path: Path) -> None:
    replica = MembersFile(tmp_path / "replica.json")
    members.add(member("gpu1"))
    old = members.members
    assert replica.replace(old)
    members.revoke(NODE, "gpu1")
    assert replica.replace(members.members)
    assert not replica.replace(old)
    assert not replica.replace(members.members)
    assert replica.roll.by_name(NODE, "gpu1") is None
    assert MembersFile(tmp_path / "replica.json").members == members.members


def test_p11_a_replica_takes_no_nonsense(members: MembersFile, tmp_path: Path) -> None:
    replica = MembersFile(tmp_path / "replica.json")
    replica.replace(members.members)
    version = members.version + 1
    bad = msgspec.structs.replace(member("gpu1"), curve_key="x")
    for lists, words in (
        ((), "it has no master"),
        ((MASTER_MEMBER, bad), "is no key"),
        ((MASTER_MEMBER, MASTER_MEMBER), "is in it twice"),
        ((MASTER_MEMBER, member("gpu1"), member("gpu1", key=7)), "'gpu1' is in it twice"),
    ):
        with pytest.raises(MembershipError, match=words):
            replica.replace(Members(version, lists))
    assert replica.members == members.members


def test_p11_a_list_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_check, "MEMBERS_MAX", 1)
    both = Members(1, (MASTER_MEMBER, member("gpu1")))
    assert "the limit is 1" in member_check.problem_of_all(both)
    assert "version is -1" in member_check.problem_of_all(Members(-1, ()))


# --- the file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"version": 1}', b'{"version": -5, "members": []}'],
)
def test_p10_with_a_damaged_list_nobody_is_let_in(
    members: MembersFile, path: Path, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"is damaged.*restore it from a backup") as caught:
        MembersFile(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_p10_a_list_cut_anywhere_is_never_half_read(members: MembersFile, path: Path) -> None:
    members.add(member("gpu1"))
    whole = path.read_bytes()
    for end in range(0, len(whole.rstrip()), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(SettingsError):
            MembersFile(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
def test_p10_a_list_that_others_may_touch_is_refused(
    members: MembersFile, path: Path, mode: int
) -> None:
    path.chmod(mode)
    with pytest.raises(SettingsError, match=f"`chmod 600 {path}`"):
        MembersFile(path)


def test_p10_a_list_that_is_a_link_is_refused(
    members: MembersFile, path: Path, tmp_path: Path
) -> None:
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError, match="is a link"):
        MembersFile(path)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_p12_a_change_that_can_t_be_written_is_no_change(
    members: MembersFile, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    members.add(member("gpu1"))
    before, told = members.members, []
    members.on_change(told.append)

    def fails(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "replace" else os, call, fails)
        with pytest.raises(SettingsError, match="can't be written: No space left"):
            members.revoke(NODE, "gpu1")
    assert members.members == before == MembersFile(path).members
    assert members.roll.by_name(NODE, "gpu1") is not None
    assert told == []
    assert [each.name for each in path.parent.iterdir()] == ["members.json"]
    assert members.revoke(NODE, "gpu1")


def test_the_one_that_writes_clears_away_what_a_crash_left(
    members: MembersFile, path: Path
) -> None:
    half = path.parent / ".members.json.0a0b0c0d.tmp"
    half.write_bytes(b"half")
    (path.parent / "other.tmp").write_bytes(b"")
    reader = MembersFile(path)
    assert reader.members == members.members
    assert half.exists()
    reader.add(member("gpu1"))
    assert sorted(each.name for each in path.parent.iterdir()) == ["members.json", "other.tmp"]


def test_changes_from_many_threads_are_all_there(members: MembersFile, path: Path) -> None:
    told: list[int] = []
    members.on_change(lambda list_: told.append(list_.version))
    start = threading.Barrier(8)

    def add(number: int) -> None:
        start.wait()
        for i in range(5):
            members.add(member(f"n{number}-{i}", key=100 * number + i))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(members.members.members) == 41
    assert MembersFile(path).members == members.members
    assert told == sorted(set(told))
    assert len(told) == 40


def test_a_roll_of_nobody_finds_nobody() -> None:
    roll = Roll()
    assert roll.master is None
    assert roll.by_curve_key("a" * 40) is None
