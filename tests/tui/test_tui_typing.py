"""What somebody types: fast, in one piece, or wrongly."""

from __future__ import annotations

import pytest
from textual.command import CommandPalette
from textual.events import Key
from textual.widgets import Input, OptionList
from tui_double import Dashboard, FakeSource, dashboard
from tui_rows import small_mesh

from meshtrain_tui import keys_in_turn
from meshtrain_tui.screens.confirm import AskPriority, Confirm
from meshtrain_tui.screens.jobs import Jobs

NAMES = {"/": "slash", ":": "colon"}


def mesh() -> FakeSource:
    source = FakeSource()
    source.tell(small_mesh(), whole=True)
    return source


def burst(shown: Dashboard, keys: str) -> None:
    """All these keys at once, as a slow link brings them."""
    for key in keys:
        shown.app.post_message(Key(NAMES.get(key, key), key))


async def test_what_comes_in_one_piece_goes_where_it_was_meant_to_go() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2")
        # `c` asks whether to cancel, and `y` says yes: not here.
        burst(shown, "/accuracy")
        await shown.until(lambda: shown.app.screen.query(Input).first().value == "accuracy")
        await shown.settle()
        assert isinstance(shown.app.screen, Jobs)
        assert shown.master.acts() == []
        assert "/accuracy/" in shown.rows[2]


async def test_a_dialog_takes_what_was_typed_ahead() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2")
        burst(shown, "p7")
        await shown.until(lambda: isinstance(shown.app.screen, AskPriority))
        box = shown.app.screen.query_one(Input)
        await shown.until(lambda: box.value == "7")


async def test_keys_go_on_when_whoever_had_one_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_in_turn, "PATIENCE_S", 0.02)
    async with dashboard(mesh()) as shown:
        await shown.press("2")
        # As if the key's way back to the app had been lost.
        shown.app._is_key_at_work = True
        burst(shown, "c?")
        await shown.until(lambda: isinstance(shown.app.screen, Confirm))


async def test_more_keys_than_anybody_types_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_in_turn, "KEYS_MAX", 3)
    async with dashboard(mesh()) as shown:
        await shown.press("2", "slash")
        burst(shown, "abcdefgh")
        await shown.settle()
        box = shown.app.screen.query(Input).first()
        await shown.until(lambda: not shown.app._keys_waiting)
        await shown.until(lambda: box.value == "abcd")


async def test_a_key_that_does_nothing_is_told_once() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "Z", "Z", "X")
        assert shown.said == "Z does nothing here. The last line has keys that do; ? shows all."
        await shown.press("c", "x")
        assert isinstance(shown.app.screen, Confirm)
        assert shown.said.count("does nothing here") == 1
        shown.source.now_s += 5.0
        await shown.press("x")
        assert "x does nothing here. The last line has keys that do." in shown.said
        assert shown.master.acts() == []


async def test_keys_that_work_are_not_complained_of() -> None:
    async with dashboard(mesh()) as shown:
        await shown.press("2", "down", "k", "slash", *"foo[", "escape", "escape", "s", "escape")
        await shown.press("question_mark", "down", "question_mark", "1", "down", "escape")
        assert shown.said == ""


async def test_the_palette_says_what_it_does_not_know() -> None:
    async with dashboard(mesh(), size=(100, 30)) as shown:
        await shown.press("2")
        burst(shown, ":cancle [all]")
        words = "Nothing here is called “cancle [all]”: nothing is done."
        await shown.until(lambda: words in shown.text)
        await shown.press("enter")
        await shown.until(lambda: words in shown.said)
        assert isinstance(shown.app.screen, Jobs)
        assert shown.master.acts() == []


async def test_the_palette_lists_each_thing_once_and_no_arrows() -> None:
    async with dashboard(mesh(), size=(100, 30)) as shown:
        await shown.press("3", "colon")
        await shown.until(lambda: isinstance(shown.app.screen, CommandPalette))
        options = shown.app.screen.query_one(OptionList)
        await shown.until(lambda: options.option_count > 10)
        listed = [str(option.prompt).splitlines()[0] for option in options.options]
        assert {"Overview", "best cell", "quit", "help"} <= set(listed)
        assert len(listed) == len(set(listed))
        assert not {"up", "down", "left", "right"} & set(listed)
