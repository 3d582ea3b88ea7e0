"""The choice of chunks and peers, rule by rule."""

from __future__ import annotations

import msgspec
import pytest

from meshtrain.core.swarm import (
    AskChunk,
    Follow,
    Swarm,
    SwarmLimits,
    SwarmState,
    bits_from_bytes,
    bits_to_bytes,
    flags_of,
)

LIMITS = SwarmLimits(
    fast_chunk_s=0.0,
    anew_s=0.0,
    requests_per_peer_max=2,
    failures_max=3,
    refusals_max=4,
    backoff_s=1.0,
    backoff_max_s=3.0,
    refollow_s=0.5,
    pipeline_s=0.1,
    endgame_factor=3.0,
    endgame_min_s=0.25,
    slow_after_s=5.0,
    last_resort_after_s=1.0,
    stall_s=60.0,
)


def bits(*chunks: int) -> int:
    return sum(1 << chunk for chunk in chunks)


def swarm_of(
    chunk_count: int, *, seed: int = 0, limits: SwarmLimits = LIMITS, **haves: int
) -> Swarm:
    """A swarm whose peers have said at time 0 what they hold; `master` ranks last."""
    swarm = Swarm(chunk_count, limits=limits, seed=seed)
    for peer in haves:
        swarm.add_peer(peer, 0.0, last_resort=peer == "master")
    assert set(swarm.next_asks(0.0)) == {Follow(peer) for peer in haves}
    for peer, have in haves.items():
        swarm.told_have(peer, have, 0.0)
    return swarm


def chunks_asked(swarm: Swarm, now_s: float = 0.0) -> set[tuple[str, int]]:
    return {(ask.peer, ask.chunk) for ask in swarm.next_asks(now_s) if isinstance(ask, AskChunk)}


def test_the_rarest_chunk_goes_first() -> None:
    swarm = swarm_of(3, a=bits(0, 1, 2), b=bits(0, 1), c=bits(0))
    # Each takes what the fewest hold: 2 is held by a alone, 1 by two of them.
    asked = chunks_asked(swarm)
    assert ("a", 2) in asked
    assert ("b", 1) in asked
    assert ("c", 0) in asked


def test_the_seed_spreads_nodes_over_equally_rare_chunks() -> None:
    firsts = {
        min(c for _, c in chunks_asked(swarm_of(10, seed=seed, a=bits(*range(10)))))
        for seed in (0, 3, 6)
    }
    assert firsts == {0, 3, 6}


def test_after_the_last_chunk_the_first_ones_come() -> None:
    assert chunks_asked(swarm_of(4, seed=3, a=bits(0, 1, 2, 3))) == {("a", 3), ("a", 0)}


def test_requests_are_bounded_for_each_peer_and_in_all() -> None:
    few = SwarmLimits(requests_per_peer_max=2, requests_max=3)
    swarm = swarm_of(8, limits=few, a=bits(*range(8)), b=bits(*range(8)))
    asked = chunks_asked(swarm)
    assert len(asked) == 3
    assert max(sum(peer == name for peer, _ in asked) for name in "ab") == 2


def test_the_least_busy_peer_is_asked_first() -> None:
    swarm = swarm_of(2, a=bits(0, 1), b=bits(0, 1))
    assert {peer for peer, _ in chunks_asked(swarm)} == {"a", "b"}


def test_a_peer_that_was_never_timed_gets_two_requests() -> None:
    many = msgspec.structs.replace(LIMITS, requests_per_peer_max=8)
    assert len(chunks_asked(swarm_of(8, limits=many, a=bits(*range(8))))) == 2


def test_a_quick_peer_is_asked_for_as_much_as_it_sends_in_the_window() -> None:
    many = msgspec.structs.replace(LIMITS, requests_per_peer_max=8)
    swarm = swarm_of(20, limits=many, a=bits(*range(20)))
    first, second = sorted(chunk for _, chunk in chunks_asked(swarm))
    swarm.arrived("a", first, 0.02)
    # The second was asked for in advance: its time runs from the first one's end.
    swarm.arrived("a", second, 0.04)
    # 0.1 s at 0.02 s a chunk, besides the one that is being sent.
    assert len(chunks_asked(swarm, 0.04)) == 6


