"""Chooses a job file on this host: with the arrows and enter, or by typing its path."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from meshtrain.spec.reader import SUFFIXES
from meshtrain_tui.screens.choose import Options
from meshtrain_tui.widgets.key_line import KeyLine
from meshtrain_tui.words import size

ENTRIES_MAX = 2000


class Listing(NamedTuple):
    """What can be chosen in a folder."""

    folder: Path
    entries: tuple[tuple[Path, str], ...]
    """Paths, and the words for them; folders first."""
    problem: str = ""


def list_folder(folder: Path) -> Listing:
    """The folders and the job files in a folder; its problem when it can't be read."""
    folders: list[tuple[Path, str]] = []
    files: list[tuple[Path, str]] = []
    left_out = 0
    try:
        with os.scandir(folder) as there:
            for entry in there:
                if entry.name.startswith("."):
                    continue
                if len(folders) + len(files) >= ENTRIES_MAX:
                    left_out += 1
                elif entry.is_dir():
                    folders.append((Path(entry.path), f"{entry.name}/"))
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    words = f"{entry.name}   {size(entry.stat().st_size)}"
                    files.append((Path(entry.path), words))
    except OSError as error:
        return Listing(folder, (), f"{folder} can't be read: {error.strerror}")
    folders.sort()
    files.sort()
    above = [(folder.parent, "../")] if folder.parent != folder else []
    problem = "" if files else f"no job file here ({', '.join(SUFFIXES)})"
    if left_out:
        problem = f"{left_out:,} more are not listed: type the path"
    return Listing(folder, (*above, *folders, *files), problem)


class PickFile(ModalScreen[Path | None]):
    """The path of a file; None after esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "path or list", id="pick.other"),
        Binding("escape", "leave", "back", id="pick.leave"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._listing = Listing(folder, ())

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static("Give a job file to the mesh", classes="box-title", markup=False)
            yield Input(compact=True, id="path")
            yield Options(compact=True, markup=False)
            yield Static("", classes="problem", markup=False)
        yield KeyLine()

    async def on_mount(self) -> None:
        await self._go(self._listing.folder)
        self.query_one(OptionList).focus()

    async def _go(self, folder: Path) -> None:
        # A folder on a share may take its time: that must not stop the screen.
        self._listing = listing = await asyncio.to_thread(list_folder, folder)
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(words) for _, words in listing.entries])
        if listing.entries:
            options.highlighted = 0
        self.query_one(Input).value = f"{listing.folder}{os.sep}"
        self.query_one(".problem", Static).update(listing.problem)

    async def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        path, words = self._listing.entries[event.option_index]
        if words.endswith("/"):
            await self._go(path)
        else:
            self.dismiss(path)

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        path = Path(event.value.strip()).expanduser()
        if not path.is_absolute():
            path = self._listing.folder / path
        if await asyncio.to_thread(path.is_dir):
            await self._go(path)
            self.query_one(OptionList).focus()
        elif await asyncio.to_thread(path.is_file):
            self.dismiss(path)
        else:
            self.query_one(".problem", Static).update(f"{path} is not there")

    def action_leave(self) -> None:
        self.dismiss(None)
