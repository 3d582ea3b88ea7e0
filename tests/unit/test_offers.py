"""What the first holder shows to each of those who fetch, rule by rule."""

from __future__ import annotations

from meshtrain.core.offers import (
    AHEAD_MAX,
    ALL_AFTER_S,
    PASSED_ON_S,
    PASSING_ON_S,
    PATIENCE_FACTOR,
    PATIENCE_FIRST_S,
    PATIENCE_MIN_S,
    Offers,
)

ALL_8 = (1 << 8) - 1


def bits(*chunks: int) -> int:
    return sum(1 << chunk for chunk in chunks)


def numbers(chunks: int) -> list[int]:
    return [n for n in range(chunks.bit_length()) if chunks >> n & 1]


def first(chunks: int) -> int:
    return numbers(chunks)[0]


def offers_to(*followers: str, chunk_count: int = 8) -> Offers:
    """Followers who have nothing, joined at time 0, and are promised one chunk each."""
    offers = Offers(chunk_count, promises_max=len(followers))
    for follower in followers:
        offers.join(follower, 0, 0.0)
    return offers


def promised(offers: Offers, follower: str) -> int:
    """What one is shown and has not taken, while there are open ones."""
    assert offers.open, "all is shown to all"
    return offers.shown(follower) & ~offers._followers[follower].took


def test_a_few_who_fetch_something_small_are_told_of_all_of_it() -> None:
    offers = Offers(4, small_copies=8)
    for follower in ("a", "b"):
        offers.join(follower, 0, 0.0)
    assert offers.shown("a") == offers.shown("b") == 0b1111
    # One more, and each chunk goes to one of them, who passes it on.
    offers.join("c", 0, 0.0)
    shown = [offers.shown(follower) for follower in ("a", "b", "c")]
    assert all(one.bit_count() < 4 for one in shown)
    assert sum(shown) == shown[0] | shown[1] | shown[2], "each is promised to one"


def test_one_alone_is_told_of_everything() -> None:
    offers = offers_to("a")
    assert offers.shown("a") == ALL_8
    assert not offers.shows_all("a"), "of less, when a second one comes"


def test_each_chunk_is_shown_to_one_only() -> None:
    offers = Offers(20, promises_max=6)
    shown_to: dict[str, int] = {}
    for name in "abcd":
        offers.join(name, 0, 0.0)
    for _ in range(3):
        shown_to = {name: promised(offers, name) for name in "abcd"}
        assert sum(one.bit_count() for one in shown_to.values()) == 6
        assert sum(one.bit_count() for one in shown_to.values()) == len(
            numbers(shown_to["a"] | shown_to["b"] | shown_to["c"] | shown_to["d"])
        )
        offers.gave("b", first(shown_to["b"]), 0.1)
    assert not offers.shows_all("a")


def test_each_holder_begins_at_another_chunk() -> None:
    offers = Offers(8, promises_max=4, first=6)
    offers.join("a", 0, 0.0)
    offers.join("b", 0, 0.0)
    assert promised(offers, "a") | promised(offers, "b") == bits(6, 7, 0, 1)


def test_few_chunks_are_promised_at_a_time() -> None:
    offers = Offers(200, promises_max=6)
    names = [f"node-{n}" for n in range(50)]
    for name in names:
        offers.join(name, 0, 0.0)
    assert offers.open.bit_count() == 194
    assert max(promised(offers, name).bit_count() for name in names) <= AHEAD_MAX
    assert Offers(200).open.bit_count() == 200, "nobody is there to be promised anything"


def test_who_was_waited_for_least_is_promised_the_next() -> None:
    offers = Offers(40, promises_max=2)
    for name in ("slow", "quick"):
        offers.join(name, 0, 0.0)
    took = {"slow": 0, "quick": 0}
    for step in range(1, 21):
        now_s = step * 0.1
        for name, every in (("slow", 5), ("quick", 1)):
            if step % every == 0:
                for chunk in numbers(promised(offers, name))[:1]:
                    offers.gave(name, chunk, now_s)
                    took[name] += 1
    assert took["quick"] > 2 * took["slow"] > 0


