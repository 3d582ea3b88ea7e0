"""Read tokens: what the master keeps of them, and when one lets nobody in any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrain.errors import NotFoundError, SettingsError
from meshtrain.security.read_tokens import PREFIX, READERS_MAX, Readers
from meshtrain.security.tokens import TokenError

NOW_S = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "read_tokens.json"


def test_a_token_is_known_by_its_name_also_after_a_restart(path: Path) -> None:
    readers = Readers(path)
    word = readers.issue("grafana", 60.0, NOW_S, "ada")
    assert word.startswith(PREFIX)
    for known in (readers, Readers(path)):
        assert known.name_of(word, NOW_S) == "grafana"
        assert known.readers[0].issuer == "ada"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_disk_does_not_hold_what_lets_in(path: Path) -> None:
    word = Readers(path).issue("grafana", 60.0, NOW_S)
    assert word.removeprefix(PREFIX) not in path.read_text()


def test_p10_a_token_ends_at_its_time_by_its_name_and_with_who_made_it(path: Path) -> None:
    readers = Readers(path)
    by_time = readers.issue("short", 60.0, NOW_S)
    by_name = readers.issue("named", 1e6, NOW_S)
    by_issuer = readers.issue("hers", 1e6, NOW_S, "ada")
    stays = readers.issue("stays", 1e6, NOW_S, "bob")
    assert readers.name_of(by_time, NOW_S + 59.9) == "short"
    assert readers.name_of(by_time, NOW_S + 60.0) is None
    assert readers.revoke("named")
    assert readers.end_those_of("ada") == 1 and readers.end_those_of("ada") == 0
    for known in (readers, Readers(path)):
        assert known.name_of(by_name, NOW_S) is None
        assert known.name_of(by_issuer, NOW_S) is None
        assert known.name_of(stays, NOW_S) == "stays"
    with pytest.raises(NotFoundError, match="no read token is named 'named'"):
        readers.revoke("named")


@pytest.mark.parametrize(
    "word", ["", "mr1.", "mr1." + "A" * 32, "mt1.abc", "mr1." + "A" * 33, "mr1." + "é" * 32]
)
def test_p10_a_wrong_word_is_nobody_s(path: Path, word: str) -> None:
    readers = Readers(path)
    readers.issue("grafana", 60.0, NOW_S)
    assert readers.name_of(word, NOW_S) is None


def test_a_name_is_taken_as_long_as_its_token_is_good(path: Path) -> None:
    readers = Readers(path)
    readers.issue("grafana", 60.0, NOW_S)
    with pytest.raises(TokenError, match="--revoke grafana"):
        readers.issue("grafana", 60.0, NOW_S + 1)
    readers.issue("grafana", 60.0, NOW_S + 61)
    assert len(readers.readers) == 1
    with pytest.raises(TokenError, match="no name for a read token"):
        readers.issue("../x", 60.0, NOW_S)


def test_there_are_only_so_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshtrain.security.read_tokens.READERS_MAX", 2)
    readers = Readers(path)
    readers.issue("a", 60.0, NOW_S)
    readers.issue("b", 60.0, NOW_S)
    with pytest.raises(TokenError, match="which is the limit"):
        readers.issue("c", 60.0, NOW_S)
    assert READERS_MAX == 100


def test_P11_a_damaged_file_lets_nobody_in_and_says_so(path: Path) -> None:
    Readers(path).issue("grafana", 60.0, NOW_S)
    path.write_text("[{]")
    with pytest.raises(SettingsError, match="is damaged"):
        Readers(path)
    path.write_text("[]")
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="can be reached by others"):
        Readers(path)
