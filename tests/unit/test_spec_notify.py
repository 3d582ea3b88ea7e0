"""`notify:` in job files and in the master's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrain.errors import SettingsError
from meshtrain.spec.expand import Digests, expand
from meshtrain.spec.jobfile import JobFileError, parse_job_file
from meshtrain.spec.notify_kinds import NotifySpec
from meshtrain.spec.settings_loading import master_settings

HOOK = "https://hooks.example.org/a"


def notify_in(text: str) -> NotifySpec | None:
    job_file = parse_job_file(f"name: a\ncommand: 'true'\n{text}".encode(), "a.yaml")
    return expand(job_file, Digests()).results.notify


def test_what_is_written_is_what_is_kept() -> None:
    assert notify_in("") is None
    assert notify_in("notify: {}") == NotifySpec(("end",))
    assert notify_in("notify: {on: []}") == NotifySpec(())
    told = notify_in(f"notify: {{on: [end, first_failure], webhook: '{HOOK}', secret: hook}}")
    assert told == NotifySpec(("end", "first_failure"), None, HOOK, "hook")
    assert notify_in("notify: {on: failure, command: mail}") == NotifySpec(("failure",), "mail")


def test_results_and_notify_stand_beside_each_other() -> None:
    text = b"name: a\ncommand: 'true'\nresults: {metric: m}\nnotify: {command: mail}\n"
    results = expand(parse_job_file(text, "a.yaml"), Digests()).results
    assert results.metric == "m" and results.notify == NotifySpec(("end",), "mail")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{on: ends}", "ends"),
        ("{on: 3}", "expected a list"),
        ("{webhook: ftp://a.org}", "is not a URL"),
        ("{webhook: 'https://ada:pw@a.org'}", "a password"),
        ("{webhook: 'https://a.org/#x'}", "leave them out"),
        ("{webhook: 'https://'}", "is not a URL"),
        ("{webhook: 'https://a.org:99999'}", "is not a URL"),
        ("{command: 'rm -rf /'}", "is not a name"),
        ("{commands: mail}", "commands"),
    ],
)
def test_P11_what_is_wrong_is_told_with_its_place(written: str, expected: str) -> None:
    with pytest.raises(JobFileError, match=expected) as told:
        notify_in(f"notify: {written}")
    assert "line 3" in str(told.value) or "a.yaml:3" in str(told.value)


def test_the_settings_are_read_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "master.toml"
    file.write_text(
        'notify_on = ["failure"]\nnotify_command = "mail"\n'
        'notify_commands = {mail = "/bin/mail a@b"}\nnotify_hosts = ["Chat.lab"]\n'
    )
    settings = master_settings(file, {"MESHTRAIN_NOTIFY_ON": "end,first_failure"})
    assert settings.notify_on == ("end", "first_failure")
    assert settings.notify_commands == {"mail": "/bin/mail a@b"}
    assert settings.notify_hosts == ("chat.lab",)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('notify_commands = {mail = "mail a@b"}', "absolute path"),
        ('notify_commands = {mail = "/bin/mail \'"}', "check its quotes"),
        ('notify_hosts = ["a b"]', "is not a host name"),
        ('notify_on = ["start"]', "start"),
        ("notify_tries_max = 0", "out of range"),
    ],
)
def test_P11_a_setting_that_is_wrong_is_told(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "master.toml"
    file.write_text(line + "\n")
    with pytest.raises(SettingsError, match=expected):
        master_settings(file, {})
