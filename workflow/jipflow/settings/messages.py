"""What is wrong with content, one sentence each: the key, what it is, what it may be, the fix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from jipflow.settings.names import meant
from jipflow.settings.part import json_type

Schema = Mapping[str, Any]

MOST = 5
"""Most sentences for one file; the first ones are about the outermost keys."""

_LONGEST = 100

_HOMES = 3
"""Most places that are named where a key may belong."""

_NOUNS = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of keys to values",
    "null": "null",
}


def messages(
    error: ValidationError, schema: Schema, content: Any, beside: Sequence[str] = ()
) -> list[str]:
    """Turn the errors of a validation into sentences, those about the outermost keys first.

    Args:
        error: what pydantic found.
        schema: JSON Schema of the type, by `jipflow.settings.schema.json_schema`.
        content: what was validated.
        beside: keys that may stand beside those of the content, for others to read.
    """
    found, lacking = [], set()
    for each in error.errors(include_url=False):
        if each["type"] == "missing":
            # What is there says enough of the mapping; the next run names the next.
            if each["loc"][:-1] in lacking:
                continue
            lacking.add(each["loc"][:-1])
        spot = _locate(each["loc"], schema, content)
        sentence = (
            _unknown_key(spot.key, spot.owner, [*spot.owner.schema["properties"], *beside], schema)
            if each["type"] == "extra_forbidden" and spot.owner and not spot.owner.path
            else _sentence(each, spot, schema)
        )
        found.append((len(each["loc"]), sentence))
    return list(dict.fromkeys(text for _, text in sorted(found)))[:MOST]


@dataclass
class _Spot:
    """Where in the content an error is.

    Attributes:
        path: the keys that lead there, such as ``sources[0].url``.
        schema: of what should be there.
        instance: what is there.
        owner: the mapping that holds it.
        key: its key there.
        others: where `schema` is of a union, the key that tells its members apart, and these.
    """

    path: str
    schema: Schema
    instance: Any
    owner: _Spot | None = None
    key: str = ""
    others: tuple[str, dict[str, Schema]] | None = None

    @property
    def named(self) -> str:
        return self.path or "the top level"


def resolved(node: Schema, root: Schema) -> Schema:
    """Return a schema in place of a reference to it, or of one that is it or null.

    What stands beside the reference wins.
    """
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            target = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
        else:
            (target,) = (option for option in node["anyOf"] if option != {"type": "null"})
        node = {**target, **{k: v for k, v in node.items() if k not in {"$ref", "anyOf"}}}
    return node


def _locate(loc: tuple[int | str, ...], root: Schema, content: Any) -> _Spot:
    """Follow the location of an error, whose elements are keys, indices and tags of unions."""
    spot = _Spot("", resolved(root, root), content)
    for element in loc:
        if "oneOf" in spot.schema and _choose(spot, str(element), root):
            continue
        if isinstance(element, int):
            there = spot.instance[element]
            below = resolved(spot.schema.get("items", {}), root)
            spot = _Spot(f"{spot.path}[{element}]", below, there)
        elif element == "[key]":
            spot.schema = spot.owner.schema["propertyNames"] if spot.owner else {}
            spot.instance = None
        else:
            given = spot.instance if isinstance(spot.instance, Mapping) else {}
            others = spot.schema.get("additionalProperties")
            below = spot.schema.get("properties", {}).get(element, others)
            below = resolved(below, root) if isinstance(below, Mapping) else {}
            path = f"{spot.path}.{element}" if spot.path else element
            spot = _Spot(path, below, given.get(element), spot, element)
    return spot


def _choose(spot: _Spot, tag: str, root: Schema) -> bool:
    """Go on with the member of a union that has a tag, which is of its key or its JSON type.

    Returns:
        Whether the tag states which; else the content does.
    """
    union = spot.schema
    if "discriminator" in union:
        key, members = _members(union, root)
        spot.schema, spot.others = members[tag], (key, members)
        return True
    options = {
        option["type"]: option for each in union["oneOf"] if (option := resolved(each, root))
    }
    spot.schema = options[tag if tag in options else json_type(spot.instance)]
    return tag in options


def _members(union: Schema, root: Schema) -> tuple[str, dict[str, Schema]]:
    """Return the key that tells the members of a union apart, and the members by its value."""
    mapping = union["discriminator"]["mapping"]
    members: dict[str, Schema] = {
        name: resolved({"$ref": ref}, root) for name, ref in mapping.items()
    }
    return union["discriminator"]["propertyName"], members


def _sentence(error: Mapping[str, Any], spot: _Spot, root: Schema) -> str:
    kind, context = error["type"], error.get("ctx", {})
    hint = f" ({spot.schema['description']})" if spot.path and "description" in spot.schema else ""
    if kind == "missing":
        assert spot.owner
        return f"key {spot.key!r} is missing at {spot.owner.named}; add it."
    if "discriminator" in spot.schema and kind.startswith("union_tag"):
        key, members = _members(spot.schema, root)
        hint = f" ({next(iter(members.values()))['properties'][key]['description']})"
        if kind == "union_tag_not_found":
            return f"key {key!r} is missing at {spot.named}; add it.{hint}"
        allowed = ", ".join(members)
        near = meant(str(context["tag"]), members)
        proposal = f"; did you mean {near[0]!r}?" if near else "."
        tag = repr(context["tag"])
        return f"{spot.named}.{key} is {tag}; it must be one of: {allowed}{proposal}{hint}"
    if kind == "extra_forbidden":
        assert spot.owner
        return _unknown_key(spot.key, spot.owner, list(spot.owner.schema["properties"]), root)
    if error["loc"][-1:] == ("[key]",) and "enum" in spot.schema:
        assert spot.owner
        return _unknown_key(spot.key, spot.owner, spot.schema["enum"], root)
    if error["loc"][-1:] == ("[key]",):
        assert spot.owner
        pattern = spot.schema["pattern"]
        rest = f"does not match {pattern}{example(spot.key, pattern)}"
        return f"the key {spot.key!r} of {spot.owner.named} {rest}."
    if kind == "string_pattern_mismatch":
        return f"{spot.named}{_mismatch(spot, context['pattern'])}.{hint}"
    if kind not in _PLAIN_KINDS:
        text = error["msg"] if error["msg"][-1] in ".?" else f"{error['msg']}."
        return f"{spot.path}: {text}{hint}" if spot.path else text
    needed = spot.owner.schema.get("required", ()) if spot.owner else ()
    optional = spot.instance is None and spot.key and spot.key not in needed
    fix = ", or leave the key out" if optional else spelling(spot.instance, spot.schema)
    shown = "not shown" if _holds_secret(spot) else _shown(spot.instance)
    return f"{spot.named} is {shown}; it must be {expected(spot.schema)}{fix}.{hint}"


_PLAIN_KINDS = {
    "literal_error",
    "string_type",
    "int_type",
    "float_type",
    "bool_type",
    "list_type",
    "dict_type",
    "model_type",
    "model_attributes_type",
    "union_tag_not_found",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
    "string_too_short",
    "string_too_long",
    "too_short",
    "too_long",
}
"""Errors of which the schema says all that there is to say."""


def _mismatch(spot: _Spot, pattern: str) -> str:
    """Say that a text does not match, without what may be a secret of it."""
    value = str(spot.instance)
    if spot.key in {"url", "host"} and "@" in value:
        keys = spot.owner.schema["properties"] if spot.owner else {}
        more = ", and name these by the keys user and password_env" * ("password_env" in keys)
        return f" holds a user or a password; write the address alone{more}"
    if spot.key == "url" and re.search(r"[?#]", value):
        return " holds more than an address, behind ? or #; remove it"
    if _holds_secret(spot):
        return (
            f": what stands there, which is not shown, does not match {pattern}; "
            "name the variable, and set it where the run is started"
        )
    return f": {_shown(value)} does not match {pattern}{example(value, pattern)}"


def _holds_secret(spot: _Spot) -> bool:
    """Return whether a person may have written a password or token where its name belongs."""
    return spot.key.startswith(("password", "token", "secret", "licence"))


def example(value: str, pattern: str) -> str:
    """Return a text that matches and is like one that does not, as the end of a sentence."""
    small = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")
    wide = re.sub(r"[^A-Za-z0-9]+", "_", value).strip("_")
    times = re.findall(r"(\d+)(?::(\d\d))?", value)
    clock = "-".join(f"{int(hours):02d}:{minutes or '00'}" for hours, minutes in times)
    also = [f"{value}.0", f"{value}.0.0", f"https://{value}", f"ed25519:{value}", clock]
    for proposal in (value.strip(), small, small[:40], wide, value.upper(), *also):
        if proposal != value and re.search(pattern, proposal):
            return f"; write for example {proposal!r}"
    return ""


def spelling(value: Any, schema: Schema) -> str:
    """Return how a value of the wrong type must be written, as the end of a sentence."""
    kind = schema.get("type")
    if kind == "string" and isinstance(value, bool):
        return "; YAML reads yes, no, on and off as true or false: put it in quotes"
    if kind == "string" and isinstance(value, int | float):
        near = example(str(value), schema["pattern"]) if "pattern" in schema else ""
        return near or "; put it in quotes"
    if kind == "object" and isinstance(value, str) and ":" in value:
        return "; write a blank after each colon"
    if kind == "object" and isinstance(value, list):
        return "; write a colon after each key, and no - before it"
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if kind == "boolean" and isinstance(value, str) and value.lower() in _WORDS:
        return f"; write {_WORDS[value.lower()]} without quotes"
    if kind == "array" and value is not None and not isinstance(value, list):
        return "; write it in [ ], or below the key with - before it"
    if kind in {"integer", "number"} and isinstance(value, str):
        number = value.strip().replace(",", ".")
        try:
            return f"; write {int(number)} without quotes"
        except ValueError:
            pass
        try:
            return f"; write {float(number)} without quotes" if kind == "number" else ""
        except ValueError:
            return ""
    return ""


_WORDS = dict.fromkeys(("true", "yes", "on", "y"), "true")
_WORDS |= dict.fromkeys(("false", "no", "off", "n"), "false")


def _unknown_key(key: str, owner: _Spot, known: list[str], root: Schema) -> str:
    """Say of an unknown key which one is meant, to what it belongs, or which there are."""
    start = f"unknown key {key!r} at {owner.named}"
    near = meant(key, known)
    if owner.others:
        name, others = owner.others
        tags = [tag for tag, option in others.items() if key in option["properties"]]
        if tags:
            return f"{start}; it belongs to {name} {' or '.join(tags)}, not {owner.instance[name]}."
    homes = list(dict.fromkeys(_homes(key, resolved(root, root), root, "", ())))[:_HOMES]
    belongs = f"; it belongs below {' or '.join(homes)}" if homes else ""
    if near:
        return f"{start}{belongs}; {'or ' if homes else ''}did you mean {near[0]!r}?"
    if homes:
        return f"{start}{belongs}."
    return f"{start}; known keys: {', '.join(known)}."


def _homes(
    key: str, node: Schema, root: Schema, path: str, above: tuple[int, ...]
) -> Iterator[str]:
    """Yield the mappings below the top level that have a key, each as the keys that lead there."""
    if id(node) in above:
        return
    if path and key in node.get("properties", {}):
        yield repr(path)
    for name, child in node.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        for each in _within(child, root):
            yield from _homes(key, each, root, below, (*above, id(node)))


def _within(node: Schema, root: Schema) -> Iterator[Schema]:
    """Yield the mappings that a value is, or that a list has."""
    node = resolved(node, root) if "$ref" in node or "anyOf" in node else node
    if "items" in node:
        yield from _within(node["items"], root)
    elif "discriminator" in node:
        yield from _members(node, root)[1].values()
    elif "properties" in node:
        yield node


def expected(schema: Schema) -> str:
    """Say what a value must be, as the end of a sentence."""
    if "enum" in schema:
        return f"one of: {', '.join('null' if v is None else str(v) for v in schema['enum'])}"
    if "const" in schema:
        return f"{schema['const']}"
    if "oneOf" in schema and "discriminator" not in schema:
        return " or ".join(expected(option) for option in schema["oneOf"])
    given = {key: text for key, text in _LIMITS.items() if key in schema}
    limits = [
        text.format(schema[key])
        for key, text in given.items()
        if key not in _LENGTHS or schema[key] != 1
    ]
    if "minItems" in schema and schema["minItems"] == schema.get("maxItems"):
        limits = [f"whose length is {schema['minItems']}"]
    noun = _NOUNS[schema.get("type", "object")]
    if any(schema.get(key) == 1 for key in _LENGTHS):
        noun = f"a non-empty {noun.removeprefix('a ')}"
    return " ".join([noun, " and ".join(limits)]).rstrip()


_LENGTHS = {"minLength", "minItems", "minProperties"}
_LIMITS = {
    "pattern": "like {}",
    "minLength": "whose length is at least {}",
    "maxLength": "whose length is at most {}",
    "minItems": "whose length is at least {}",
    "maxItems": "whose length is at most {}",
    "exclusiveMinimum": "above {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "below {}",
    "maximum": "at most {}",
}


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and value:
        return "a mapping of keys to values"
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    # What stands before an @ may be a user and a password.
    text = re.sub(r"[^\s/@'\"]+@", "***@", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
