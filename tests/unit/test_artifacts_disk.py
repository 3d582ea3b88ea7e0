"""Removing trees that nobody may write to."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from meshtrain.artifacts.disk import remove_tree


def sealed(root: Path) -> Path:
    tree = root / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    for path in (tree / "x", tree / "a" / "y", tree / "a" / "b" / "z"):
        path.touch(0o444)
    for folder in (tree / "a" / "b", tree / "a", tree):
        folder.chmod(0o555)
    return tree


def test_a_read_only_tree_goes_as_a_whole_and_what_is_gone_is_fine(tmp_path: Path) -> None:
    tree = sealed(tmp_path)
    remove_tree(tree)
    remove_tree(tree)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_its_owner_need_not_be_root() -> None:
    entry = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="meshtrain-test-", dir="/tmp") as name:
        root = Path(name)
        tree = sealed(root)
        for path in (root, tree, *tree.rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        child = os.fork()
        if child == 0:
            os.setuid(entry.pw_uid)
            try:
                remove_tree(tree)
            except OSError:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not tree.exists()


def test_what_is_refused_for_another_reason_is_told(tmp_path: Path) -> None:
    from meshtrain.artifacts.disk import _let_go

    error = (OSError, OSError(5, "bad disk"), None)
    with pytest.raises(OSError, match="bad disk"):
        _let_go(os.unlink, str(tmp_path / "x"), error)