def test_a_slow_peer_gets_one_request_at_a_time() -> None:
    swarm = swarm_of(4, a=bits(0, 1, 2, 3))
    assert len(chunks_asked(swarm)) == 2
    swarm.arrived("a", 0, 1.0)
    assert chunks_asked(swarm, 1.0) == set()
    swarm.arrived("a", 1, 2.0)
    assert chunks_asked(swarm, 2.0) == {("a", 2)}


def test_of_two_with_room_the_one_that_will_have_answered_first_is_asked() -> None:
    deep = msgspec.structs.replace(LIMITS, pipeline_s=1.0, requests_per_peer_max=4)
    swarm = swarm_of(9, limits=deep, quick=bits(0, 1, *range(4, 9)), slow=bits(2, 3, *range(4, 9)))
    assert chunks_asked(swarm) == {("quick", 0), ("quick", 1), ("slow", 2), ("slow", 3)}
    swarm.arrived("quick", 0, 0.1)
    swarm.arrived("quick", 1, 0.2)
    swarm.arrived("slow", 2, 0.35)
    swarm.arrived("slow", 3, 0.7)
    # Three from the quick one take 0.3 s, one from the slow one 0.35 s.
    asked = [ask.peer for ask in swarm.next_asks(1.0) if isinstance(ask, AskChunk)]
    assert asked == ["quick", "quick", "quick", "slow", "quick"]


def test_the_last_resort_is_not_asked_for_what_others_hold() -> None:
    swarm = swarm_of(3, a=bits(0, 1), master=bits(0, 1, 2))
    assert chunks_asked(swarm) == {("a", 0), ("a", 1), ("master", 2)}


def test_the_last_resort_waits_until_the_others_have_answered() -> None:
    swarm = Swarm(2, limits=LIMITS)
    swarm.add_peer("a", 0.0)
    swarm.add_peer("master", 0.0, last_resort=True)
    swarm.next_asks(0.0)
    swarm.told_have("master", bits(0, 1), 0.0)
    assert chunks_asked(swarm, 0.5) == set()
    swarm.told_have("a", bits(0, 1), 0.6)
    assert chunks_asked(swarm, 0.6) == {("a", 0), ("a", 1)}


def test_the_last_resort_is_not_asked_for_what_a_sparing_holder_does_not_show_yet() -> None:
    swarm = swarm_of(4, a=0, master=bits(0, 1, 2, 3))
    swarm.told_have("a", bits(2), 0.1, more=True)
    assert chunks_asked(swarm, 0.1) == {("a", 2)}
    swarm.arrived("a", 2, 0.9)
    assert chunks_asked(swarm, 0.9) == set()
    # Nothing came for a second: that holder is busy with others, or gone.
    assert swarm.wake_at_s(1.85) == 1.9
    assert chunks_asked(swarm, 1.9) == {("master", 0), ("master", 1)}


def test_the_last_resort_does_not_wait_for_ever() -> None:
    swarm = Swarm(1, limits=LIMITS)
    swarm.add_peer("a", 0.0)
    swarm.add_peer("master", 0.0, last_resort=True)
    swarm.next_asks(0.0)
    swarm.told_have("master", bits(0), 0.0)
    assert swarm.wake_at_s(0.0) == 1.0
    assert chunks_asked(swarm, 1.0) == {("master", 0)}


def test_the_last_resort_stands_in_while_the_others_rest() -> None:
    swarm = swarm_of(1, a=bits(0), master=bits(0))
    assert chunks_asked(swarm) == {("a", 0)}
    swarm.failed("a", 0, "refused", 0.0)
    assert chunks_asked(swarm, 0.1) == {("master", 0)}


