"""What the documentation points to is there: files, headings, commands and their options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from jipflow.cli.menu import GROUPS, find

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for folder, pattern in ((ROOT, "*.md"), (ROOT / "docs", "**/*.md"), (ROOT / "config", "*.md"))
    for path in folder.glob(pattern)
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


@cache
def headings(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    found: list[str] = []
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return set(found)


def code(text: str) -> Iterator[str]:
    """The lines of a page's blocks of code, those that go on joined, and its inline code."""
    for block in FENCE.findall(text):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()[1:-1]
    yield from (" ".join(words.split()) for words in re.findall(r"`([^`]+)`", FENCE.sub("", text)))


def calls(program: str) -> list[tuple[str, str]]:
    """Page and command line of each call of a program that the documentation names."""
    found = []
    for name, path in zip(NAMES, PAGES, strict=True):
        for line in code(path.read_text(encoding="utf-8")):
            start = re.search(rf"(?:^|[/\s]){program} (?=\S)", line.split(" #")[0])
            if start:
                found.append((name, line[start.end() - len(program) - 1 :].split(" #")[0].strip()))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        if not there.exists() or (anchor and anchor not in headings(there)):
            wrong.append(target)
    assert not wrong


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {name for name in NAMES if name.startswith("docs/")} <= linked


@pytest.mark.parametrize(("name", "line"), calls("jipflow"))
def test_commands_are_there_with_their_options(name: str, line: str) -> None:
    words = re.match(r"jipflow((?: [a-z]+)*)", line)
    assert words
    options = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", line))
    command = find(words[1].split())
    if command is None:
        assert words[1].strip() in {"", *GROUPS}
        assert options <= {"--help", "--version"}
    else:
        help_page = command.parser().format_help()
        assert options <= set(re.findall(r"(?<=\s)--[a-z][a-z-]*", help_page))


@pytest.mark.parametrize(("name", "line"), calls("snakemake"))
def test_snakemake_takes_each_word_for_what_it_is(name: str, line: str) -> None:
    """Whatever follows ``--configfile`` is a file and whatever follows ``--config`` a setting."""
    option = ""
    for word in shlex.split(line):
        if word.startswith("--"):
            option = word
        elif option == "--configfile":
            assert word.endswith(".yaml"), f"name the target before {option}"
        elif option == "--config":
            assert "=" in word, f"name the target before {option}"
