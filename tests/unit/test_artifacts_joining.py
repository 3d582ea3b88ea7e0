"""P10: joining from the other side: keys, the token, the list, and all that can be cut off."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshtrain.artifacts import joining
from meshtrain.artifacts.enrol import EnrolmentError
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.joining import join_mesh
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError
from meshtrain.security.standing import load_standing
from meshtrain.security.tokens import TokenError, read_token
from meshtrain.spec.settings_loading import master_settings
from meshtrain_daemon.master.membership import Membership

NODE, PERSON = MemberKind.NODE, MemberKind.PERSON


class Master:
    """A master's list, and the server that people join at."""

    def __init__(self, home: Path) -> None:
        settings = master_settings(None, {}, {"home": home, "secure": True})
        self.membership = Membership(settings)
        self.server = ArtifactServer(
            ArtifactStore(home / "artifacts"),
            "127.0.0.1",
            security=self.membership.http,
            enrolment=self.membership.enrolment,
        )
        self.port = 0

    def token(self, kind: MemberKind = NODE, *, control_port: int = 7470) -> str:
        return self.membership.issue(
            kind, 60.0, 1, issuer="admin", control_port=control_port, enrol_port=self.port
        )


async def started(home: Path) -> Master:
    master = Master(home)
    master.port = int((await master.server.start()).rsplit(":", 1)[1])
    return master


@pytest.fixture
async def master(tmp_path: Path) -> AsyncIterator[Master]:
    master = await started(tmp_path / "master")
    yield master
    await master.server.stop()


async def test_P10_who_joins_has_keys_the_list_and_the_address(
    master: Master, tmp_path: Path
) -> None:
    standing = await join_mesh(tmp_path / "n1", master.token(), "n1", NODE)
    assert standing.master_address == "127.0.0.1:7470"
    assert standing.members.members == master.membership.members
    assert (tmp_path / "n1").stat().st_mode & 0o777 == 0o700


async def test_P7_a_daemon_that_always_starts_with_its_token_needs_no_master_for_it(
    master: Master, tmp_path: Path
) -> None:
    token = master.token()
    await join_mesh(tmp_path / "n1", token, "n1", NODE)
    await master.server.stop()
    again = await join_mesh(tmp_path / "n1", f" {token}\n", "n1", NODE)
    assert again.identity.name == "n1"
    with pytest.raises(EnrolmentError, match="can't be reached"):
        await join_mesh(tmp_path / "n1", master.token(), "n1", NODE)


async def test_P10_joining_that_was_killed_before_the_list_was_kept_goes_on(
    master: Master, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    token = master.token()
    with monkeypatch.context() as dying:
        dying.setattr(joining, "keep_standing", killed)
        with pytest.raises(KeyboardInterrupt):
            await join_mesh(tmp_path / "n1", token, "n1", NODE)
    with pytest.raises(SettingsError, match="not finished"):
        load_standing(tmp_path / "n1", NODE)
    standing = await join_mesh(tmp_path / "n1", token, "n1", NODE)
    assert standing.identity.member in master.membership.members.members


async def test_P10_who_moves_to_another_mesh_knows_its_master(
    master: Master, tmp_path: Path
) -> None:
    await join_mesh(tmp_path / "n1", master.token(), "n1", NODE)
    master.membership.renew(1 << 50)
    kept = load_standing(tmp_path / "n1", NODE)
    assert kept is not None
    kept.members.replace(master.membership.members)
    other = await started(tmp_path / "other")
    try:
        moved = await join_mesh(tmp_path / "n1", other.token(control_port=9), "n1", NODE)
    finally:
        await other.server.stop()
    assert moved.master == other.membership.members.members[0]
    assert moved.master_address == "127.0.0.1:9"


async def test_P10_the_home_of_another_member_is_left_alone(master: Master, tmp_path: Path) -> None:
    token = master.token()
    with pytest.raises(SettingsError, match="is the home of master 'master'"):
        await join_mesh(tmp_path / "master", token, "n1", NODE)
    await join_mesh(tmp_path / "n1", token, "n1", NODE)
    with pytest.raises(SettingsError, match="a member keeps its name"):
        await join_mesh(tmp_path / "n1", master.token(), "n2", NODE)


async def test_P10_a_home_that_others_write_joins_nothing(master: Master, tmp_path: Path) -> None:
    home = tmp_path / "n1"
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(SettingsError, match="chmod go-w"):
        await join_mesh(home, master.token(), "n1", NODE)
    assert list(home.iterdir()) == []


async def test_a_slip_of_the_hand_makes_no_keys(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="no join token"):
        await join_mesh(tmp_path / "n1", "mt0 nonsense", "n1", NODE)
    assert not (tmp_path / "n1").exists()


async def test_a_person_can_t_join_with_a_host_s_token(master: Master, tmp_path: Path) -> None:
    with pytest.raises(EnrolmentError, match="meshtrain token --person"):
        await join_mesh(tmp_path / "ann", master.token(NODE), "ann", PERSON)


def test_a_token_is_read_where_nobody_else_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("mt1.abc\nmore"))
    assert read_token("-") == "mt1.abc"
    assert read_token("mt1.def") == "mt1.def"


async def test_P10_every_address_is_those_of_ipv4_too(tmp_path: Path) -> None:
    server = ArtifactServer(
        ArtifactStore(tmp_path / "store"),
        "::",
        security=Master(tmp_path / "master").membership.http,
    )
    try:
        url = await server.start()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        port = int(url.rsplit(":", 1)[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
    finally:
        await server.stop()
