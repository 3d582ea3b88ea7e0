"""P10 and P11: lists of members and tokens over any course of events and any damage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import NotFoundError, SettingsError
from meshtrain.net.admission import NotAllowedError, SenderCheck
from meshtrain.security.membership import MembersFile, MembershipError, Roll
from meshtrain.security.tokens import JoinToken, TokenError, TokensFile

NODE, PERSON, MASTER = MemberKind.NODE, MemberKind.PERSON, MemberKind.MASTER
NAMES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from([NODE, PERSON])
KEYS = st.integers(1, 6)


def member(name: str, kind: MemberKind, key: int) -> Member:
    return Member(name, kind, str(key).rjust(40, "0"), f"{key:064x}", f"{key:064x}")


MASTER_MEMBER = member("mesh", MASTER, 99)


class MembershipMachine(RuleBasedStateMachine):
    """A master's list with restarts and crashes, and a replica that hears of it now and then."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "members.json"
        self.now_s = 0.0
        #: keys that were revoked, ever
        self.revoked: set[int] = set()
        self.file = MembersFile(self.path, now_s=lambda: self.now_s)
        self.file.add(MASTER_MEMBER)
        self.replica = MembersFile(Path(self.folder.name) / "replica.json")
        self.sent = [self.file.members]
        self.valid: dict[tuple[MemberKind, str], int] = {}
        self.version = self.file.version

    @rule(name=NAMES, kind=KINDS, key=KEYS)
    def add(self, name: str, kind: MemberKind, key: int) -> None:
        known = self.valid.get((kind, name))
        try:
            changed = self.file.add(member(name, kind, key))
        except MembershipError:
            assert (
                known not in (None, key)
                or key in [k for who, k in self.valid.items() if who != (kind, name)]
                or key in self.revoked
            )
            return
        # Keys that were revoked are out for good, whatever became of the name.
        assert key not in self.revoked
        assert changed == (known != key)
        self.valid[kind, name] = key
        if changed:
            self.sent.append(self.file.members)

    @rule(name=NAMES, kind=KINDS)
    def revoke(self, name: str, kind: MemberKind) -> None:
        try:
            changed = self.file.revoke(kind, name)
        except NotFoundError:
            assert (kind, name) not in self.valid
            return
        assert changed == ((kind, name) in self.valid)
        if changed:
            self.revoked.add(self.valid.pop((kind, name)))
        if changed:
            self.sent.append(self.file.members)

    @rule(seconds=st.integers(-100, 100))
    def clock_moves(self, seconds: int) -> None:
        self.now_s = max(0.0, self.now_s + seconds)

    @rule()
    def restart(self) -> None:
        self.file = MembersFile(self.path, now_s=lambda: self.now_s)

    @rule(at=st.integers(0, 50))
    def replica_hears(self, at: int) -> None:
        told = self.sent[at % len(self.sent)]
        before = self.replica.version
        assert self.replica.replace(told) == (told.version > before)

    @invariant()
    def the_roll_is_who_is_valid(self) -> None:
        roll = self.file.roll
        for kind in (NODE, PERSON):
            for name in ("a", "b", "c"):
                key = self.valid.get((kind, name))
                expected = None if key is None else member(name, kind, key)
                assert roll.by_name(kind, name) == expected
        for key in range(1, 7):
            found = roll.by_curve_key(member("x", NODE, key).curve_key)
            assert (found is not None) == (key in self.valid.values())
        assert roll.master == MASTER_MEMBER

    @invariant()
    def versions_rise(self) -> None:
        assert self.file.version >= self.version
        self.version = self.file.version
        assert len({m.version for m in self.sent}) == len(self.sent)

    @invariant()
    def the_replica_is_a_list_that_was_told(self) -> None:
        assert self.replica.version == 0 or self.replica.members in self.sent

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


MembershipMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None
)
TestMembership = MembershipMachine.TestCase


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("mt1.ABab01-_= \n").map(lambda text: "mt1." + text))
def test_p11_no_text_crashes_the_reading_of_tokens(text: str) -> None:
    try:
        token = JoinToken.parse(text)
    except TokenError as error:
        assert str(error)
    else:
        assert JoinToken.parse(token.word()) == token


@settings(max_examples=100, deadline=None)
@given(
    st.from_regex(r"\A[A-Za-z0-9:._-]{1,60}\Z"),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.text(" \n\t\r", max_size=5),
)
def test_p10_every_token_survives_its_way(
    host: str, http: int, control: int, cert: bytes, secret: bytes, space: str
) -> None:
    token = JoinToken(host, http, control, cert.hex(), "0" * 40, secret)
    word = token.word()
    half = len(word) // 2
    assert JoinToken.parse(space + word[:half] + space + word[half:] + space) == token


DAMAGE = st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=3)


def damaged(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for at, put in changes:
        at %= len(data) + 1
        data = data[:at] + put + data[at + max(1, len(put)) :]
    return data


@settings(max_examples=60, deadline=None)
@given(DAMAGE)
def test_p11_damage_to_the_lists_is_told_or_harmless(changes: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        members_path, tokens_path = Path(folder) / "members.json", Path(folder) / "tokens.json"
        members = MembersFile(members_path)
        members.add(MASTER_MEMBER)
        members.add(member("a", NODE, 1))
        TokensFile(tokens_path).issue(NODE, 60.0, 1, 0.0)
        for path, read in ((members_path, MembersFile), (tokens_path, TokensFile)):
            path.write_bytes(damaged(path.read_bytes(), changes))
            try:
                read(path)
            except SettingsError as error:
                assert str(path) in str(error)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([b"[", b'{"a":', b'{"members":', b'{"x":[']), st.integers(1, 100_000))
def test_p11_a_list_that_nests_deep_is_told(start: bytes, depth: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for read in (MembersFile, TokensFile):
            path = Path(folder) / "list.json"
            path.write_bytes(start * depth)
            path.chmod(0o600)
            try:
                read(path)
            except SettingsError as error:
                assert str(path) in str(error)
            else:
                raise AssertionError("what is no list was read as one")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=60))
def test_p10_no_bytes_pass_for_a_sender(user_id: bytes, peer: bytes) -> None:
    gpu1 = member("gpu1", NODE, 1)
    check = SenderCheck(Roll(Members(1, (MASTER_MEMBER, gpu1))))
    for who, name in ((user_id, peer), (gpu1.curve_key.encode(), peer), (user_id, b"gpu1/x")):
        try:
            sender = check.sender(who, name)
        except NotAllowedError:
            continue
        assert who == sender.curve_key.encode()
        assert name.startswith(b"gpu1/")
    assert (
        msgspec.structs.asdict(check.sender(gpu1.curve_key.encode(), b"gpu1/x"))["name"] == "gpu1"
    )