def test_what_takes_long_keeps_no_place_that_others_could_have() -> None:
    offers = Offers(40, promises_max=2)
    for name in ("slow", "quick"):
        offers.join(name, 0, 0.0)
    now_s = 0.0
    for _ in range(8):
        now_s += 0.1
        offers.gave("quick", first(promised(offers, "quick")), now_s)
    assert promised(offers, "quick").bit_count() == 2, "beside the one that is still awaited"


def test_who_takes_one_is_shown_the_next_and_keeps_what_it_took() -> None:
    offers = offers_to("a", "b")
    before = offers.shown("a")
    offers.gave("a", first(before), 0.1)
    after = offers.shown("a")
    assert after & before == before
    assert (after & ~before).bit_count() == 1
    assert not after & offers.shown("b")


def test_who_fetches_first_is_shown_less_when_a_second_one_comes() -> None:
    offers = Offers(20, promises_max=4)
    offers.join("a", 0, 0.0)
    for chunk in (7, 9):
        offers.gave("a", chunk, 0.1)
    offers.join("b", 0, 0.2)
    assert offers.shown("a").bit_count() == 4, "two that it took, two that are promised"
    assert offers.shown("a") & bits(7, 9) == bits(7, 9)
    assert offers.shown("b").bit_count() == 2
    assert not offers.shown("b") & offers.shown("a")


def test_what_one_has_when_it_comes_counts_as_given() -> None:
    offers = Offers(4)
    offers.join("a", bits(0, 1), 0.0)
    assert offers.open == bits(2, 3)
    offers.join("b", 0, 0.0)
    assert offers.shown("b") | offers.shown("a") == bits(2, 3)


def test_what_one_says_that_it_has_beyond_the_last_is_of_no_meaning() -> None:
    offers = Offers(4)
    offers.join("a", bits(0, 77), 0.0)
    offers.join("b", 0, 0.0)
    assert max(numbers(offers.shown("a") | offers.shown("b"))) <= 3


def test_once_all_were_given_they_are_shown_to_all_after_a_time() -> None:
    offers = offers_to("a", "b", chunk_count=3)
    its_own = first(offers.shown("b"))
    for chunk in range(3):
        offers.gave("b" if chunk == its_own else "a", chunk, 0.3)
    offers.expire(0.3 + ALL_AFTER_S - 0.01)
    assert offers.shown("b") == bits(its_own), "the rest comes from the other one"
    assert not offers.shows_all("b")
    offers.expire(0.3 + ALL_AFTER_S)
    assert offers.shown("a") == offers.shown("b") == bits(0, 1, 2)
    assert offers.shows_all("a")


def test_what_was_promised_to_one_that_left_is_promised_to_others() -> None:
    offers = offers_to("a", "b", "c", chunk_count=7)
    left_behind = promised(offers, "b")
    offers.leave("b")
    assert offers.open & left_behind == left_behind
    found = 0
    for name in ("a", "c"):
        for _ in range(4):
            for chunk in numbers(offers.shown(name)):
                offers.gave(name, chunk, 0.2)
            found |= offers.shown(name)
    assert found & left_behind == left_behind


def test_who_is_left_alone_sees_everything() -> None:
    offers = offers_to("a", "b")
    offers.leave("b")
    assert offers.shown("a") == ALL_8


def test_one_that_left_twice_or_never_came_changes_nothing() -> None:
    offers = offers_to("a", "b", chunk_count=20)
    before = offers.shown("a")
    offers.leave("nobody")
    offers.gave("nobody", 17, 0.1)
    assert offers.shown("a") == before
    offers.leave("b")
    offers.leave("b")
    assert offers.shown("a") == (1 << 20) - 1


def test_a_chunk_that_somebody_else_took_is_given() -> None:
    """Who isn't known by its news reads files too: a person, or who follows no more."""
    offers = offers_to("a", "b", chunk_count=20)
    assert offers.open >> 17 & 1
    offers.gave("curl", 17, 0.1)
    assert not offers.open >> 17 & 1


def test_who_comes_again_begins_anew_with_what_it_has() -> None:
    offers = offers_to("a", "b", chunk_count=20)
    had = offers.shown("a")
    offers.join("a", had, 0.5)
    shown = offers.shown("a")
    assert shown.bit_count() == 1
    assert not shown & had, "it has these from elsewhere"
    assert not shown & offers.shown("b")


