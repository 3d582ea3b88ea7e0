"""P10: a signature is good for one request, to one server, once; anything else is refused."""

from __future__ import annotations

import random
import re
from itertools import count

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from member_keys import (
    IMPOSTOR,
    MASTER,
    NODE,
    OTHER_NODE,
    PERSON,
    STRANGER,
    identity,
    members,
    revoke,
    roll,
)

from meshtrain.core.member import MemberKind
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.security.signing import (
    HEADER_BYTES_MAX,
    NO_BODY,
    WINDOW,
    Asked,
    NotSignedError,
    Signer,
    Verifier,
)

ASKED = Asked("GET", "/v1/artifacts/ab/files/0?x=1", "bytes=0-15")
BODY = "5" * 64


def pair(client: Identity = PERSON, of_roll: Roll | None = None) -> tuple[Signer, Verifier]:
    verifier = Verifier(NODE.member, of_roll or roll())
    signer = Signer(client, NODE.member)
    assert signer.learn(verifier.challenge(0.0))
    return signer, verifier


def test_p10_a_member_s_signature_passes_and_tells_who_it_is() -> None:
    signer, verifier = pair()
    signed = verifier.verify(signer.sign(ASKED, BODY), ASKED, 1.0)
    assert signed.member == PERSON.member
    assert signed.body_sha256 == BODY
    assert verifier.verify(signer.sign(ASKED), ASKED, 2.0).body_sha256 == NO_BODY


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(ASKED, method="PUT"),
        msgspec.structs.replace(ASKED, method="HEAD"),
        msgspec.structs.replace(ASKED, target="/v1/artifacts/ab/files/1?x=1"),
        msgspec.structs.replace(ASKED, target="/v1/artifacts/ab/files/0?x=2"),
        msgspec.structs.replace(ASKED, range="bytes=0-16"),
        msgspec.structs.replace(ASKED, range=""),
        # What stands in two fields is not what stands in one.
        Asked("GET", "/v1/artifacts/ab/files/0?x=1bytes=0-15", ""),
    ],
)
def test_p10_a_signature_of_another_request_is_refused(other: Asked) -> None:
    signer, verifier = pair()
    authorization = signer.sign(ASKED)
    with pytest.raises(NotSignedError, match="not of this request"):
        verifier.verify(authorization, other, 1.0)
    # The refusal used nothing up.
    verifier.verify(authorization, ASKED, 1.0)


@pytest.mark.parametrize("field", ["kind", "name", "instance", "count", "body", "signature"])
def test_p10_each_field_of_the_header_is_signed(field: str) -> None:
    signer, verifier = pair()
    authorization = signer.sign(ASKED, BODY)
    forged = {
        "kind": authorization.replace("person/ada", "node/ada"),
        "name": authorization.replace("person/ada", "node/gpu2"),
        "instance": re.sub("instance=.", "instance=0", authorization),
        "count": authorization.replace("count=1 ", "count=2 "),
        "body": authorization.replace(BODY, "6" * 64),
        "signature": re.sub("signature=..", "signature=00", authorization),
    }[field]
    if forged == authorization:
        forged = authorization.replace("instance=0", "instance=1")
    with pytest.raises(NotSignedError, match="not that of"):
        verifier.verify(forged, ASKED, 1.0)


def test_p10_a_signature_for_another_server_is_refused() -> None:
    """A node that is asked can't pass the request on as its own to another one."""
    verifier = Verifier(NODE.member, roll())
    for server in (
        OTHER_NODE.member,
        MASTER.member,
        identity(MemberKind.NODE, "gpu1", 1).member,
    ):
        signer = Signer(PERSON, server)
        signer.learn(verifier.challenge(0.0))
        with pytest.raises(NotSignedError, match="not that of"):
            verifier.verify(signer.sign(ASKED), ASKED, 1.0)


@pytest.mark.parametrize("client", [STRANGER, IMPOSTOR])
def test_p10_a_key_that_is_not_on_the_list_is_refused(client: Identity) -> None:
    signer, verifier = pair(client)
    with pytest.raises(NotSignedError, match="on the list of members here"):
        verifier.verify(signer.sign(ASKED), ASKED, 1.0)


def test_p10_a_revoked_key_is_refused_at_once_and_midway() -> None:
    of_roll = roll()
    signer, verifier = pair(PERSON, of_roll)
    signed = verifier.verify(signer.sign(ASKED), ASKED, 1.0)
    assert verifier.still_member(signed.member)
    revoke(of_roll, PERSON.member)
    assert not verifier.still_member(signed.member)
    with pytest.raises(NotSignedError, match="on the list of members here"):
        verifier.verify(signer.sign(ASKED), ASKED, 1.0)
    # A newcomer of that name is somebody else.
    of_roll.update(members(MASTER, NODE, IMPOSTOR, version=3))
    assert not verifier.still_member(signed.member)
    with pytest.raises(NotSignedError):
        verifier.verify(signer.sign(ASKED), ASKED, 1.0)


def test_p10_a_replayed_request_is_refused() -> None:
    signer, verifier = pair()
    authorization = signer.sign(ASKED)
    verifier.verify(authorization, ASKED, 1.0)
    with pytest.raises(NotSignedError, match="seen already"):
        verifier.verify(authorization, ASKED, 1.0)
    verifier.verify(signer.sign(ASKED), ASKED, 1.0)


def test_p10_parallel_requests_may_overtake_each_other_each_passing_once() -> None:
    signer, verifier = pair()
    waiting = [signer.sign(ASKED) for _ in range(200)]
    random.Random(7).shuffle(waiting)
    for authorization in waiting:
        verifier.verify(authorization, ASKED, 1.0)
    for authorization in waiting:
        with pytest.raises(NotSignedError, match="seen already"):
            verifier.verify(authorization, ASKED, 1.0)


