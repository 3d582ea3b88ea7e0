"""P10: join tokens, and who becomes a member by one."""

from __future__ import annotations

import base64
import hashlib
import threading
from pathlib import Path

import msgspec
import pytest

from meshtrain.core.member import Member, MemberKind
from meshtrain.errors import SettingsError
from meshtrain.security import tokens as tokens_module
from meshtrain.security.enrol import enrol
from meshtrain.security.membership import MembersFile, MembershipError
from meshtrain.security.tokens import (
    KEPT_S,
    WRONG_TRIES_AT_ONCE_MAX,
    WRONG_TRIES_PER_S_MAX,
    JoinToken,
    TokenError,
    TokensFile,
)

NODE, PERSON, MASTER = MemberKind.NODE, MemberKind.PERSON, MemberKind.MASTER
TOKEN = JoinToken("lab.example.org", 7473, 7470, "ab" * 32, "0" * 40, bytes(range(16)))
NOW_S = 1_700_000_000.0


def member(name: str, key: int = 1, kind: MemberKind = NODE) -> Member:
    return Member(name, kind, str(key).rjust(40, "0"), f"{key:064x}", f"{key:064x}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "tokens.json"


@pytest.fixture
def tokens(path: Path) -> TokensFile:
    return TokensFile(path)


# --- the word --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["lab.example.org", "127.0.0.1", "fe80::1%eth0", "a" * 253])
def test_a_token_survives_being_pasted(host: str) -> None:
    token = msgspec.structs.replace(TOKEN, host=host)
    word = token.word()
    assert word.startswith("mt1.")
    assert word.split() == [word]
    assert JoinToken.parse(word) == token
    assert JoinToken.parse(f"  {word[:30]}\n  {word[30:]}\r\n") == token


def test_p10_a_slip_of_the_hand_is_told_from_a_wrong_token() -> None:
    word = TOKEN.word()
    for at in range(4, len(word)):
        other = "A" if word[at] != "A" else "B"
        with pytest.raises(TokenError, match="mistyped or cut short"):
            JoinToken.parse(word[:at] + other + word[at + 1 :])
        with pytest.raises(TokenError, match="mistyped or cut short"):
            JoinToken.parse(word[:at])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no join token"),
        ("hello", "is no join token"),
        ("mt1", "is no join token"),
        ("mt2.AAAA", "made by another version"),
        ("mt1.", "mistyped or cut"),
        ("mt1.!!!!", "mistyped or cut"),
        ("mt1.ä", "mistyped or cut"),
        ("mt1." + "A" * 1001, "more than 1000"),
    ],
)
def test_p11_what_is_no_token(text: str, words: str) -> None:
    with pytest.raises(TokenError, match=words):
        JoinToken.parse(text)


@pytest.mark.parametrize(
    "fields",
    [
        ["h", 1, 2, bytes(32), bytes(32)],
        ["h", 0, 2, bytes(32), bytes(32), bytes(16)],
        ["h", 1, 65536, bytes(32), bytes(32), bytes(16)],
        ["h", 1, 2, bytes(31), bytes(32), bytes(16)],
        ["h", 1, 2, bytes(32), bytes(32), bytes(15)],
        ["a b", 1, 2, bytes(32), bytes(32), bytes(16)],
        ["h;rm", 1, 2, bytes(32), bytes(32), bytes(16)],
        {},
        7,
    ],
)
def test_p11_a_token_whose_sum_is_right_and_content_is_not(fields: object) -> None:
    data = msgspec.msgpack.encode(fields)
    raw = data + hashlib.sha256(data).digest()[:4]
    word = "mt1." + base64.urlsafe_b64encode(raw).decode().rstrip("=")
    with pytest.raises(TokenError, match="holds nonsense"):
        JoinToken.parse(word)


@pytest.mark.parametrize(
    ("field", "value"),
    [("host", "a b"), ("http_port", 0), ("cert_sha256", "zz"), ("curve_key", "x"), ("secret", b"")],
)
def test_a_token_that_can_t_be_made(field: str, value: object) -> None:
    with pytest.raises(TokenError, match="no token can be made"):
        msgspec.structs.replace(TOKEN, **{field: value}).word()


def test_p10_a_token_shows_no_secret_when_it_is_printed() -> None:
    assert repr(TOKEN) == "JoinToken(lab.example.org, HTTP port 7473)"


