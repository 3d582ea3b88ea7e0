"""The choice of chunks and peers, rule by rule."""

from __future__ import annotations

from meshtrain.core.swarm import (
    AskChunk,
    AskHave,
    Swarm,
    SwarmLimits,
    SwarmState,
    bits_from_bytes,
    bits_to_bytes,
    flags_of,
)

LIMITS = SwarmLimits(
    requests_per_peer_max=2,
    failures_max=3,
    refusals_max=4,
    backoff_s=1.0,
    backoff_max_s=3.0,
    poll_s=1.0,
    poll_max_s=4.0,
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
    assert set(swarm.next_asks(0.0)) == {AskHave(peer) for peer in haves}
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
    assert swarm.next_asks(4.0) == [AskHave("a")]
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
    assert chunks_asked(swarm) == {("a", 0)}
    assert chunks_asked(swarm, 4.9) == set()
    assert swarm.wake_at_s(4.9) == 5.0
    assert chunks_asked(swarm, 5.0) == {("b", 0)}
    assert chunks_asked(swarm, 20.0) == set()
    assert swarm.arrived("b", 0, 20.0) == [AskChunk("a", 0)]
    assert swarm.state(20.0) is SwarmState.DONE
    assert swarm.arrived("a", 0, 20.0) == []


def test_a_partial_peer_is_polled_until_it_holds_all_that_is_missing() -> None:
    swarm = swarm_of(2, a=bits(0))
    assert swarm.next_asks(0.5) == [AskChunk("a", 0)]
    assert swarm.next_asks(1.0) == [AskHave("a")]
    assert swarm.next_asks(9.0) == []
    swarm.told_have("a", bits(0), 9.0)
    swarm.told_have("a", bits(0), 9.0)
    assert swarm.next_asks(12.9) == []
    assert swarm.next_asks(13.0) == [AskHave("a")]
    swarm.told_have("a", bits(0, 1), 13.0)
    assert chunks_asked(swarm, 13.0) == {("a", 1)}
    swarm.arrived("a", 0, 14.0)
    assert swarm.next_asks(100.0) == []


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
    assert AskHave("b") in swarm.next_asks(1.0)
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