def test_a_corrupt_chunk_bans_the_peer_and_drops_what_is_in_flight() -> None:
    swarm = swarm_of(3, a=bits(0, 1, 2), b=bits(0, 1, 2))
    swarm.next_asks(0.0)
    dropped = swarm.ban("a", "corrupt")
    assert dropped
    assert {ask.peer for ask in dropped} == {"a"}
    swarm.told_have("a", bits(0, 1, 2), 1.0)
    swarm.add_peer("a", 1.0)
    assert {peer for peer, _ in chunks_asked(swarm, 100.0)} <= {"b"}
    assert swarm.banned == ("a",)
    assert "corrupt" in swarm.reasons()["a"]


def test_a_failing_peer_rests_longer_each_time_and_is_given_up() -> None:
    swarm = swarm_of(1, a=bits(0))
    assert chunks_asked(swarm) == {("a", 0)}
    swarm.failed("a", 0, "refused", 0.0)
    assert chunks_asked(swarm, 0.9) == set()
    assert chunks_asked(swarm, 1.0) == {("a", 0)}
    swarm.failed("a", 0, "refused", 1.0)
    assert chunks_asked(swarm, 2.9) == set()
    assert chunks_asked(swarm, 3.0) == {("a", 0)}
    assert swarm.state(3.0) is SwarmState.RUNNING
    swarm.failed("a", 0, "refused", 3.0)
    assert swarm.state(3.0) is SwarmState.STUCK
    assert swarm.reasons() == {"a": "given up: refused"}


def test_requests_that_fail_together_count_once() -> None:
    swarm = swarm_of(2, a=bits(0, 1))
    assert len(chunks_asked(swarm)) == 2
    swarm.failed("a", 0, "reset", 0.5)
    swarm.failed("a", 1, "reset", 0.5)
    assert "failed 1 times" in swarm.reasons()["a"]


def test_a_chunk_that_arrives_clears_the_failures() -> None:
    chunk_count = 2 * LIMITS.failures_max
    swarm = swarm_of(chunk_count, a=(1 << chunk_count) - 1)
    for turn in range(chunk_count - 1):
        now_s = turn * 10.0
        (_, fails), (_, comes) = sorted(chunks_asked(swarm, now_s))
        swarm.failed("a", fails, "reset", now_s)
        swarm.arrived("a", comes, now_s)
    assert swarm.state(now_s) is SwarmState.RUNNING


def test_a_peer_that_was_given_up_gets_a_new_chance_when_it_is_added_again() -> None:
    swarm = swarm_of(1, a=bits(0))
    for now_s in (0.0, 1.0, 3.0):
        assert chunks_asked(swarm, now_s)
        swarm.failed("a", 0, "refused", now_s)
    assert swarm.state(3.0) is SwarmState.STUCK
    swarm.add_peer("a", 4.0)
    assert swarm.next_asks(4.0) == [Follow("a")]
    swarm.told_have("a", bits(0), 4.0)
    assert chunks_asked(swarm, 4.0) == {("a", 0)}


def test_a_busy_peer_gets_more_patience_than_a_failing_one() -> None:
    swarm = swarm_of(1, a=bits(0))
    now_s = 0.0
    for _ in range(LIMITS.refusals_max):
        assert chunks_asked(swarm, now_s) == {("a", 0)}
        swarm.busy("a", 0, "busy", now_s)
        now_s += LIMITS.backoff_max_s
    assert swarm.state(now_s) is SwarmState.STUCK
    assert LIMITS.refusals_max > LIMITS.failures_max


def test_what_a_peer_turned_out_to_lack_is_asked_of_another() -> None:
    swarm = swarm_of(1, a=bits(0), b=0)
    assert chunks_asked(swarm) == {("a", 0)}
    swarm.lacks("a", 0, "evicted", 0.0)
    swarm.told_have("b", bits(0), 0.1)
    assert chunks_asked(swarm, 0.1) == {("b", 0)}
    assert chunks_asked(swarm, 50.0) == set()