def test_a_promise_that_is_not_kept_is_made_to_another() -> None:
    offers = offers_to("slow", "quick", chunk_count=4)
    held_back = promised(offers, "slow")
    offers.expire(PATIENCE_FIRST_S - 0.01)
    assert promised(offers, "slow") == held_back
    offers.expire(PATIENCE_FIRST_S)
    now_s = PATIENCE_FIRST_S
    while offers.open:
        offers.gave("quick", first(promised(offers, "quick")), now_s)
    assert offers.shown("quick") & held_back
    assert offers.shown("slow") & held_back, "it may still be on its way there"


def test_a_silent_follower_draws_no_chunk_out_of_the_others_sight_for_good() -> None:
    offers = offers_to("silent", "other", chunk_count=12)
    now_s, taken = 0.0, 0
    for _ in range(40):
        now_s += PATIENCE_FIRST_S
        for chunk in numbers(offers.shown("other") & ~taken):
            offers.gave("other", chunk, now_s)
            taken |= 1 << chunk
        offers.expire(now_s)
    assert taken == (1 << 12) - 1


def test_what_nobody_takes_counts_as_given_in_the_end() -> None:
    """So that the last ones are shown to all, whatever the two said that they want."""
    offers = offers_to("a", "b", chunk_count=6)
    now_s = 0.0
    for _ in range(20):
        now_s += PATIENCE_FIRST_S
        offers.expire(now_s)
    assert offers.shows_all("a")
    assert offers.shows_all("b")


def test_patience_grows_with_what_they_take_on_average() -> None:
    offers = offers_to("a", "b", chunk_count=80)
    now_s = 0.0
    for _ in range(30):
        now_s += 2.0
        for name in "ab":
            offers.gave(name, first(promised(offers, name)), now_s)
    waiting = promised(offers, "b")
    offers.expire(now_s + 2.0 * PATIENCE_FACTOR - 0.1)
    assert promised(offers, "b") & waiting == waiting
    offers.expire(now_s + 2.0 * PATIENCE_FACTOR)
    assert not promised(offers, "b") & waiting


def test_patience_has_a_least_time() -> None:
    offers = offers_to("a", "b", chunk_count=80)
    for _ in range(30):
        for name in "ab":
            offers.gave(name, first(promised(offers, name)), 0.0)
    waiting = promised(offers, "b")
    offers.expire(PATIENCE_MIN_S - 0.01)
    assert promised(offers, "b") == waiting
    offers.expire(PATIENCE_MIN_S)
    assert promised(offers, "b") != waiting


def test_an_artifact_without_chunks_is_shown_at_once() -> None:
    offers = Offers(0)
    offers.join("a", 0, 0.0)
    offers.join("b", 0, 0.0)
    assert offers.shows_all("a")
    assert offers.shows_all("b")


def test_what_one_took_just_before_it_left_is_promised_anew() -> None:
    offers = offers_to("a", "b", "c", chunk_count=30)
    early, late = (first(promised(offers, "a")), 0.0), 5.0
    offers.gave("a", early[0], early[1])
    recent = first(promised(offers, "a"))
    offers.gave("a", recent, late)
    offers.gave("b", first(promised(offers, "b")), late + 1.0)
    offers.leave("a")
    assert offers.open >> recent & 1, "it may be lost"
    assert not offers.open >> early[0] & 1, "it was passed on"


def test_who_is_slow_is_promised_nothing_while_others_can_be() -> None:
    offers = Offers(60, promises_max=4)
    for name in ("slow", "b", "c"):
        offers.join(name, 0, 0.0)
    its_first = promised(offers, "slow")
    now_s = 0.0
    for _ in range(20):
        now_s += 0.05
        for name in ("b", "c"):
            if waiting := promised(offers, name):
                offers.gave(name, first(waiting), now_s)
    for chunk in numbers(its_first):
        offers.gave("slow", chunk, now_s)
    assert not promised(offers, "slow")
    offers.leave("b")
    offers.leave("c")
    offers.join("d", 0, now_s)
    offers.expire(now_s + 1.0)
    assert offers.shown("slow") | offers.shown("d"), "d is quick, as far as is known"


