"""What a worker says of a master that is silent."""

from __future__ import annotations

from meshtrain_daemon.worker.silence import BEATS, SILENT_S, Silence

MASTER = "10.0.0.1:7470"


def test_a_master_that_never_answered_is_told_once_with_the_mend() -> None:
    silence = Silence(MASTER, 100.0)
    assert silence.look(100.0 + SILENT_S - 1, 1.0) is None
    told = silence.look(100.0 + SILENT_S, 1.0)
    assert told is not None
    assert f"no master answers at {MASTER}" in told
    assert "meshtrain doctor" in told
    assert silence.look(1000.0, 1.0) is None
    # That it is welcomed then is said elsewhere.
    assert silence.heard(1001.0) is None


def test_a_master_that_goes_away_and_comes_back_is_told_once_each() -> None:
    silence = Silence(MASTER, 0.0)
    assert silence.heard(1.0) is None
    told = silence.look(1.0 + SILENT_S, 1.0)
    assert told is not None
    assert f"nothing heard from the master at {MASTER} for 10 s" in told
    assert silence.look(30.0, 1.0) is None
    assert silence.heard(61.0) == "heard from the master again, after 60 s"
    assert silence.heard(62.0) is None
    assert silence.look(62.0 + SILENT_S, 1.0) is not None


def test_rare_heartbeats_are_no_silence() -> None:
    silence = Silence(MASTER, 0.0)
    silence.heard(0.0)
    every_s = 2 * SILENT_S
    assert silence.look(BEATS * every_s - 1, every_s) is None
    assert silence.look(BEATS * every_s, every_s) is not None