def test_a_slow_chunk_is_asked_of_an_idle_peer_too() -> None:
    swarm = swarm_of(1, a=bits(0), b=bits(0), c=bits(0))
    ((first, _),) = chunks_asked(swarm)
    assert chunks_asked(swarm, 4.9) == set()
    assert swarm.wake_at_s(4.9) == 5.0
    ((second, _),) = chunks_asked(swarm, 5.0)
    assert second != first
    assert chunks_asked(swarm, 20.0) == set(), "no more than two at a time"
    assert swarm.arrived(second, 0, 20.0) == [AskChunk(first, 0)]
    assert swarm.state(20.0) is SwarmState.DONE
    assert swarm.arrived(first, 0, 20.0) == []


def test_who_is_woken_for_a_late_chunk_asks_for_it_at_that_very_moment() -> None:
    """Whatever sums of times are rounded to: the next wake-up may be a minute away."""
    for n in range(200):
        begun_s = 3.9 + n / 77
        swarm = Swarm(1, limits=LIMITS, now_s=begun_s)
        for peer in ("a", "b"):
            swarm.add_peer(peer, begun_s)
        swarm.next_asks(begun_s)
        for peer in ("a", "b"):
            swarm.told_have(peer, bits(0), begun_s)
        ((first, _),) = chunks_asked(swarm, begun_s)
        late_s = swarm.wake_at_s(begun_s)
        assert late_s == pytest.approx(begun_s + 5.0)
        assert chunks_asked(swarm, late_s) == {("b" if first == "a" else "a", 0)}


def test_at_the_end_what_takes_longer_than_the_others_is_asked_elsewhere_soon() -> None:
    swarm = swarm_of(3, slow=bits(0), quick=bits(1, 2))
    assert len(chunks_asked(swarm)) == 3
    swarm.gained("quick", [0], 0.0)
    swarm.arrived("quick", 1, 0.2)
    swarm.arrived("quick", 2, 0.2)
    # Three times the 0.2 s that the others took, counted from the ask.
    assert chunks_asked(swarm, 0.5) == set()
    assert swarm.wake_at_s(0.5) == pytest.approx(0.6)
    assert chunks_asked(swarm, 0.61) == {("quick", 0)}
    assert swarm.arrived("quick", 0, 0.7) == [AskChunk("slow", 0)]


def test_nothing_is_asked_twice_for_being_quick_alone() -> None:
    swarm = swarm_of(3, slow=bits(0), quick=bits(1, 2))
    assert len(chunks_asked(swarm)) == 3
    swarm.gained("quick", [0], 0.0)
    swarm.arrived("quick", 1, 0.001)
    swarm.arrived("quick", 2, 0.002)
    assert chunks_asked(swarm, 0.24) == set()
    assert chunks_asked(swarm, 0.25) == {("quick", 0)}


def test_before_the_end_a_late_chunk_gets_more_patience() -> None:
    """While there are chunks that nobody was asked for, those go first."""
    swarm = swarm_of(5, slow=bits(0), quick=bits(0, 1, 2), other=bits(3))
    swarm.failed("other", None, "away", 0.0)
    assert chunks_asked(swarm) == {("slow", 0), ("quick", 1), ("quick", 2)}
    swarm.arrived("quick", 1, 0.1)
    swarm.arrived("quick", 2, 0.1)
    # Chunk 4 is nowhere yet: the end has not come.
    assert chunks_asked(swarm, 4.9) == {("other", 3)}
    assert chunks_asked(swarm, 5.0) == {("quick", 0)}


def test_what_a_slow_peer_has_begun_is_not_asked_of_it_again() -> None:
    swarm = swarm_of(1, a=bits(0))
    assert chunks_asked(swarm) == {("a", 0)}
    assert chunks_asked(swarm, 100.0) == set()


# --- who tells what it holds ----------------------------------------------------------