def with_a_slow_one(chunk_count: int) -> tuple[Offers, float]:
    """Two took a chunk each 0.1 s, and one took its first only now, after 2 s."""
    offers = Offers(chunk_count, promises_max=8)
    for name in ("slow", "b", "c"):
        offers.join(name, 0, 0.0)
    its_own = numbers(promised(offers, "slow"))
    now_s = 0.0
    for _ in range(20):
        now_s += 0.1
        for name in ("b", "c"):
            offers.gave(name, first(promised(offers, name)), now_s)
    for chunk in its_own:
        offers.gave("slow", chunk, now_s)
    return offers, now_s


def test_a_slow_one_is_promised_something_while_there_is_time_to_have_it_from_there() -> None:
    offers, _ = with_a_slow_one(1000)
    assert promised(offers, "slow").bit_count() == AHEAD_MAX
    offers, _ = with_a_slow_one(100)
    assert not promised(offers, "slow")


def test_a_slow_one_that_comes_anew_is_known_as_slow() -> None:
    offers, now_s = with_a_slow_one(100)
    offers.join("slow", offers.shown("slow"), now_s)
    assert not offers.shown("slow")
    offers.join("new", 0, now_s)
    assert offers.shown("new").bit_count() == AHEAD_MAX, "of whom nothing is known is not"


def test_who_kept_no_promise_at_all_is_slow() -> None:
    offers = Offers(200, promises_max=8)
    for name in ("stuck", "b", "c"):
        offers.join(name, 0, 0.0)
    now_s = 0.0
    while now_s < PATIENCE_MIN_S:
        now_s += 0.1
        for name in ("b", "c"):
            offers.gave(name, first(promised(offers, name)), now_s)
    offers.expire(now_s)
    assert not promised(offers, "stuck")


def test_what_is_not_passed_on_is_promised_to_one_who_comes_anew_and_lacks_it() -> None:
    offers = offers_to("a", "b", chunk_count=4)
    now_s = 0.0
    while offers.open:
        now_s += 0.1
        for name in ("a", "b"):
            if waiting := promised(offers, name):
                offers.gave(name, first(waiting), now_s)
                if not offers.open:
                    break
    of_a = offers.shown("a")
    lost = first(of_a)
    offers.join("b", ALL_8 & 0b1111 & ~bits(lost), now_s + PASSING_ON_S - 0.5)
    assert not offers.shown("b"), "it may be on its way"
    offers.join("b", ALL_8 & 0b1111 & ~bits(lost), now_s + PASSING_ON_S + 0.5)
    assert offers.shown("b") == bits(lost)


def test_what_left_with_one_that_passed_nothing_on_is_promised_to_one_who_lacks_it() -> None:
    """It took its time, got all, and sent the others nothing of use."""
    offers = offers_to("spoiler", "b", chunk_count=4)
    spoiled = first(promised(offers, "spoiler"))
    offers.gave("spoiler", spoiled, 0.1)
    now_s = 0.1 + PASSED_ON_S
    for _ in range(3):
        now_s += 0.1
        waiting = {
            name: offers.shown(name) & ~offers._followers[name].took for name in ("b", "spoiler")
        }
        name = "b" if waiting["b"] else "spoiler"
        offers.gave(name, first(waiting[name]), now_s)
    assert not offers.open
    of_b = bits(*(chunk for chunk in range(4) if chunk != spoiled))
    offers.leave("spoiler")
    offers.join("c", of_b, now_s)
    offers.join("b", of_b, now_s)
    later_s = now_s + PASSING_ON_S + 0.1
    assert later_s < now_s + ALL_AFTER_S
    offers.join("b", of_b, later_s)
    assert (offers.shown("b") | offers.shown("c")) == bits(spoiled)


def test_a_newcomer_has_from_the_others_what_was_given_to_them() -> None:
    offers = offers_to("a", "b", chunk_count=4)
    now_s = 0.0
    while offers._given != 0b1111:
        now_s += 0.1
        for name in ("a", "b"):
            if waiting := offers.shown(name) & ~offers._followers[name].took:
                offers.gave(name, first(waiting), now_s)
    offers.join("new", 0, now_s + PASSING_ON_S + 0.5)
    assert not offers.shown("new")
    assert offers._given == 0b1111
