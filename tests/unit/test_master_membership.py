"""P10: the master's own list, and the way of its news to the nodes."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import SettingsError, UserError
from meshtrain.net.base import SocketLimits
from meshtrain.net.curve import peer_name, person_of
from meshtrain.security.enrol import enrol
from meshtrain.security.keys import Identity
from meshtrain.security.member_check import MEMBERS_MAX
from meshtrain.security.membership import MembersFile
from meshtrain.security.read_tokens import Readers
from meshtrain.security.standing import load_standing
from meshtrain.security.tokens import JoinToken, TokenError
from meshtrain.spec.settings_loading import master_settings
from meshtrain.wire import messages as msg
from meshtrain.wire.codec import encode
from meshtrain_daemon.master import member_news
from meshtrain_daemon.master.member_changes import MemberRequest, change_members
from meshtrain_daemon.master.member_news import MemberNews
from meshtrain_daemon.master.membership import Membership, membership_of

NODE, PERSON = MemberKind.NODE, MemberKind.PERSON


def membership(home: Path, **flags: Any) -> Membership:
    found = membership_of(master_settings(None, {}, {"home": home, "secure": True, **flags}))
    assert found is not None
    return found


def record(name: str, kind: MemberKind = NODE) -> Member:
    """A member with keys that nobody has the other half of."""
    digits = hashlib.sha256(f"{kind}/{name}".encode()).hexdigest()
    return Member(name, kind, digits[:40], digits, digits)


def issue(of: Membership, kind: MemberKind, *, issuer: str = "admin", uses: int = 1) -> JoinToken:
    word = of.issue(kind, 60.0, uses, issuer=issuer, control_port=7470, enrol_port=7473)
    return JoinToken.parse(word)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


# --- whose list ----------------------------------------------------------------------------


def test_P10_a_home_with_members_stays_secure_until_somebody_says_otherwise(home: Path) -> None:
    settings = master_settings(None, {}, {"home": home})
    assert membership_of(settings) is None
    membership(home)
    assert membership_of(settings) is not None
    assert membership_of(master_settings(None, {}, {"home": home, "secure": False})) is None
    env = {"MESHTRAIN_HOME": str(home), "MESHTRAIN_SECURE": "false"}
    assert membership_of(master_settings(None, env)) is None


def test_the_master_and_its_admin_are_its_first_members(home: Path) -> None:
    first = membership(home)
    names = {(m.kind, m.name) for m in first.members.members}
    assert names == {(MemberKind.MASTER, "master"), (PERSON, "admin")}
    assert membership(home).members == first.members
    first.open_to_admin(7470, pytest.fail)
    standing = load_standing(home / "person", PERSON)
    assert standing is not None
    assert standing.master_address == "127.0.0.1:7470"


async def test_p10_no_other_work_puts_off_a_revocation(home: Path) -> None:
    """It waited for a thread behind job files that took minutes to be looked through."""
    ours = membership(home)
    ours._admit(issue(ours, PERSON, issuer="admin").secret, record("ann", PERSON))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    until = threading.Event()
    slow = asyncio.create_task(asyncio.to_thread(until.wait))
    await asyncio.sleep(0)
    asked: list[MemberRequest] = [
        msg.IssueReader("r1", "prometheus", 60.0),
        msg.RevokeReader("r2", "prometheus"),
        msg.IssueToken("r3", NODE, 60.0),
        msg.Revoke("r4", PERSON, "ann"),
    ]
    try:
        async with asyncio.timeout(20):
            for message in asked:
                done = await change_members(
                    ours, message, asker="admin", control_port=7470, enrol_port=7473
                )
                assert (done.request_id, done.error) == (message.request_id, "")
    finally:
        until.set()
        await slow
    assert ours.http.roll.by_name(PERSON, "ann") is None


def test_P12_a_disk_that_is_full_stops_no_master(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = membership(home)
    said: list[str] = []
    (home / "person").chmod(0o500)
    monkeypatch.setattr("meshtrain.security.private_file.write_new", _full)
    ours.open_to_admin(7470, said.append)
    assert "may not find the master" in said[0]
    (home / "person").chmod(0o700)


def _full(*args: object) -> None:
    raise OSError(28, "No space left on device")


def test_new_keys_of_the_admin_count_and_the_former_ones_end(home: Path) -> None:
    former = membership(home).members
    (home / "person").rename(home / "former")
    now = membership(home).members
    assert len(now.members) == 2
    assert now.version > former.version
    assert former.members[-1] not in now.members


def test_P10_new_keys_of_the_master_under_the_old_list_are_refused_with_the_mend(
    home: Path,
) -> None:
    membership(home)
    (home / "keys").rename(home / "former")
    with pytest.raises(SettingsError, match="move both away"):
        membership(home)


@pytest.mark.parametrize("what", ["home", "inbox"])
def test_P10_a_home_or_an_inbox_that_anybody_writes_is_refused(home: Path, what: str) -> None:
    home.mkdir(mode=0o700)
    (home / "inbox").mkdir()
    (home if what == "home" else home / "inbox").chmod(0o777)
    with pytest.raises(SettingsError, match="chmod"):
        membership(home)


def test_a_token_names_the_host_that_others_know(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert issue(membership(home), NODE).host == "127.0.0.1"
    assert issue(membership(home, host="0.0.0.0", address="gpu-lab"), NODE).host == "gpu-lab"
    monkeypatch.setattr(socket, "getfqdn", lambda: "lab.example.org")
    assert issue(membership(home, host="::"), NODE).host == "lab.example.org"
    monkeypatch.setattr(socket, "getfqdn", lambda: "localhost.localdomain")
    with pytest.raises(UserError, match="--address"):
        issue(membership(home, host="0.0.0.0"), NODE)


def test_P10_the_tokens_of_a_person_end_with_its_membership(home: Path) -> None:
    ours = membership(home)
    for name in ("ann", "bob"):
        ours._admit(issue(ours, PERSON).secret, record(name, PERSON))
    by_ann, by_bob = issue(ours, PERSON, issuer="ann"), issue(ours, PERSON, issuer="bob")
    assert ours.revoke(PERSON, "ann")
    with pytest.raises(TokenError, match="used up"):
        ours._admit(by_ann.secret, record("mallory", PERSON))
    ours._admit(by_bob.secret, record("cleo", PERSON))
    assert not ours.revoke(PERSON, "ann")
    with pytest.raises(UserError, match="move HOME/person away"):
        ours.revoke(PERSON, "admin")


def joined(home: Path, name: str) -> Membership:
    ours = membership(home)
    ours._admit(issue(ours, PERSON).secret, record(name, PERSON))
    return ours


async def asked(ours: Membership, request: msg.IssueToken | msg.IssueReader) -> msg.Done:
    return await change_members(ours, request, asker="ann", control_port=7470, enrol_port=7473)


def open_tokens_of(ours: Membership, issuer: str) -> int:
    join = [t for t in ours._tokens.tokens if t.issuer == issuer and t.uses_left]
    return len(join) + sum(reader.issuer == issuer for reader in ours.readers.readers)


REQUESTS = [msg.IssueToken("r1", PERSON, 60.0, 1), msg.IssueReader("r1", "grafana", 60.0)]


@pytest.mark.parametrize("request_", REQUESTS, ids=["join", "read"])
async def test_P10_who_was_revoked_since_it_asked_gets_no_token(
    home: Path, request_: msg.IssueToken | msg.IssueReader
) -> None:
    ours = joined(home, "ann")
    assert (await asked(ours, request_)).done and open_tokens_of(ours, "ann") == 1
    ours.revoke(PERSON, "ann")
    answer = await asked(ours, request_)
    assert "ann is no member of this mesh any more" in answer.error and not answer.done
    assert open_tokens_of(ours, "ann") == 0


@pytest.mark.parametrize("request_", REQUESTS, ids=["join", "read"])
def test_P10_a_token_that_is_being_made_ends_with_the_membership_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, request_: msg.IssueToken | msg.IssueReader
) -> None:
    """The tokens are ended first: one that comes before the list has changed would stay."""
    ours = joined(home, "ann")
    ended = threading.Event()
    close = Readers.end_those_of

    def end_then_ask(readers: Readers, issuer: str) -> int:
        count = close(readers, issuer)
        ended.set()
        # Long enough for one that waits for nothing; one that waits ends behind this.
        asking.join(0.05)
        return count

    def ask() -> None:
        assert ended.wait(10)
        asyncio.run(asked(ours, request_))

    monkeypatch.setattr(Readers, "end_those_of", end_then_ask)
    asking = threading.Thread(target=ask)
    asking.start()
    assert ours.revoke(PERSON, "ann")
    asking.join(10)
    assert not asking.is_alive()
    assert open_tokens_of(ours, "ann") == 0


def test_who_asks_for_a_token_is_known_by_its_link() -> None:
    assert person_of(peer_name(record("ann", PERSON))) == "ann"
    assert person_of(peer_name(record("n1", NODE), "life")) == ""
    assert person_of(b"") == ""
    assert person_of(b"person@ann") == ""


# --- joining that was cut off ----------------------------------------------------------------


def test_P10_a_master_that_died_between_the_token_and_the_list_lets_the_same_one_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = membership(home)
    token = issue(ours, NODE)
    with monkeypatch.context() as dying:
        dying.setattr(MembersFile, "add", _full)
        with pytest.raises(OSError, match="No space"):
            ours._admit(token.secret, record("n1"))
    again = membership(home)
    with pytest.raises(TokenError, match="used up"):
        again._admit(token.secret, record("n2"))
    assert record("n1") in again._admit(token.secret, record("n1")).members
    again.revoke(NODE, "n1")
    with pytest.raises(UserError, match="were revoked"):
        again._admit(token.secret, record("n1"))
    with pytest.raises(TokenError, match="used up"):
        again._admit(token.secret, record("n3"))


def test_P10_a_clock_that_goes_back_lets_no_more_in(home: Path) -> None:
    ours = membership(home)
    token = issue(ours, NODE)
    enrol(ours._members, ours._tokens, token.secret, record("n1"), 1e9)
    with pytest.raises(TokenError, match="used up"):
        enrol(ours._members, ours._tokens, token.secret, record("n2"), 0.0)
    late = issue(ours, NODE)
    with pytest.raises(TokenError, match="expired"):
        enrol(ours._members, ours._tokens, late.secret, record("n2"), 4e9)


# --- the list on a node ------------------------------------------------------------------------


def test_P10_P12_a_node_with_a_full_disk_heeds_who_was_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = Identity.load_or_create(tmp_path / "keys", "master", MemberKind.MASTER).member
    kept = MembersFile(tmp_path / "members.json")
    kept.replace(Members(1, (master, record("n1"))))
    revoked = msgspec.structs.replace(record("n1"), revoked=True)
    with monkeypatch.context() as full:
        full.setattr("meshtrain.security.private_file.write_new", _full)
        with pytest.raises(SettingsError, match="can't be written"):
            kept.replace(Members(2, (master, revoked)))
    assert kept.roll.by_name(NODE, "n1") is None
    assert kept.version == 1, "so that the master sends it again"
    assert kept.replace(Members(2, (master, revoked)))


def test_the_longest_list_fits_into_a_message_and_a_file(tmp_path: Path) -> None:
    master = Identity.load_or_create(tmp_path / "keys", "master", MemberKind.MASTER).member
    many = tuple(
        Member(f"{i:06}{'n' * 58}", NODE, f"{i:040}", f"{i:064x}", f"{i:064x}", revoked=True)
        for i in range(MEMBERS_MAX - 1)
    )
    members = Members(1 << 60, (master, *many))
    data = encode(msg.MembersChanged(members), SocketLimits().control_message_bytes_max)
    assert len(data) < SocketLimits().control_message_bytes_max / 2
    MembersFile(tmp_path / "members.json").replace(members)
    assert len(MembersFile(tmp_path / "members.json").members.members) == MEMBERS_MAX


# --- news ------------------------------------------------------------------------------------


class Course:
    """A master's list with two nodes that are there, and what they were told."""

    def __init__(self, home: Path) -> None:
        self.membership = membership(home)
        for name in ("n1", "n2"):
            self.join(name)
        self.peers = {"n1": b"n1/x", "n2": b"n2/x"}
        self.told: list[tuple[bytes, int]] = []
        self.cuts = 0
        self.ended: list[str] = []
        self.notes: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.news = MemberNews(
            self.membership,
            self,  # type: ignore[arg-type]
            self.peers,
            end=self._end,
            spawn=self._spawn,
            note=self.notes.append,
        )

    @property
    def version(self) -> int:
        return self.membership.members.version

    def join(self, name: str) -> None:
        self.membership._admit(issue(self.membership, NODE).secret, record(name))

    def send_control(self, peer: bytes, messages: Sequence[msg.MembersChanged]) -> bool:
        self.told += [(peer, message.members.version) for message in messages]
        return True

    def rebind(self) -> None:
        self.cuts += 1

    def _end(self, node_id: str) -> None:
        self.peers.pop(node_id, None)
        self.ended.append(node_id)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        self.tasks.append(asyncio.create_task(coroutine))
        return self.tasks[-1]

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.005)