def test_a_partial_peer_is_followed_once_and_tells_what_it_gets() -> None:
    swarm = swarm_of(3, a=bits(0))
    assert swarm.next_asks(0.5) == [AskChunk("a", 0)]
    assert swarm.next_asks(9.0) == []
    swarm.gained("a", [1], 9.0)
    assert chunks_asked(swarm, 9.0) == {("a", 1)}
    swarm.arrived("a", 0, 9.5)
    swarm.arrived("a", 1, 9.5)
    swarm.gained("a", [1, 2], 20.0)
    assert chunks_asked(swarm, 20.0) == {("a", 2)}


def test_what_a_peer_tells_anew_takes_the_place_of_what_it_told() -> None:
    swarm = swarm_of(3, a=bits(0))
    swarm.told_have("a", bits(2), 0.1)
    assert chunks_asked(swarm, 0.1) == {("a", 2)}


def test_chunks_beyond_the_last_are_of_no_meaning() -> None:
    swarm = swarm_of(2, a=bits(0, 1, 2, 77))
    assert {chunk for _, chunk in chunks_asked(swarm)} == {0, 1}


def test_a_peer_that_has_told_of_everything_may_end_its_news() -> None:
    swarm = swarm_of(2, a=bits(0, 1))
    swarm.unfollowed("a", 0.1)
    assert chunks_asked(swarm, 0.1) == {("a", 0), ("a", 1)}
    assert swarm.next_asks(50.0) == [], "it has nothing more to tell"


def test_a_peer_whose_news_end_too_early_is_followed_anew_after_a_rest() -> None:
    swarm = swarm_of(2, a=bits(0))
    swarm.unfollowed("a", 0.1)
    assert "told of no more" in swarm.reasons()["a"]
    assert swarm.next_asks(1.0) == []
    assert swarm.wake_at_s(1.0) == pytest.approx(1.1)
    assert set(swarm.next_asks(1.2)) == {Follow("a"), AskChunk("a", 0)}
    for now_s in (1.2, 4.0):
        swarm.unfollowed("a", now_s)
    assert swarm.state(4.0) is SwarmState.STUCK, "it was given up at the third time"


def test_a_peer_whose_news_break_off_is_followed_anew_after_a_rest() -> None:
    swarm = swarm_of(2, a=bits(0))
    assert chunks_asked(swarm) == {("a", 0)}
    swarm.failed("a", None, "reset", 0.1)
    assert swarm.next_asks(1.0) == []
    assert swarm.next_asks(1.1) == [Follow("a")]
    swarm.told_have("a", bits(0, 1), 1.1)
    assert chunks_asked(swarm, 1.1) == {("a", 1)}


def test_a_peer_that_holds_more_is_followed_anew_when_it_shows_nothing_of_use() -> None:
    swarm = Swarm(4, limits=LIMITS)
    swarm.add_peer("a", 0.0)
    assert swarm.next_asks(0.0) == [Follow("a")]
    swarm.told_have("a", bits(0), 0.0, more=True)
    assert swarm.next_asks(0.0) == [AskChunk("a", 0)]
    assert swarm.next_asks(2.0) == [], "it may show another when this one was sent"
    swarm.arrived("a", 0, 2.0)
    assert swarm.next_asks(2.0) == [Follow("a")]
    assert swarm.next_asks(2.4) == []
    # It shows the same again: it is asked once more, not at once.
    swarm.told_have("a", bits(0), 2.4, more=True)
    assert swarm.next_asks(2.4) == []
    assert swarm.wake_at_s(2.4) == 2.5
    assert swarm.next_asks(2.5) == [Follow("a")]
    swarm.told_have("a", bits(0, 1), 2.5, more=True)
    assert swarm.next_asks(2.6) == [AskChunk("a", 1)]


def test_who_takes_long_to_tell_again_is_waited_for() -> None:
    swarm = swarm_of(2)
    swarm.add_peer("a", 0.0)
    swarm.next_asks(0.0)
    swarm.told_have("a", 0, 0.0, more=True)
    assert swarm.next_asks(1.0) == [Follow("a")]
    assert swarm.next_asks(30.0) == []
    swarm.told_have("a", bits(0), 30.0, more=True)
    assert chunks_asked(swarm, 30.0) == {("a", 0)}


