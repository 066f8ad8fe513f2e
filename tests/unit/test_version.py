"""The version with the commit: right in a clone, silent elsewhere, never an error."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import jipflow
from jipflow import version
from needs import unavailable


@pytest.fixture(autouse=True)
def _fresh():
    version.commit.cache_clear()
    yield
    version.commit.cache_clear()


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", *names, *words], cwd=folder, env=clean, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def head(folder: Path) -> str:
    return git(folder, "rev-parse", "HEAD")[:12]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "a clone"
    (folder / "workflow").mkdir(parents=True)
    (folder / "workflow" / "code.py").write_text("x = 1\n")
    (folder / "notes.txt").write_text("as committed\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_clone_says_its_commit(clone: Path) -> None:
    assert version.commit(clone) == head(clone)


def test_a_worktree_says_its_own_commit(clone: Path, tmp_path: Path) -> None:
    git(clone, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    git(tmp_path / "tree", "commit", "--quiet", "--allow-empty", "--message", "second")
    assert version.commit(tmp_path / "tree") == head(tmp_path / "tree") != version.commit(clone)


@pytest.mark.parametrize("name", ["workflow/code.py", "workflow/new.py"])
def test_changed_code_is_dirty(clone: Path, name: str) -> None:
    (clone / name).write_text("x = 2\n")
    assert version.commit(clone) == head(clone) + "+dirty"


def test_other_files_do_not_matter(clone: Path) -> None:
    (clone / "notes.txt").write_text("changed\n")
    (clone / "site.yaml").write_text("site: {}\n")
    assert version.commit(clone) == head(clone)


def test_a_copy_inside_another_repository_has_no_commit(clone: Path) -> None:
    inner = clone / "workflow" / "copy"
    inner.mkdir()
    assert version.commit(inner) is None


def test_what_was_installed_from_an_archive_says_its_commit(tmp_path: Path) -> None:
    (tmp_path / "installed.json").write_text('{"commit": "0123456789abcdef0123", "version": "1"}')
    assert version.commit(tmp_path) == "0123456789ab"
    for damaged in ("", "[]", "{}"):
        version.commit.cache_clear()
        (tmp_path / "installed.json").write_text(damaged)
        assert version.commit(tmp_path) is None


def test_a_clone_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert version.commit(tmp_path) is None


def test_a_clone_of_another_account(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        unavailable("only root can give a folder to another account")
    expected = head(clone)
    monkeypatch.setenv("HOME", str(clone.parent))
    for path in (clone, clone / ".git"):
        os.chown(path, 65534, 65534)
    assert version.commit(clone) == expected


def test_a_hook_of_another_repository(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", str(clone.parent / "elsewhere"))
    assert version.commit(clone) == head(clone)


def test_without_git(clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.commit(clone) is None


def test_a_broken_clone(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    assert version.commit(tmp_path) is None


def test_the_version_begins_with_the_packages() -> None:
    words = version.full_version().split()
    assert words[0] == jipflow.__version__
    assert len(words) <= 2


def test_changed_code_does_not_carry_the_number_of_a_release() -> None:
    changes = (version.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    waiting = changes.split("## [Unreleased]")[1].split("\n## [")[0].strip()
    released = [line[4:].split("]")[0] for line in changes.splitlines() if line.startswith("## [0")]
    assert released
    assert not waiting or jipflow.__version__ not in released


def test_no_change_is_listed_twice() -> None:
    """As where two branches meet that have each worded a line anew."""
    changes = (version.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    beginnings = [line[:60] for line in changes.splitlines() if line.startswith("- ")]
    assert [each for each in beginnings if beginnings.count(each) > 1] == []
