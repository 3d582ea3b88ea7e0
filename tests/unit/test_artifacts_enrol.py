"""P10: a token lets its bearer join, at the master that it names, with keys of its own."""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from member_keys import IMPOSTOR, MASTER, NODE, OTHER_NODE, PERSON, STRANGER, identity

from meshtrain.artifacts import enrol as enrolling
from meshtrain.artifacts.enrol import ENROL_PATH, Enrolment, EnrolmentError, enrol
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.holder import HttpTimeouts
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.security.enrol import enrol as take_in
from meshtrain.security.keys import Identity
from meshtrain.security.membership import MembersFile
from meshtrain.security.signing import HttpSecurity
from meshtrain.security.tls import pinned_context
from meshtrain.security.tokens import JoinToken, TokensFile

NOW_S = 1_800_000_000.0
HOUR_S = 3600.0


@dataclass
class Master:
    members: MembersFile
    tokens: TokensFile
    server: ArtifactServer
    url: str
    enrol_url: str
    now_s: float = NOW_S
    admitted: list[str] = field(default_factory=list)
    lose_answers: int = 0

    def admit(self, secret: bytes, member: Member) -> Members:
        answer = take_in(self.members, self.tokens, secret, member, self.now_s)
        self.admitted.append(member.name)
        return answer

    def token(
        self,
        kind: MemberKind = MemberKind.PERSON,
        *,
        ttl_s: float = HOUR_S,
        uses_max: int = 1,
        master: Identity = MASTER,
    ) -> JoinToken:
        secret = self.tokens.issue(kind, ttl_s, uses_max, self.now_s)
        port = int(self.enrol_url.rsplit(":", 1)[1])
        return JoinToken(
            "127.0.0.1", port, 7470, master.member.cert_sha256, master.member.curve_key, secret
        )

    def names(self) -> list[str]:
        return [member.name for member in self.members.members.members]


@pytest.fixture
def encrypt() -> bool:
    return True


@pytest.fixture
async def master(tmp_path: Path, encrypt: bool) -> AsyncIterator[Master]:
    members = MembersFile(tmp_path / "members.json")
    members.add(MASTER.member)
    members.add(NODE.member)
    tokens = TokensFile(tmp_path / "tokens.json")
    server = ArtifactServer(
        ArtifactStore(tmp_path / "store"),
        "127.0.0.1",
        accept_uploads=True,
        security=HttpSecurity(MASTER, members.roll, encrypt),
        enrolment=Enrolment(MASTER.member, lambda *asked: made.admit(*asked)),
    )

    @web.middleware
    async def lose(request: web.Request, handler: Any) -> Any:
        answer = await handler(request)
        if made.lose_answers and request.path == ENROL_PATH:
            made.lose_answers -= 1
            assert request.transport is not None
            request.transport.abort()
        return answer

    server.app.middlewares.append(lose)
    made = Master(members, tokens, server, "", "")
    made.url = await server.start()
    assert server.enrol_url is not None
    made.enrol_url = server.enrol_url
    yield made
    await server.stop()


@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("joiner", [PERSON, OTHER_NODE], ids=repr)
async def test_p10_a_token_lets_its_bearer_join(
    master: Master, joiner: Identity, encrypt: bool
) -> None:
    """With artifacts in the clear, joining has an address with TLS of its own."""
    assert master.enrol_url.startswith("https://")
    assert (master.url == master.enrol_url) is encrypt
    members = await enrol(master.token(joiner.member.kind), joiner)
    assert members == master.members.members
    assert joiner.member in members.members


async def test_p10_an_answer_that_was_lost_is_given_again_and_uses_nothing(master: Master) -> None:
    token = master.token(uses_max=1)
    master.lose_answers = 2
    members = await enrol(token, PERSON)
    assert master.admitted == ["ada"] * 3
    assert await enrol(token, PERSON) == members
    with pytest.raises(EnrolmentError, match="used up"):
        await enrol(token, STRANGER)
    assert master.names() == ["master", "gpu1", "ada"]


async def test_p10_who_joined_may_upload_at_once(master: Master) -> None:
    from meshtrain.artifacts.upload import upload_tree
    from meshtrain.security.membership import Roll

    folder = Path(master.members._path).parent / "code"
    folder.mkdir()
    (folder / "train.py").write_bytes(b"print()")
    members = await enrol(master.token(), PERSON)
    security = HttpSecurity(PERSON, Roll(members))
    uploaded = await upload_tree(folder, master.url, security=security)
    assert (Path(folder).parent / "store" / "artifacts" / uploaded).is_dir()


