"""`.meshtrainignore` means what a `.gitignore` of the same text means; git is the oracle.

For ASCII names: git counts bytes, and a `?` of ours is one letter of any alphabet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.artifacts.ignore import Ignore

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is the oracle")

FILES = (
    *("a", "b", "ab", "a.b", "#a", "!a", "a b", "b]", "a-b"),
    *("d/a", "d/b", "d/ab", "d/e/a", "d/e/b", "d/e/f/a", "e/a", "e/d/b", "ab.d/a", "f/d/e/a"),
)
STEPS = st.one_of(
    st.sampled_from(["a", "b", "d", "e", "f", "*", "**", "?", "a*", "*b", "ab.d", "[ab]", "[!a]"]),
    st.text("ab*?[]!^-de./\\", min_size=1, max_size=6),
)
PATTERNS = st.builds(
    lambda bang, root, steps, end: bang + root + "/".join(steps) + end,
    st.sampled_from(["", "", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(STEPS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", " ", "\\ "]),
)
LINES = st.lists(
    st.one_of(PATTERNS, st.sampled_from(["", "#a", "\\#a", "\\!a", "a\\ b", "!", "/"])), max_size=5
)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("repo")
    for relpath in FILES:
        (folder / relpath).parent.mkdir(parents=True, exist_ok=True)
        (folder / relpath).touch()
    run(folder, "init", "-q")
    yield folder


def run(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], input=given, env=env, capture_output=True
    ).stdout


@settings(max_examples=150, deadline=None)
@given(lines=LINES)
def test_the_same_files_are_left_out_as_by_git(repo: Path, lines: list[str]) -> None:
    text = "\n".join(lines)
    (repo / ".gitignore").write_text(text, encoding="utf-8")
    told = run(repo, "ls-files", "-z", "--others", "--exclude-standard").decode().split("\0")
    ours = Ignore(text)
    kept = {relpath for relpath in FILES if not ours.leaves_out(relpath)}
    assert kept == set(told) & set(FILES)
