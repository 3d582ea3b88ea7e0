from __future__ import annotations

import pytest

from meshtrain.errors import SettingsError
from meshtrain.net.address import endpoint, split_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:7470", "127.0.0.1", 7470),
        (" localhost:1 ", "localhost", 1),
        ("[::1]:65535", "::1", 65535),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    ["", "localhost", ":7470", "localhost:", "::1:7470", "[::1]", "h:0", "h:65536", "h:-1", "h:١"],
)
def test_no_addresses(address: str) -> None:
    with pytest.raises(SettingsError, match=r"write HOST:PORT, such as 127\.0\.0\.1:7470"):
        split_address(address)


def test_a_port_of_many_digits_is_no_port() -> None:
    with pytest.raises(SettingsError, match="with a port from 1 to 65535"):
        split_address("h:" + "9" * 5000)


def test_endpoints() -> None:
    assert endpoint("127.0.0.1", 0) == "tcp://127.0.0.1:*"
    assert endpoint("::1", 7470) == "tcp://[::1]:7470"