# --- the master's list -----------------------------------------------------------------------


def test_p10_a_token_is_good_for_its_uses_also_over_a_restart(
    tokens: TokensFile, path: Path
) -> None:
    secret = tokens.issue(NODE, 3600.0, 3, NOW_S)
    assert len(secret) == 16
    for _ in range(3):
        TokensFile(path).redeem(secret, NODE, NOW_S)
    with pytest.raises(TokenError, match="is used up"):
        TokensFile(path).redeem(secret, NODE, NOW_S)


def test_p10_the_secret_is_nowhere_on_the_disk(tokens: TokensFile, path: Path) -> None:
    secret = tokens.issue(NODE, 3600.0, 1, NOW_S)
    text = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    for shape in (secret, secret.hex().encode(), base64.b64encode(secret)):
        assert shape not in text
    assert hashlib.sha256(secret).hexdigest().encode() not in text


def test_p10_expired_used_up_and_unknown_are_told_apart_to_holders_only(
    tokens: TokensFile,
) -> None:
    secret = tokens.issue(NODE, 60.0, 1, NOW_S)
    tokens.redeem(secret, NODE, NOW_S + 59)
    with pytest.raises(TokenError, match="is used up"):
        tokens.redeem(secret, NODE, NOW_S + 59)
    late = tokens.issue(NODE, 60.0, 1, NOW_S)
    with pytest.raises(TokenError, match="has expired"):
        tokens.redeem(late, NODE, NOW_S + 60)
    with pytest.raises(TokenError, match="doesn't know this token"):
        tokens.redeem(bytes(16), NODE, NOW_S + 60)
    with pytest.raises(TokenError, match="doesn't know this token"):
        tokens.redeem(late, NODE, NOW_S + 60 + KEPT_S)


def test_p10_a_token_is_for_one_kind_of_member(tokens: TokensFile) -> None:
    secret = tokens.issue(NODE, 60.0, 1, NOW_S)
    with pytest.raises(TokenError, match="lets a node join, not a person"):
        tokens.redeem(secret, PERSON, NOW_S)
    tokens.redeem(secret, NODE, NOW_S)
    with pytest.raises(TokenError, match="one master"):
        tokens.issue(MASTER, 60.0, 1, NOW_S)


def test_p10_guessing_is_bounded_and_joining_is_not(tokens: TokensFile) -> None:
    secret = tokens.issue(NODE, 3600.0, 100, NOW_S)
    for _ in range(50):
        tokens.redeem(secret, NODE, NOW_S)
    for guess in range(WRONG_TRIES_AT_ONCE_MAX):
        with pytest.raises(TokenError, match="doesn't know this"):
            tokens.redeem(guess.to_bytes(16, "big"), NODE, NOW_S)
    with pytest.raises(TokenError, match="too many wrong join tokens"):
        tokens.redeem(bytes(16), NODE, NOW_S)
    # A clock that goes back gives no new tries.
    with pytest.raises(TokenError, match="too many wrong"):
        tokens.redeem(secret, NODE, NOW_S - 1000)
    with pytest.raises(TokenError, match="too many wrong"):
        tokens.redeem(secret, NODE, NOW_S - 1000)
    tokens.redeem(secret, NODE, NOW_S - 1000 + 1.01 / WRONG_TRIES_PER_S_MAX)


def test_open_tokens_are_bounded_and_old_ones_go(
    tokens: TokensFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "TOKENS_MAX", 3)
    secrets = [tokens.issue(NODE, 60.0, 1, NOW_S) for _ in range(3)]
    with pytest.raises(TokenError, match="3 tokens are open, which is the limit"):
        tokens.issue(NODE, 60.0, 1, NOW_S)
    tokens.redeem(secrets[1], NODE, NOW_S)
    tokens.issue(NODE, 60.0, 1, NOW_S)
    assert len(tokens.tokens) == 3
    tokens.redeem(secrets[0], NODE, NOW_S)
    tokens.issue(NODE, 60.0, 1, NOW_S + 61 + KEPT_S)
    assert len(TokensFile(path).tokens) == 1


