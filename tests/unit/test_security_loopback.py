from __future__ import annotations

import socket
from typing import Any

import pytest

from meshtrain.errors import SettingsError
from meshtrain.security.loopback import permitted_address, require_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_taken_as_it_is(host: str) -> None:
    assert require_loopback(host, "the master") == host


def test_localhost_becomes_a_number() -> None:
    assert require_loopback("localhost", "the master") in ("127.0.0.1", "::1")


@pytest.mark.parametrize(
    "host",
    [
        "192.168.1.5",
        "0.0.0.0",
        "10.0.0.1",
        "8.8.8.8",
        "::",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "*",
        "",
    ],
)
def test_all_else_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="nothing but loopback without keys") as caught:
        require_loopback(host, "the master")
    assert str(caught.value).startswith(f"the master refuses to bind {host or 'every address'}: ")
    assert "127.0.0.1" in str(caught.value)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        if not addresses:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_name_with_one_foreign_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1", "192.168.1.5")
    with pytest.raises(SettingsError, match="the worker refuses to connect to lab"):
        require_loopback("lab", "the worker", "connect to")


def test_ipv4_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "::1", "127.0.0.1")
    assert require_loopback("localhost", "the master") == "127.0.0.1"


def test_an_address_with_a_scope_is_no_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "fe80::1%eth0")
    with pytest.raises(SettingsError, match="refuses to bind"):
        require_loopback("lab", "the master")


def test_a_name_that_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch)
    with pytest.raises(
        SettingsError, match=r"'nowhere': it names no address.*give its name as it is known"
    ):
        require_loopback("nowhere", "the master")


@pytest.mark.parametrize("host", ["a" * 300, "a\0b", "\udcff", "a..b"])
def test_no_name_at_all(host: str) -> None:
    with pytest.raises(SettingsError, match="names no address"):
        require_loopback(host, "the master")


@pytest.mark.parametrize("host", ["192.168.1.5", "10.0.0.1", "2001:db8::1", "::", "127.0.0.1"])
def test_p10_keys_open_every_address_and_nothing_else_does(host: str) -> None:
    assert permitted_address(host, "the master", with_keys=True) == host
    if host != "127.0.0.1":
        with pytest.raises(SettingsError, match="nothing but loopback without keys"):
            permitted_address(host, "the master", with_keys=False)


@pytest.mark.parametrize("host", ["", "*"])
def test_every_address_is_named_by_its_address(host: str) -> None:
    with pytest.raises(SettingsError, match="name one address of this host, or :: for all"):
        permitted_address(host, "the master", with_keys=True)
