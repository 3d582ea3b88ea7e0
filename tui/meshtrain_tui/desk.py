"""What a screen may ask of the dashboard that it is a part of.

    desk = desk_of(self)                     in any widget or screen
    desk.picture                             the last Picture, or None before the first
    await desk.page(PageQuery("jobs"))       a page of rows; raises MeshtrainError
    await desk.ask(Query(...))               any message to the master; raises MeshtrainError
    desk.steer(cancel([row]))                asks, does it, tells the outcome, keeps the undo
    desk.open("job", job_id)                 lays a screen over this one; esc leads back
    desk.can_open("job")                     whether there is such a screen
    desk.say("done") / desk.say(e, bad=True) a line for people, for some seconds
    desk.readonly                            True: nothing may be changed from here
    desk.density, desk.fit(density)          compact, normal or wide
    desk.changed()                           something was done: look at the mesh again
    desk.key_of("app.undo", "u")             the key of an action of the app, as it is shown

The app is the one that has it all; screens know it as this Protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from textual.dom import DOMNode

from meshtrain.core.pages import Page, PageQuery
from meshtrain.wire.messages import Answer, Done, FromPerson
from meshtrain_tui.feed import Picture
from meshtrain_tui.settings import Density

if TYPE_CHECKING:
    from meshtrain_tui.steering.action import Action


class Desk(Protocol):
    """The dashboard, as its screens see it."""

    @property
    def picture(self) -> Picture | None:
        """What was shown last; None before anything was."""

    @property
    def readonly(self) -> bool:
        """Whether actions are off: asked for, or because there is no master to act on."""

    @property
    def density(self) -> Density:
        """How much is put on the screen."""

    @property
    def address(self) -> str:
        """The master's, as it is shown."""

    @property
    def now_s(self) -> Callable[[], float]:
        """The clock that tells how long something is ago."""

    @property
    def filters(self) -> list[str]:
        """The filters that were typed before, the last one last."""

    async def page(self, query: PageQuery) -> Page:
        """A page of rows. Raises MeshtrainError when it can't be had."""

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """The master's answer to a message, asked in a thread.

        Raises MeshtrainError when there is none, or its `error` says no.
        """

    def steer(self, action: Action) -> None:
        """Ask for confirmation, carry it out, tell what came of it."""

    def open(self, kind: str, name: str) -> None:
        """Lay the screen of one thing over this one; `kind` as in screens.registry.OPENED."""

    def can_open(self, kind: str) -> bool:
        """Whether there is a screen for one thing of this kind."""

    async def open_results(self, sweep_id: str) -> None:
        """Show the folder that a sweep's results lie in, or tell where it is."""

    def say(self, text: str, *, bad: bool = False) -> None:
        """Show a line for some seconds; a bad one stays longer."""

    def fit(self, density: Density) -> None:
        """Put so much on the screen from now on."""

    def changed(self) -> None:
        """Something was done: what is shown is old."""

    def key_of(self, name: str, default: str) -> str:
        """The key of an action of the app, as it is shown; the first where there are several."""


def desk_of(node: DOMNode) -> Desk:
    """The dashboard that a screen or a widget is a part of."""
    return cast(Desk, node.app)
