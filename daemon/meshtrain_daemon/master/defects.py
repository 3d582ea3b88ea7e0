"""A bug met while one person's request is served: that person is told, and all else goes on.

Elsewhere what nobody expected ends the process, since nobody knows what it left
half done. Here it is known: a request is read, looked into and answered beside
the loop of decisions, and changes nothing but by one event to the scheduler. So
a job file, or a question, that trips over a bug must not take the master from
everybody, again after each start.
"""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger(__name__)

SHOWN_CHARS_MAX: Final = 300


def told_defect(doing: str, error: Exception) -> str:
    """Log a bug with its traceback; says what its asker is told.

    Args:
        doing: what was being done, as the beginning of a sentence.
    """
    logger.error("%s failed by a bug of meshtrain; all else goes on", doing, exc_info=error)
    return defect(doing, error)


def defect(doing: str, error: Exception) -> str:
    """A bug in one line."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    at = "" if where is None else f" (line {where.tb_lineno} of {where.tb_frame.f_code.co_name})"
    shown = ascii(error)[:SHOWN_CHARS_MAX]
    return (
        f"{doing} failed. This is a bug of meshtrain: {shown}{at}. All else goes on; "
        "please report it"
    )