def test_p10_what_falls_behind_the_window_is_refused_seen_or_not() -> None:
    signer, verifier = pair()
    oldest, second = signer.sign(ASKED), signer.sign(ASKED)
    newest = [signer.sign(ASKED) for _ in range(WINDOW - 1)][-1]
    verifier.verify(newest, ASKED, 1.0)
    with pytest.raises(NotSignedError, match="later ones"):
        verifier.verify(oldest, ASKED, 1.0)
    verifier.verify(second, ASKED, 1.0)
    with pytest.raises(NotSignedError, match="seen already"):
        verifier.verify(second, ASKED, 1.0)


def test_p10_a_nonce_ends_and_with_it_all_that_was_signed_over_it() -> None:
    verifier = Verifier(NODE.member, roll(), nonce_life_s=10.0)
    signer = Signer(PERSON, NODE.member)
    signer.learn(verifier.challenge(0.0))
    seen, unseen = signer.sign(ASKED), signer.sign(ASKED)
    verifier.verify(seen, ASKED, 9.9)
    for authorization in (seen, unseen):
        with pytest.raises(NotSignedError, match="another nonce"):
            verifier.verify(authorization, ASKED, 10.0)
    assert signer.learn(verifier.challenge(10.0))
    verifier.verify(signer.sign(ASKED), ASKED, 10.0)


def test_p10_the_table_of_counts_is_bounded_and_its_end_lets_no_replay_through() -> None:
    verifier = Verifier(NODE.member, roll(), instances_max=3)
    used = []
    for _ in range(3):
        signer = Signer(PERSON, NODE.member)
        signer.learn(verifier.challenge(0.0))
        used.append(signer.sign(ASKED))
        verifier.verify(used[-1], ASKED, 0.0)
    one_more = Signer(PERSON, NODE.member)
    one_more.learn(verifier.challenge(0.0))
    with pytest.raises(NotSignedError, match="new nonce"):
        verifier.verify(one_more.sign(ASKED), ASKED, 0.0)
    for authorization in used:
        with pytest.raises(NotSignedError, match="another nonce"):
            verifier.verify(authorization, ASKED, 0.0)
    one_more.learn(verifier.challenge(0.0))
    verifier.verify(one_more.sign(ASKED), ASKED, 0.0)


def test_p10_strangers_take_no_room_in_the_table() -> None:
    verifier = Verifier(NODE.member, roll(), instances_max=1)
    for _ in range(5):
        stranger = Signer(STRANGER, NODE.member)
        stranger.learn(verifier.challenge(0.0))
        with pytest.raises(NotSignedError, match="not that of"):
            verifier.verify(stranger.sign(ASKED), ASKED, 0.0)
    signer = Signer(PERSON, NODE.member)
    signer.learn(verifier.challenge(0.0))
    verifier.verify(signer.sign(ASKED), ASKED, 0.0)


def test_p10_a_restarted_server_takes_nothing_that_was_signed_before() -> None:
    signer, verifier = pair()
    authorization = signer.sign(ASKED)
    restarted = Verifier(NODE.member, roll())
    for server in (verifier, restarted):
        if server is restarted:
            with pytest.raises(NotSignedError, match="another nonce"):
                server.verify(authorization, ASKED, 1.0)
        else:
            server.verify(authorization, ASKED, 1.0)


GOOD = pair()[0].sign(ASKED, BODY)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Mesh",
        "Basic YTpi",
        GOOD.replace("Mesh", "mesh"),
        GOOD + " ",
        GOOD + "0",
        GOOD[:-2],
        GOOD.replace("person/ada", "admin/ada"),
        GOOD.replace("person/ada", "person/../ada"),
        GOOD.replace("person/ada", "person/" + "a" * 65),
        GOOD.replace("person/ada", "person/ad\u0430"),
        GOOD.replace("count=1 ", "count=0 "),
        GOOD.replace("count=1 ", "count=-1 "),
        GOOD.replace("count=1 ", "count=\u0661 "),
        GOOD.replace("count=1 ", "count=" + "9" * 30 + " "),
        GOOD.replace("body=5", "body=G"),
        "Mesh " + "x" * HEADER_BYTES_MAX,
    ],
    ids=count(),
)
def test_p10_p11_headers_of_the_wrong_form_are_refused(authorization: str) -> None:
    with pytest.raises(NotSignedError, match="has not the form"):
        pair()[1].verify(authorization, ASKED, 1.0)


def test_p10_no_header_is_no_signature() -> None:
    with pytest.raises(NotSignedError, match="is not signed"):
        pair()[1].verify(None, ASKED, 1.0)


@given(st.text(max_size=200) | st.text("Mesh person/ada nonce=0123f", max_size=200))
def test_p11_no_header_crashes_the_check(authorization: str) -> None:
    with pytest.raises(NotSignedError):
        pair()[1].verify(authorization, ASKED, 1.0)


def test_the_longest_header_is_within_its_limit() -> None:
    signer, verifier = pair(identity(MemberKind.MASTER, "m" * 64))
    signer._count = 10**17
    assert len(signer.sign(ASKED, BODY)) < HEADER_BYTES_MAX
    with pytest.raises(NotSignedError, match="not that of"):
        verifier.verify(signer.sign(ASKED, BODY), ASKED, 1.0)


@pytest.mark.parametrize(
    "challenge", [None, "", "Basic", "Mesh", "Mesh nonce=", "Mesh nonce=" + "g" * 32]
)
def test_a_client_learns_from_a_challenge_of_this_kind_only(challenge: str | None) -> None:
    signer = Signer(PERSON, NODE.member)
    assert not signer.learn(challenge)
    with pytest.raises(NotSignedError, match="nonce isn't known"):
        signer.sign(ASKED)
