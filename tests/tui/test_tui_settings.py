"""The dashboard's settings and its keys: read whole, or refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrain.errors import SettingsError
from meshtrain_tui.command import known_keys
from meshtrain_tui.keymap import is_key, keymap
from meshtrain_tui.settings import Density, TopSettings, default_file, read_settings
from meshtrain_tui.themes import CYCLE, checked_theme, next_theme

WHOLE = """\
theme: contrast
density: compact
readonly: true
keys:
  jobs.cancel: ctrl+k
  screen.filter: "f, /"
"""


def test_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "top.yaml"
    file.write_text(WHOLE)
    settings = read_settings(file)
    assert settings.theme == "contrast"
    assert settings.density is Density.COMPACT
    assert settings.readonly
    assert settings.keys == {"jobs.cancel": "ctrl+k", "screen.filter": "f, /"}


def test_no_file_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_file() == tmp_path / "meshtrain" / "top.yaml"
    assert read_settings() == TopSettings()
    default_file().parent.mkdir()
    default_file().write_text("density: wide\n")
    assert read_settings().density is Density.WIDE
    default_file().write_text("")
    assert read_settings() == TopSettings()


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not there"):
        read_settings(tmp_path / "no.yaml")
    with pytest.raises(SettingsError, match="can't be read"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tehme: dark\n", r"line 1: tehme: unknown setting; did you mean .theme"),
        ("density: huge\n", r"line 1: density: .huge. is none of compact, normal, wide"),
        ("readonly: 3\n", r"readonly: expected true or false, got 3"),
        ("theme: [dark]\n", r"theme: a list is no name of a theme"),
        ("keys: [a]\n", r"keys: expected at most 200 lines"),
        ("keys: {jobs.cancel: 5}\n", r"5 is no key; write it in quotes"),
        ("- a\n", r"expected lines"),
        ("a: [\n", r"top.yaml, line \d+: "),
        ("theme: dark\ntheme: light\n", r"top.yaml, line 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    """P11: no settings file is half applied."""
    file = tmp_path / "top.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=told):
        read_settings(file)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "top.yaml"
    file.write_text("#" * 70_000)
    with pytest.raises(SettingsError, match="more than 64,000 bytes"):
        read_settings(file)


def test_keys_as_they_are_written() -> None:
    known = known_keys()
    assert keymap({"jobs.cancel": "ctrl+k"}, known) == {"jobs.cancel": "ctrl+k"}
    assert keymap({"screen.filter": "f5, ;"}, known) == {"screen.filter": "f5,semicolon"}
    assert keymap({"app.replay_back": ","}, known) == {"app.replay_back": "comma"}


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"jobs.cancle": "x"}, r"no action is called .jobs.cancle.; did you mean .jobs.cancel"),
        ({"jobs.cancel": "ctrl+nope"}, r"jobs.cancel: .ctrl\+nope. is no key"),
        ({"jobs.cancel": ""}, r"jobs.cancel: .*is no key"),
        ({"jobs.cancel": "hyper"}, r"is no key"),
        ({"jobs.cancel": "r"}, r"r would do both jobs.cancel \(cancel\) and jobs.retry \(retry\)"),
        ({"jobs.cancel": "q"}, r"q would do both .*jobs.cancel"),
        ({"jobs.cancel": "x", "jobs.retry": "x"}, r"x would do both jobs.cancel"),
    ],
)
def test_a_wrong_key_or_action_is_one_clear_error(wanted: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        keymap(wanted, known_keys(), Path("top.yaml"))
    assert str(caught.value).startswith("top.yaml: keys: ")
    assert len(str(caught.value).splitlines()) == 2


def test_screens_may_share_a_key_and_keys_can_change_places() -> None:
    known = known_keys()
    assert keymap({"nodes.drain": "c"}, known) == {"nodes.drain": "c"}
    swapped = {"jobs.cancel": "r", "jobs.retry": "c"}
    assert keymap(swapped, known) == swapped


@pytest.mark.parametrize("key", ["a", "A", "f12", "ctrl+shift+left", "question_mark", "space", "ö"])
def test_what_is_a_key(key: str) -> None:
    assert is_key(key)


@pytest.mark.parametrize("key", ["", "ctrl+", "+", "ctrl", "no such key", "left+a"])
def test_what_is_none(key: str) -> None:
    assert not is_key(key)


def test_every_action_has_a_name_of_its_own() -> None:
    known = known_keys()
    assert {"app.quit", "app.show_jobs", "screen.filter", "table.mark", "jobs.cancel"} <= set(known)
    assert all(name.count(".") == 1 for name in known)


def test_themes() -> None:
    assert [next_theme(name) for name in CYCLE] == [*CYCLE[1:], CYCLE[0]]
    assert next_theme("nord") == CYCLE[0]
    assert checked_theme("nord") == "nord"
    with pytest.raises(SettingsError, match="no theme is called"):
        checked_theme("drak")


def test_no_screen_takes_a_key_that_works_everywhere() -> None:
    known = known_keys()
    everywhere = {
        key: name for name, act in known.items() if act.scope == "app" for key in act.keys
    }
    shared = {
        (key, everywhere[key], name)
        for name, act in known.items()
        for key in act.keys
        if key in everywhere and everywhere[key] != name
    }
    assert shared == set()


@pytest.mark.parametrize(
    ("name", "key", "told"),
    [
        ("log.follow", "c", "log.follow .* and job.cancel"),
        ("sweeps.open", "r", "sweeps.open .* and overview.retry"),
        ("app.meshes", "m", "app.meshes .* and job.metrics"),
    ],
)
def test_parts_of_one_screen_share_no_key(name: str, key: str, told: str) -> None:
    with pytest.raises(SettingsError, match=f"{key} would do both {told}"):
        keymap({name: key}, known_keys())