def test_a_peer_that_shows_all_it_has_is_not_followed_anew() -> None:
    swarm = swarm_of(2, a=bits(0))
    chunks_asked(swarm)
    swarm.arrived("a", 0, 1.0)
    assert swarm.next_asks(50.0) == [], "it tells of more when more has come there"


def test_who_shows_a_part_gets_time_to_show_more_before_it_is_followed_anew() -> None:
    swarm = Swarm(4, limits=msgspec.structs.replace(LIMITS, anew_s=2.0))
    swarm.add_peer("a", 0.0)
    assert swarm.next_asks(0.0) == [Follow("a")]
    swarm.told_have("a", bits(0), 0.1, more=True)
    assert chunks_asked(swarm, 0.1) == {("a", 0)}
    swarm.arrived("a", 0, 1.0)
    assert swarm.next_asks(1.0) == []
    assert swarm.wake_at_s(1.0) == 2.1
    swarm.gained("a", [1], 1.5)
    assert chunks_asked(swarm, 1.5) == {("a", 1)}
    swarm.arrived("a", 1, 2.5)
    assert swarm.next_asks(3.4) == []
    assert swarm.next_asks(3.5) == [Follow("a")]


def test_no_more_peers_are_followed_than_allowed() -> None:
    few = msgspec.structs.replace(LIMITS, followed_max=2)
    swarm = Swarm(4, limits=few)
    for peer in ("a", "b", "c", "d"):
        swarm.add_peer(peer, 0.0)
    first, second = (ask.peer for ask in swarm.next_asks(0.0))
    swarm.told_have(first, bits(0), 0.0, more=True)
    swarm.told_have(second, bits(1), 0.0)
    assert len(chunks_asked(swarm)) == 2
    swarm.arrived(first, 0, 1.0)
    # Who is followed already may be followed anew: that is no one more.
    assert swarm.next_asks(1.0) == [Follow(first)]
    swarm.ban(second, "corrupt")
    (third,) = swarm.next_asks(1.0)
    assert isinstance(third, Follow)
    assert third.peer not in (first, second), "it takes the place of the banned one"
    for now_s in (2.0, 10.0, 20.0):
        swarm.failed(first, None, "refused", now_s)
    (fourth,) = swarm.next_asks(20.0)
    assert isinstance(fourth, Follow)
    assert fourth.peer not in (first, second, third.peer), "the place of one that was given up"


def test_peers_that_wait_for_each_other_end_the_fetch() -> None:
    swarm = swarm_of(2, a=bits(0), b=bits(0))
    assert len(chunks_asked(swarm)) == 1
    swarm.arrived("a", 0, 1.0)
    assert swarm.state(60.9) is SwarmState.RUNNING
    assert swarm.state(61.0) is SwarmState.STUCK
    assert "holds none of 1 missing" in swarm.reasons()["a"]


def test_a_peer_may_be_added_while_it_runs() -> None:
    swarm = swarm_of(2, a=bits(0))
    assert chunks_asked(swarm) == {("a", 0)}
    swarm.add_peer("b", 1.0)
    assert Follow("b") in swarm.next_asks(1.0)
    swarm.told_have("b", bits(0, 1), 1.0)
    assert chunks_asked(swarm, 1.0) == {("b", 1)}


def test_without_peers_it_is_stuck_and_with_all_chunks_it_is_done() -> None:
    assert Swarm(1).state(0.0) is SwarmState.STUCK
    done = Swarm(2, have=bits(0, 1))
    assert done.state(0.0) is SwarmState.DONE
    assert done.next_asks(0.0) == []
    assert done.wake_at_s(0.0) is None
    assert Swarm(0).state(0.0) is SwarmState.DONE


def test_bits_travel_as_bytes() -> None:
    assert bits_to_bytes(bits(0, 9), 10) == b"\x01\x02"
    assert bits_from_bytes(b"\x01\x02") == bits(0, 9)
    assert flags_of(bits(0, 9), 10) == [True] + [False] * 8 + [True]
    assert bits_to_bytes(0, 0) == b""


