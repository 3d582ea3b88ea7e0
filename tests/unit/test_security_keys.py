"""P10: a member's keys on disk: made whole, kept private, told apart when they are damaged."""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zmq
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError
from meshtrain.security import keys as keys_module
from meshtrain.security.keys import Identity

NODE, PERSON = MemberKind.NODE, MemberKind.PERSON
FILES = ("member.json", "curve.key", "sign.key", "tls.key", "tls.crt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys"


def made(folder: Path) -> Identity:
    return Identity.load_or_create(folder, "gpu1", NODE)


def test_p10_keys_are_private_from_the_start(folder: Path) -> None:
    former = os.umask(0)
    try:
        made(folder)
    finally:
        os.umask(former)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_the_same_keys_come_back(folder: Path) -> None:
    first, second, third = made(folder), made(folder), Identity.load(folder)
    assert first.member == second.member == third.member
    assert first.curve_secret == third.curve_secret
    assert (first.name, first.member.kind) == ("gpu1", NODE)


def test_the_keys_are_what_they_are_said_to_be(folder: Path) -> None:
    identity = made(folder)
    assert zmq.curve_public(identity.curve_secret) == identity.curve_public
    public = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity.member.sign_key))
    public.verify(identity.sign(b"data"), b"data")
    with pytest.raises(InvalidSignature):
        public.verify(identity.sign(b"data"), b"date")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert_path, identity.key_path)
    cert = x509.load_pem_x509_certificate(identity.cert_path.read_bytes())
    der = cert.public_bytes(serialization.Encoding.DER)
    assert hashlib.sha256(der).hexdigest() == identity.member.cert_sha256
    assert (cert.not_valid_after_utc - cert.not_valid_before_utc).days >= 30 * 365
    assert isinstance(cert.public_key(), ec.EllipticCurvePublicKey)


def test_no_secret_shows_when_it_is_printed(folder: Path) -> None:
    identity = made(folder)
    assert repr(identity) == "Identity(node gpu1)"


def test_two_members_share_no_key(tmp_path: Path) -> None:
    a = Identity.load_or_create(tmp_path / "a", "gpu1", NODE).member
    b = Identity.load_or_create(tmp_path / "b", "gpu1", NODE).member
    assert {a.curve_key, a.sign_key, a.cert_sha256}.isdisjoint(
        {b.curve_key, b.sign_key, b.cert_sha256}
    )


def test_a_member_keeps_its_name_and_kind(folder: Path) -> None:
    made(folder)
    with pytest.raises(SettingsError, match="holds the keys of node 'gpu1', not of node 'gpu2'"):
        Identity.load_or_create(folder, "gpu2", NODE)
    with pytest.raises(SettingsError, match="not of person 'gpu1'"):
        Identity.load_or_create(folder, "gpu1", PERSON)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "a" * 65, "a b", "ä", "a\n", "a@b"])
def test_p11_a_name_that_can_t_be_one(folder: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="is no name for a member"):
        Identity.load_or_create(folder, name, NODE)
    assert not folder.parent.exists()


def test_a_node_is_never_called_as_the_master(folder: Path) -> None:
    with pytest.raises(SettingsError, match="the master's own name"):
        Identity.load_or_create(folder, "master", NODE)


def test_no_keys_is_no_membership(folder: Path) -> None:
    with pytest.raises(SettingsError, match="has no keys: this host is no member"):
        Identity.load(folder)


# --- who else may touch them -------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_p10_a_file_that_others_may_touch_is_refused(folder: Path, name: str, mode: int) -> None:
    made(folder)
    (folder / name).chmod(mode)
    with pytest.raises(SettingsError) as caught:
        Identity.load(folder)
    assert f"{folder / name} can be reached by others (mode {mode:04o})" in str(caught.value)
    assert f"`chmod 600 {folder / name}`" in str(caught.value)


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_p10_a_folder_that_others_may_enter_is_refused(folder: Path, mode: int) -> None:
    made(folder)
    folder.chmod(mode)
    with pytest.raises(SettingsError) as caught:
        Identity.load(folder)
    assert f"`chmod 700 {folder}`" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_p10_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    made(folder)
    elsewhere = tmp_path / "elsewhere"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="is a link"):
        Identity.load(folder)
    (folder / name).unlink()
    (folder / name).hardlink_to(elsewhere)
    with pytest.raises(SettingsError, match="has 2 names"):
        Identity.load(folder)