@pytest.mark.parametrize("case", ["unknown", "expired", "used", "kind", "taken", "revoked"])
async def test_p10_who_may_not_join_is_told_why(master: Master, case: str) -> None:
    token, joiner, words = master.token(uses_max=2), PERSON, ""
    match case:
        case "unknown":
            token, words = msgspec.structs.replace(token, secret=bytes(16)), "doesn't know"
        case "expired":
            master.now_s += 2 * HOUR_S
            words = "has expired"
        case "used":
            token, words = master.token(uses_max=1), "used up"
            await enrol(token, STRANGER)
        case "kind":
            joiner, words = OTHER_NODE, "lets a person join, not a node"
        case "taken":
            await enrol(token, IMPOSTOR)
            words = "is taken, by other keys"
        case "revoked":
            await enrol(token, PERSON)
            master.members.revoke(MemberKind.PERSON, "ada")
            words = "these keys were revoked"
    before = master.members.members
    with pytest.raises(EnrolmentError, match=words):
        await enrol(token, joiner)
    assert master.members.members == before


async def test_p10_the_token_s_secret_goes_to_its_master_alone(master: Master) -> None:
    token = master.token(master=OTHER_NODE)
    with pytest.raises(EnrolmentError, match=r"not the master that the token names.*Nothing was"):
        await enrol(token, PERSON)
    assert master.admitted == []


async def test_p10_clocks_that_differ_are_told_with_the_refusal(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    master.now_s += 2 * HOUR_S
    token = msgspec.structs.replace(master.token(), secret=bytes(16))
    with pytest.raises(EnrolmentError) as caught:
        await enrol(token, PERSON)
    assert "clock" not in str(caught.value)
    # The Date of the answer is the real one.
    ahead_s = time.time() + 500
    monkeypatch.setattr(enrolling, "wall_now_s", lambda: ahead_s)
    with pytest.raises(EnrolmentError, match=r"clock is \d+ s ahead of the master's"):
        await enrol(token, PERSON)


async def test_p10_a_master_that_is_not_there_is_told(master: Master) -> None:
    token = master.token()
    await master.server.stop()
    with pytest.raises(EnrolmentError, match=r"can't be reached to join.*the token stays good"):
        await enrol(token, PERSON, timeouts=HttpTimeouts(connect_s=1.0))


@pytest.mark.parametrize("answer", ["no json", "without me", "other master", "huge", "redirect"])
async def test_p11_a_list_that_is_no_good_is_not_taken(
    master: Master, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = msgspec.json.encode(Members(1, (MASTER.member, PERSON.member)))
    body = {
        "no json": b"{",
        "without me": msgspec.json.encode(Members(1, (MASTER.member,))),
        "other master": good.replace(MASTER.member.cert_sha256.encode(), b"0" * 64),
        "huge": good + b" " * 100,
        "redirect": b"",
    }[answer]

    async def respond(self: Enrolment, request: web.Request) -> web.Response:
        if answer == "redirect":
            raise web.HTTPTemporaryRedirect(master.url + ENROL_PATH)
        return web.Response(body=body)

    monkeypatch.setattr(enrolling.Enrolment, "_take", respond)
    if answer == "huge":
        monkeypatch.setattr(enrolling, "MEMBERS_BYTES_MAX", len(good))
    with pytest.raises(EnrolmentError, match=r"no good|has more than|307"):
        await enrol(master.token(), PERSON)


# --- the endpoint, as anybody meets it ------------------------------------------------


async def post(url: str, body: bytes) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            url + ENROL_PATH, data=body, ssl=pinned_context(MASTER.member.cert_sha256)
        ) as response,
    ):
        return response.status, await response.read()


