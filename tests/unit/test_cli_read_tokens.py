"""`meshtrain token --read`: made, listed and ended from the command line."""

from __future__ import annotations

import json

import pytest
from cli_double import out, run
from master_double import MasterDouble

from meshtrain.wire import messages as msg


@pytest.fixture
def master() -> MasterDouble:
    return MasterDouble()


def test_a_read_token_is_made_listed_and_ended(master: MasterDouble) -> None:
    assert "Make one" in out(master, "token", "--list")
    assert out(master, "token", "--read", "grafana") == "mr1.for-grafana\n"
    asked = master.requests[-1]
    assert isinstance(asked, msg.IssueReader) and asked.ttl_s == 365 * 86400
    told = json.loads(out(master, "token", "--read", "cron", "--for", "1h", "--json"))
    assert told == {"token": "mr1.for-cron", "name": "cron", "valid_s": 3600.0}
    listed = out(master, "token", "--list")
    assert "grafana" in listed and "cron" in listed and "ada" in listed
    (first, second) = json.loads(out(master, "token", "--list", "--json"))
    assert set(first) == {"name", "issuer", "made_s", "expires_s"}
    assert (first["name"], second["name"]) == ("cron", "grafana")
    assert "grafana lets nobody in" in out(master, "token", "--revoke", "grafana")
    assert "grafana" not in out(master, "token", "--list")


@pytest.mark.parametrize(
    "arguments",
    [("--read", "a", "--person"), ("--read", "a", "--list"), ("--revoke", "a", "--read", "b")],
)
def test_P11_one_of_its_ways_at_a_time(master: MasterDouble, arguments: tuple[str, ...]) -> None:
    result = run(master, "token", *arguments)
    assert result.exit_code == 2 and "four ways" in result.output
    assert master.requests == []