def test_a_fast_peer_is_asked_for_rows_and_again_when_half_of_one_came() -> None:
    limits = SwarmLimits(
        requests_per_peer_max=2, fast_requests_max=6, fast_chunk_s=0.005, pipeline_s=0.1
    )
    swarm = swarm_of(40, limits=limits, a=(1 << 40) - 1)
    assert chunks_asked(swarm) == {("a", 0), ("a", 1)}
    swarm.arrived("a", 0, 0.001)
    # It takes a millisecond for a chunk.
    row = chunks_asked(swarm, 0.001)
    assert row == {("a", chunk) for chunk in range(2, 7)}
    now_s = 0.001
    for chunk in (1, 2):
        now_s += 0.001
        swarm.arrived("a", chunk, now_s)
        assert chunks_asked(swarm, now_s) == set()
    now_s += 0.001
    swarm.arrived("a", 3, now_s)
    assert chunks_asked(swarm, now_s) == {("a", 7), ("a", 8), ("a", 9)}
    # One that has become slow is asked for no more than others.
    swarm.arrived("a", 4, now_s + 1.0)
    swarm.arrived("a", 5, now_s + 2.0)
    assert chunks_asked(swarm, now_s + 2.0) == set()


def test_when_one_fails_another_that_shows_a_part_is_followed_anew_at_once() -> None:
    swarm = Swarm(8, limits=msgspec.structs.replace(LIMITS, anew_s=100.0))
    swarm.add_peer("a", 0.0)
    swarm.add_peer("master", 0.0, last_resort=True)
    swarm.next_asks(0.0)
    swarm.told_have("a", bits(0), 0.0, more=True)
    swarm.told_have("master", bits(0), 0.0, more=True)
    assert chunks_asked(swarm, 0.0) == {("a", 0)}
    swarm.arrived("a", 0, 1.0)
    assert swarm.next_asks(1.0) == []
    swarm.failed("a", None, "it was killed", 1.5)
    assert swarm.next_asks(1.5) == [Follow("master")]
    swarm.told_have("master", bits(0, 3), 1.6, more=True)
    assert chunks_asked(swarm, 1.6) == {("master", 3)}


def test_what_one_that_fails_had_shown_is_not_kept_from_the_last_resort() -> None:
    """Not while it rests, and not when it may be asked again: it may never give it."""
    swarm = swarm_of(1, a=bits(0), master=bits(0))
    assert chunks_asked(swarm) == {("a", 0)}
    swarm.failed("a", 0, "refused", 0.0)
    asked = chunks_asked(swarm, LIMITS.backoff_s)
    assert asked <= {("a", 0), ("master", 0)}
    assert asked
    swarm.failed("a", 0, "refused", 1.1)
    assert ("master", 0) in asked | chunks_asked(swarm, 1.2)


@pytest.mark.parametrize(("here", "waits_s"), [(5, 0.25), (3, 9.0)])
def test_who_has_most_and_gets_nothing_more_follows_anew_soon(here: int, waits_s: float) -> None:
    limits = msgspec.structs.replace(LIMITS, anew_s=10.0, starved_s=0.25)
    swarm = Swarm(8, limits=limits)
    swarm.add_peer("a", 0.0)
    swarm.next_asks(0.0)
    swarm.told_have("a", bits(*range(here)), 0.0, more=True)
    now_s = 0.0
    for _ in range(here):
        for _, chunk in chunks_asked(swarm, now_s):
            swarm.arrived("a", chunk, 1.0)
        now_s = 1.0
    assert swarm.missing.bit_count() == 8 - here
    assert swarm.next_asks(1.0) == []
    due_s = swarm.wake_at_s(1.0)
    assert due_s == pytest.approx(1.0 + waits_s)
    assert swarm.next_asks(due_s - 0.01) == []
    assert swarm.next_asks(due_s) == [Follow("a")]