async def test_P10_all_but_the_revoked_one_hear_of_it_then_the_links_are_cut(home: Path) -> None:
    course = Course(home)
    course.membership.revoke(NODE, "n2")
    await course.until(lambda: course.cuts)
    assert course.ended == ["n2"]
    assert course.told == [(b"n1/x", course.version)]
    assert course.news.revoked_nodes == {"n2"}
    assert course.cuts == 1


async def test_those_who_join_together_are_told_of_together(home: Path) -> None:
    course = Course(home)
    for number in range(5):
        course.join(f"new{number}")
    await course.until(lambda: len(course.told) >= 2)
    assert course.told == [(b"n1/x", course.version), (b"n2/x", course.version)]
    assert course.cuts == 0


async def test_a_node_that_missed_it_is_told_again_but_not_in_a_loop(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(home)
    for _ in range(1000):
        course.news.heard("n1", b"n1/x", 0)
    assert course.told == [(b"n1/x", course.version)]
    course.news.heard("n1", b"n1/of-another-life", 0)
    assert len(course.told) == 2
    monkeypatch.setattr(member_news, "AGAIN_S", -1.0)
    course.news.heard("n1", b"n1/of-another-life", course.version - 1)
    assert len(course.told) == 3
    course.news.heard("n1", b"n1/of-another-life", course.version)
    assert len(course.told) == 3


async def test_P10_a_list_that_is_later_than_the_master_s_is_outranked_once(home: Path) -> None:
    course = Course(home)
    later = course.version + 1_000_000
    for _ in range(3):
        course.news.heard("n1", b"n1/x", later)
    await course.until(lambda: course.notes)
    assert course.version == later + 1
    assert len(course.tasks) == 1
    assert "had a later list" in course.notes[0]


async def test_P11_an_absurd_version_moves_nothing(home: Path) -> None:
    course = Course(home)
    before = course.version
    course.news.heard("n1", b"n1/x", (1 << 63) - 1)
    assert course.tasks == []
    assert course.version == before


async def test_a_large_mesh_is_told_at_its_heartbeats(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = Course(home)
    monkeypatch.setattr(member_news, "PUSHED_BYTES_MAX", 100)
    course.membership.revoke(NODE, "n2")
    await course.until(lambda: course.cuts)
    assert course.told == []
    course.news.heard("n1", b"n1/x", 0)
    assert course.told == [(b"n1/x", course.version)]


async def test_nothing_is_cut_once_the_master_stops(home: Path) -> None:
    course = Course(home)
    course.news.close()
    course.membership.revoke(NODE, "n2")
    await course.until(lambda: course.ended)
    course.news._cut_links()
    assert course.cuts == 0
