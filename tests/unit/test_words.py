"""One word for one thing, and Python's word for it: what a newcomer greps for is found."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "workflow" / "jipflow"
FOLDERS = ("benchmarks", "config", "docs", "profiles", "rules", "tests", "workflow")
SUFFIXES = {".j2", ".json", ".md", ".py", ".smk", ".yaml"}
PAGES = [
    *(path for path in sorted(ROOT.iterdir()) if path.suffix == ".md"),
    ROOT / "Makefile",
    ROOT / "Snakefile",
    ROOT / "workflow" / "Snakefile",
    *(
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SUFFIXES and path != Path(__file__).resolve()
    ),
]

INSTEAD = {
    "fix, or repair for what is changed in a header": r"mend(s|ed|ing)?",
    "state, answer, give or distinguish": r"told",
    "state, message or name": r"said",
    "check, or validate for another program's verdict": r"judg(e[sd]?|ing|e?ments?)",
}
FILED = re.compile(
    r'mended\.parquet|"mended"|``mended``|summary\.mended'
    r"|mended AS reason|AND mended <> ''|^ +mended, series, patients\.",
    re.MULTILINE,
)
"""A file, its column and a count of results that exist, whose names do not change."""

FILTERS = {
    "catalog.cohort",
    "catalog.query",
    "expressions",
    "pacs.narrow",
    "pacs.query",
    "settings.protocol",
}
"""Modules in which `where` is the protocol's key of that name, an expression of SQL."""


def retired(text: str) -> list[str]:
    """The retired words of a text, each with what to write."""
    text = FILED.sub("", text)
    return [
        f"{found[0]}: write {word}"
        for word, pattern in INSTEAD.items()
        for found in re.finditer(rf"(?<![a-z])({pattern})(?![a-z])", text, re.IGNORECASE)
    ]


def names(module: ast.Module) -> set[str]:
    """The names that a module gives to variables, parameters and attributes of classes."""
    given = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
    return given | {node.arg for node in ast.walk(module) if isinstance(node, ast.arg)}


def test_retired_words_do_not_come_back() -> None:
    assert len(PAGES) > 300
    found = {str(path.relative_to(ROOT)): retired(path.read_text("utf-8")) for path in PAGES}
    assert {path: words for path, words in found.items() if words} == {}


@pytest.mark.parametrize(
    "text",
    ["_mend_values(header)", "Mend it.", "as told_by", "what was said", "judged", "a mended file"],
)
def test_a_retired_word_is_found(text: str) -> None:
    assert len(retired(text)) == 1


@pytest.mark.parametrize("text", ["recommended", "amend", "unsaid_x", "catalog/mended.parquet"])
def test_other_words_are_left_alone(text: str) -> None:
    assert retired(text) == []


def test_the_place_that_a_message_names_is_its_context() -> None:
    holding = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if "where" in names(ast.parse(path.read_text("utf-8")))
    }
    assert holding == FILTERS