def test_p10_a_link_in_place_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    made(tmp_path / "real")
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "real")
    with pytest.raises(SettingsError, match="is no folder"):
        made(folder)
    folder.unlink()
    folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="is no folder"):
        made(folder)


def test_p11_a_pipe_in_place_of_a_file_doesn_t_hang(folder: Path) -> None:
    made(folder)
    (folder / "sign.key").unlink()
    os.mkfifo(folder / "sign.key", 0o600)
    with pytest.raises(SettingsError, match="is no regular file"):
        Identity.load(folder)


def test_p10_keys_of_another_user_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(folder)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(SettingsError, match=rf"belongs to user {user}.*runs as user {user + 1}"):
        Identity.load(folder)


# --- damage ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_p11_a_missing_file_is_named(folder: Path, name: str) -> None:
    made(folder)
    (folder / name).unlink()
    with pytest.raises(SettingsError, match=f"{name} is missing.*join the mesh anew"):
        made(folder)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: b"\xff\xfe" * 50,
    "huge": lambda data: data * 2000,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_p11_a_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    made(folder)
    path = folder / name
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(SettingsError, match=name) as caught:
        made(folder)
    assert "restore" in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_p11_a_key_of_somebody_else_is_noticed(folder: Path, tmp_path: Path, name: str) -> None:
    made(folder)
    made(tmp_path / "other")
    (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(SettingsError, match="doesn't belong to"):
        made(folder)


@pytest.mark.parametrize("name", ["sign.key", "tls.key"])
def test_p11_a_key_of_another_kind_is_noticed(folder: Path, name: str) -> None:
    made(folder)
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / name).write_bytes(pem)
    with pytest.raises(SettingsError, match=f"{name} is damaged .a key of another kind"):
        made(folder)


def test_p11_an_own_record_marked_as_revoked_is_refused(folder: Path) -> None:
    member = made(folder).member
    revoked = msgspec.structs.replace(member, revoked=True)
    (folder / "member.json").write_bytes(msgspec.json.encode(revoked))
    with pytest.raises(SettingsError, match="never marked as revoked"):
        made(folder)


# --- crashes and races --------------------------------------------------------------------


@pytest.mark.parametrize("step", range(len(FILES)))
def test_a_crash_leaves_no_half_identity(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    class Crash(BaseException):
        pass

    written: list[str] = []
    write_new = keys_module.write_new

    def crash(path: Path, data: bytes) -> None:
        if len(written) == step:
            raise Crash
        written.append(path.name)
        write_new(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "write_new", crash)
        # A real crash would not tidy up either.
        patch.setattr(keys_module.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Crash):
            made(folder)
    assert not folder.exists()
    left = list(folder.parent.iterdir())
    assert len(left) == 1
    os.utime(left[0], (0, 0))
    assert made(folder).name == "gpu1"
    assert [path.name for path in folder.parent.iterdir()] == ["keys"]


def test_a_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys_module, "write_new", full)
    with pytest.raises(SettingsError, match="can't be made: No space left on device; free disk"):
        made(folder)
    assert list(folder.parent.iterdir()) == []


def test_processes_that_start_together_have_one_identity(folder: Path) -> None:
    start = threading.Barrier(6)
    found: list[Identity] = []

    def make() -> None:
        start.wait()
        found.append(made(folder))

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({identity.member for identity in found}) == 1
    assert len(found) == 6
    assert [path.name for path in folder.parent.iterdir()] == ["keys"]