def request_of(token: JoinToken, joiner: Identity, **changes: Any) -> bytes:
    plain = msgspec.json.decode(enrolling._request_body(token, joiner))
    for key, value in changes.items():
        target = plain["member"] if key in plain["member"] else plain
        target[key] = value
    return msgspec.json.encode(plain)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 200),
        ({"sign_key": STRANGER.member.sign_key}, 401),
        ({"cert_sha256": STRANGER.member.cert_sha256}, 401),
        ({"curve_key": STRANGER.member.curve_key}, 401),
        ({"name": "eve"}, 401),
        ({"kind": "node"}, 401),
        ({"kind": "master"}, 403),
        ({"revoked": True}, 403),
        ({"proof": "A" * 86 + "=="}, 401),
        ({"proof": ""}, 400),
        ({"secret": ""}, 400),
        ({"secret": None}, 400),
        ({"name": "../ada"}, 400),
        ({"name": "a" * 65}, 400),
        ({"name": ""}, 400),
        ({"sign_key": "00"}, 400),
        ({"sign_key": "g" * 64}, 400),
        ({"extra": 1}, 400),
    ],
)
async def test_p10_a_request_to_join_is_proven_with_the_key_that_joins(
    master: Master, changes: dict[str, Any], status: int
) -> None:
    before = master.members.members
    answered, body = await post(master.url, request_of(master.token(), PERSON, **changes))
    assert answered == status
    if status != 200:
        assert master.members.members == before
        assert NODE.member.sign_key.encode() not in body


async def test_p10_a_request_for_another_master_or_token_proves_nothing(master: Master) -> None:
    elsewhere = master.token(master=OTHER_NODE)
    assert (await post(master.url, request_of(elsewhere, PERSON)))[0] == 401
    one, other = master.token(), master.token()
    stolen = msgspec.json.decode(request_of(other, PERSON))["secret"]
    assert (await post(master.url, request_of(one, PERSON, secret=stolen)))[0] == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[" * 4000, 400), (b"\xff", 400), (b"x" * 5000, 413)],
    ids=["empty", "deep", "no text", "large"],
)
async def test_p11_bodies_that_are_no_request_are_refused(
    master: Master, body: bytes, status: int
) -> None:
    assert (await post(master.url, body))[0] == status
    assert master.admitted == []


@pytest.mark.parametrize("encrypt", [False])
async def test_p10_a_token_is_never_taken_in_the_clear(master: Master) -> None:
    assert master.url.startswith("http://")
    status, body = await post(master.url, request_of(master.token(), PERSON))
    assert (status, b"by HTTPS only" in body) == (403, True)
    assert master.admitted == []


async def test_p10_a_host_that_is_not_the_master_takes_nobody_in(tmp_path: Path) -> None:
    members = MembersFile(tmp_path / "members.json")
    members.add(MASTER.member)
    security = HttpSecurity(MASTER, members.roll)
    server = ArtifactServer(ArtifactStore(tmp_path / "store"), "127.0.0.1", security=security)
    url = await server.start()
    token = JoinToken("127.0.0.1", 1, 1, MASTER.member.cert_sha256, "", bytes(16))
    assert (await post(url, request_of(token, PERSON)))[0] == 401
    await server.stop()


async def test_p12_a_full_disk_is_told_and_those_who_wait_are_bounded(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    token = master.token()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnrolmentError, match=r"507: .*No space left"):
            await enrol(token, PERSON)
    assert master.names() == ["master", "gpu1"]
    await enrol(token, PERSON)
    monkeypatch.setattr(enrolling, "WAITING_MAX", 0)
    with pytest.raises(EnrolmentError, match="503: too many ask"):
        await enrol(master.token(), PERSON)


async def test_p10_of_two_who_want_one_name_one_gets_it(master: Master) -> None:
    token = master.token(uses_max=2)
    answers = await asyncio.gather(
        enrol(token, PERSON), enrol(token, IMPOSTOR), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["EnrolmentError", "Members"]
    assert master.names().count("ada") == 1


async def test_the_date_that_is_compared_is_sent(master: Master) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            master.url + ENROL_PATH, ssl=pinned_context(MASTER.member.cert_sha256)
        ) as response,
    ):
        assert email.utils.parsedate_to_datetime(response.headers["Date"])


def test_p10_the_joiner_s_own_record_is_what_is_asked_for() -> None:
    token = JoinToken("127.0.0.1", 1, 1, MASTER.member.cert_sha256, "", bytes(16))
    joiner = identity(MemberKind.NODE, "gpu3")
    asked = msgspec.json.decode(enrolling._request_body(token, joiner))
    assert msgspec.convert(asked["member"], Member) == joiner.member