def test_p10_uses_are_never_given_out_twice(tokens: TokensFile, path: Path) -> None:
    secret = tokens.issue(NODE, 60.0, 10, NOW_S)
    start = threading.Barrier(8)
    taken: list[int] = []

    def redeem() -> None:
        start.wait()
        for _ in range(5):
            try:
                tokens.redeem(secret, NODE, NOW_S)
            except TokenError:
                continue
            taken.append(1)

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 10
    assert TokensFile(path).tokens[0].uses_left == 0


def test_p12_a_use_that_can_t_be_written_lets_nobody_in(
    tokens: TokensFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tokens.issue(NODE, 60.0, 1, NOW_S)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(SettingsError, match="can't be written: full"):
            tokens.redeem(secret, NODE, NOW_S)
    assert TokensFile(path).tokens == tokens.tokens
    tokens.redeem(secret, NODE, NOW_S)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b'[{"secret_sha256": "x", "kind": "node", "expires_s": 1, "uses_left": 1}]',
        b'[{"secret_sha256": "%s", "kind": "node", "expires_s": 1, "uses_left": -1}]' % (b"a" * 64),
    ],
)
def test_p11_a_damaged_list_is_told_with_its_mend(
    tokens: TokensFile, path: Path, content: bytes
) -> None:
    tokens.issue(NODE, 60.0, 1, NOW_S)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"is damaged.*or delete it"):
        TokensFile(path)


def test_p10_a_list_that_others_may_touch_is_refused(tokens: TokensFile, path: Path) -> None:
    tokens.issue(NODE, 60.0, 1, NOW_S)
    path.chmod(0o644)
    with pytest.raises(SettingsError, match=f"`chmod 600 {path}`"):
        TokensFile(path)


# --- becoming a member -----------------------------------------------------------------------


@pytest.fixture
def members(tmp_path: Path) -> MembersFile:
    return MembersFile(tmp_path / "home" / "members.json")


def test_p10_a_token_makes_a_member_once(members: MembersFile, tokens: TokensFile) -> None:
    secret = tokens.issue(NODE, 60.0, 1, NOW_S)
    gpu1 = member("gpu1")
    assert enrol(members, tokens, secret, gpu1, NOW_S).members == (gpu1,)
    # The answer was lost: the same member asks again.
    assert enrol(members, tokens, secret, gpu1, NOW_S + 3600) == members.members
    with pytest.raises(TokenError, match="has expired"):
        enrol(members, tokens, secret, member("gpu2", 2), NOW_S + 3600)
    with pytest.raises(TokenError, match="is used up"):
        enrol(members, tokens, secret, member("gpu2", 2), NOW_S)
    assert members.members.members == (gpu1,)


def test_p10_without_a_token_nobody_is_told_anything(
    members: MembersFile, tokens: TokensFile
) -> None:
    """Neither the list, to one who says that it is on it, nor that a name is taken."""
    members.add(member("gpu1"))
    for asking in (member("gpu1"), member("gpu1", 2), member("gpu2", 2)):
        with pytest.raises(TokenError, match="doesn't know this token"):
            enrol(members, tokens, bytes(16), asking, NOW_S)


def test_p10_a_refusal_uses_up_nothing(members: MembersFile, tokens: TokensFile) -> None:
    secret = tokens.issue(NODE, 60.0, 1, NOW_S)
    members.add(member("gpu1"))
    with pytest.raises(MembershipError, match="is taken"):
        enrol(members, tokens, secret, member("gpu1", 2), NOW_S)
    with pytest.raises(TokenError, match="lets a node join"):
        enrol(members, tokens, secret, member("ada", 3, PERSON), NOW_S)
    with pytest.raises(MembershipError, match="is no name"):
        enrol(members, tokens, secret, member("a/b", 3), NOW_S)
    assert members.members.members == (member("gpu1"),)
    enrol(members, tokens, secret, member("gpu2", 2), NOW_S)


def test_p10_a_revoked_member_joins_again_only_with_new_keys(
    members: MembersFile, tokens: TokensFile
) -> None:
    secret = tokens.issue(NODE, 60.0, 2, NOW_S)
    enrol(members, tokens, secret, member("gpu1", 1), NOW_S)
    members.revoke(NODE, "gpu1")
    with pytest.raises(MembershipError, match="these keys were revoked"):
        enrol(members, tokens, secret, member("gpu1", 1), NOW_S)
    enrol(members, tokens, secret, member("gpu1", 2), NOW_S)
    assert members.roll.by_name(NODE, "gpu1") == member("gpu1", 2)
