"""YAML as a person writes it, with the traps of YAML 1.1 refused and the line of every mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MOST_VALUES = 200_000
"""Most values of a file with its aliases written out; the largest file of jipflow has 20,000."""

_TAG = "tag:yaml.org,2002:"
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_TYPOGRAPHIC = "“”„‘’‚«»"
_BLANKS = "\u00a0\u2002\u2003\u2009\u200b\u202f\u3000"
"""Blanks of web pages and word processors, which indent nothing in YAML."""


class YamlError(Exception):
    """Text is not YAML, or not what its writer means; the message names line and fix."""


def parse(text: str) -> Any:
    """Read the one document of a YAML text, by YAML 1.1 without what surprises in it.

    Raises:
        YamlError: the text is not YAML; a key stands twice; a key is no text; a value would become
            a date, an octal number or a count of minutes; or aliases make it enormous.
    """
    _check_characters(text)
    try:
        # The parser in C is four times as fast and as safe.
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {}, set())
            for problem in _problems(node, "", set()):
                raise YamlError(problem)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise YamlError(_broken(error, text)) from None
    except yaml.YAMLError as error:
        raise YamlError(f"not YAML: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise YamlError("brackets stand too deeply in each other; write it flat.") from None


def _check_characters(text: str) -> None:
    """Refuse what no editor shows: control characters, and blanks that indent nothing."""
    for number, line in enumerate(text.split("\n"), 1):
        hidden = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]", line)
        if hidden:
            raise YamlError(
                f"line {number}: holds the character U+{ord(hidden[0]):04X}, which is no text; "
                "is this the right file?"
            )
        blank = re.match(rf"[ -]*([{_BLANKS}])", line)
        if blank:
            raise YamlError(
                f"line {number}: begins with the blank U+{ord(blank[1]):04X} of a web page or word "
                "processor; replace it by ordinary blanks."
            )


def _count(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Return how many values a node has with its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise YamlError(f"line {_line(node)}: the anchor here holds an alias to itself; remove it.")
    if id(node) not in known:
        above.add(id(node))
        total = 1 + sum(_count(below, known, above) for below in _children(node))
        above.discard(id(node))
        if total > MOST_VALUES:
            raise YamlError(
                f"line {_line(node)}: has more than {MOST_VALUES} values with its aliases written "
                "out; remove the aliases (*)."
            )
        known[id(node)] = total
    return known[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)


def _problems(node: yaml.Node, path: str, seen: set[int]) -> Iterator[str]:
    """Yield what is wrong with a node and what is below it."""
    if isinstance(node, yaml.ScalarNode):
        yield from _scalar(node, path)
    elif id(node) in seen:
        return
    elif isinstance(node, yaml.SequenceNode):
        seen.add(id(node))
        for number, value in enumerate(node.value):
            yield from _problems(value, f"{path}[{number}]", seen)
    elif isinstance(node, yaml.MappingNode):
        seen.add(id(node))
        yield from _keys(node, path)
        for key, value in node.value:
            below = key.value if isinstance(key, yaml.ScalarNode) else "?"
            yield from _problems(value, f"{path}.{below}" if path else str(below), seen)


def _keys(node: yaml.MappingNode, path: str) -> Iterator[str]:
    first: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag == f"{_TAG}merge":
            continue
        if not isinstance(key, yaml.ScalarNode):
            yield f"line {_line(key)}: a key must be a text; put it in quotes."
        elif key.tag != f"{_TAG}str":
            kind = _KINDS.get(key.tag.removeprefix(_TAG), "no text")
            yield f"line {_line(key)}: the key {key.value} is {kind} in YAML; put it in quotes."
        elif key.value in first:
            name = f"{path}.{key.value}" if path else key.value
            yield (
                f"line {_line(key)}: the key {name!r} is there twice, first in line "
                f"{first[key.value]}; keep one of them."
            )
        first.setdefault(str(key.value), _line(key))


_KINDS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "null": "null",
    "timestamp": "a date",
}


def _scalar(node: yaml.ScalarNode, path: str) -> Iterator[str]:
    if node.style:
        return
    value, kind = str(node.value), node.tag.removeprefix(_TAG)
    spot = f"line {_line(node)}: {path or 'the file'} is {value}, which YAML reads as"
    if kind == "timestamp":
        yield f"{spot} a date; put it in quotes."
    elif kind in {"int", "float"} and ":" in value:
        yield f"{spot} minutes or seconds; put it in quotes."
    elif kind == "int" and _LEADING_ZERO.fullmatch(value):
        yield f"{spot} an octal number; write it without the leading 0, or put a text in quotes."
    elif value[:1] in _TYPOGRAPHIC and value:
        yield (
            f"line {_line(node)}: {path or 'the file'} begins with the typographic quote "
            f"{value[0]}; write ' or \" instead."
        )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _broken(error: yaml.MarkedYAMLError, text: str) -> str:
    """Say in one line where YAML is broken, and what most likely fixes it; quotes no value."""
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark else 1
    lines = text.split("\n")
    line = lines[number - 1] if number <= len(lines) else ""
    opened = error.context_mark.line + 1 if error.context_mark else number
    problem = str(error.problem or error.context)
    character = line[mark.column : mark.column + 1] if mark else ""
    fix = _fix(problem, str(error.context or ""), line, character, opened)
    return f"line {number}: not YAML: {problem}; {fix}."


def _fix(problem: str, context: str, line: str, character: str, opened: int) -> str:
    """Say what fixes a text that is not YAML."""
    if character == "\t" or re.match(r"[ -]*\t", line):
        return "a tab indents nothing; use blanks"
    marks = ("while scanning an alias", "while scanning an anchor", "while scanning a directive")
    if "undefined alias" in problem or context.startswith(marks):
        return "put a text that begins with *, & or % in quotes"
    if character in {"!", "@", "`", "%"}:
        return f"put a text that begins with {character} in quotes"
    if "constructor for the tag" in problem:
        return "put a text that begins with ! in quotes"
    if "mapping values are not allowed" in problem:
        return "put a text that holds a colon in quotes, or check the indentation"
    if "flow" in context:
        return f"the bracket that opens in line {opened} is not closed, or a comma is missing"
    if "escape" in problem:
        return "a backslash in double quotes begins an escape; use single quotes"
    if "quoted scalar" in context:
        return f"the quote that opens in line {opened} is not closed"
    if "another document" in problem or "single document" in context:
        return "remove the --- between documents"
    if "':'" in problem:
        return "a colon and a blank are missing after a key"
    return "check its indentation against the lines above"
