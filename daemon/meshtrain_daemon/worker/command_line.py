"""Which programs a job's command line needs: its own, or a shell as well."""

from __future__ import annotations

SHELL = "/bin/sh"

_SHELL_CHARACTERS = frozenset("|&;<>()$`\\\"'*?[]#~!{}\n\r\v\f\0")
#: What a POSIX shell does itself, or does unlike the program of that name.
_SHELL_WORDS_TEXT = """
    . : alias bg bind break builtin caller case cd command continue declare dirs disown do done
    echo elif else enable esac eval exec exit export fc fg fi for function getopts hash help
    history if in jobs kill let local logout mapfile newgrp popd printf pushd pwd read
    readarray readonly return select set shift shopt source suspend test then time times trap
    type typeset ulimit umask unalias unset until wait while
"""
_SHELL_WORDS = frozenset(_SHELL_WORDS_TEXT.split())


def argv_of(line: str) -> tuple[str, ...]:
    """The arguments that run a shell line, with no shell where the line needs none.

    A line of plain words is split at blanks and run directly, which saves a
    process; one with any shell syntax, a shell's own command or an assignment
    in front is given to `/bin/sh -c` as it is.
    """
    words = [word for word in line.replace("\t", " ").split(" ") if word]
    if (
        not words
        or not _SHELL_CHARACTERS.isdisjoint(line)
        or words[0] in _SHELL_WORDS
        or "=" in words[0]
    ):
        return (SHELL, "-c", line)
    return tuple(words)
