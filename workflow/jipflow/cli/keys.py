"""Tables of the keys of typed settings, in Markdown, from their JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jipflow.settings.json_schema import json_schema
from jipflow.settings.part import Part

Schema = Mapping[str, Any]

NAMES = "<name>"


@dataclass(frozen=True)
class Key:
    """One row of a table of keys.

    Attributes:
        path: where the key stands, such as ``sources[].path``.
        kind: its type and limits, in Markdown.
        default: the default in Markdown, or whether it is required.
        meaning: the schema's description, which may be empty.
    """

    path: str
    kind: str
    default: str
    meaning: str


def sections(kind: type[Part]) -> Iterator[str]:
    """Yield a section for each key of a type, with tables of the keys below it."""
    schema = _resolved(json_schema(kind), json_schema(kind)["$defs"])
    for name, value in schema["properties"].items():
        yield f"## {name}"
        if _holds_keys(value) and "description" in value:
            yield value["description"]
        whole = {"properties": {name: value}, "required": schema["required"]}
        yield _table_of(keys(whole))
        for members, path in _unions(value, name):
            common = _common(members)
            for tag, member in members["members"].items():
                own = {k: v for k, v in member["properties"].items() if k not in common}
                rows = list(keys({**member, "properties": own}, path))
                if rows:
                    yield f"### {name} with {members['tag']} `{tag}`"
                    yield _table_of(rows)


def keys_of(kind: type[Part]) -> list[Key]:
    """Return the keys of a type and of what is below them."""
    schema = json_schema(kind)
    return list(keys(_resolved(schema, schema.get("$defs", {}))))


def keys(schema: Schema, path: str = "", *, given: bool = True) -> Iterator[Key]:
    """List the keys below a mapping of a schema, in the schema's order.

    Args:
        schema: the mapping's schema, with every ``$ref`` resolved.
        path: where the mapping stands.
        given: whether the mapping is there in any case.
    """
    required = set(schema.get("required", ()))
    for name, value in schema.get("properties", {}).items():
        if name in required:
            default = "required" if given else f"required if `{path.split('.')[-1]}` is given"
        elif "default" in value:
            default = f"`{_plain(value['default'])}`"
        else:
            default = "optional"
        yield from _key(value, f"{path}.{name}" if path else name, default)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _table_of(rows: Iterable[Key]) -> str:
    return table(
        ("key", "type", "default", "meaning"),
        ((f"`{row.path}`", row.kind, row.default, row.meaning.replace("<", "\\<")) for row in rows),
    )


def _key(schema: Schema, path: str, default: str) -> Iterator[Key]:
    """List a key and what is below it."""
    given = default != "optional"
    row = Key(path, _kind(schema), default, schema.get("description", ""))
    listed = [each["items"] for each in schema.get("choices", [schema]) if "items" in each]
    if listed and _holds_keys(listed[0]):
        yield row
        yield from _below(listed[0], f"{path}[]", given=True)
    elif isinstance(schema.get("additionalProperties"), Mapping):
        yield row
        yield from _below(schema["additionalProperties"], f"{path}.{NAMES}", given=True)
    elif "choices" not in schema and _holds_keys(schema):
        yield from _below(schema, path, given=given)
    else:
        yield row


def _below(schema: Schema, path: str, *, given: bool) -> Iterator[Key]:
    """List the keys of a mapping, or those that the members of a union share."""
    if "members" not in schema:
        yield from keys(schema, path, given=given)
        return
    common = _common(schema)
    first = next(iter(schema["members"].values()))
    tag = {**first["properties"][schema["tag"]], "enum": list(schema["members"])}
    tag.pop("const", None)
    properties = {**common, schema["tag"]: tag}
    ordered = {name: properties[name] for name in first["properties"] if name in properties}
    yield from keys({**first, "properties": ordered}, path, given=given)


def _holds_keys(schema: Schema) -> bool:
    return "properties" in schema or "members" in schema


def _unions(schema: Schema, path: str) -> Iterator[tuple[Schema, str]]:
    """Yield the union that a key of the top level holds, and where its members stand."""
    for below, place in (
        (schema, path),
        (schema.get("items", {}), f"{path}[]"),
        (schema.get("additionalProperties"), f"{path}.{NAMES}"),
    ):
        if isinstance(below, Mapping) and "members" in below:
            yield below, place


def _common(union: Schema) -> dict[str, Schema]:
    """Return the keys that are the same in all members of a union, the tag included."""
    first, *others = (member["properties"] for member in union["members"].values())
    return {
        name: value
        for name, value in first.items()
        if name == union["tag"] or all(other.get(name) == value for other in others)
    }


def _plain(value: Any) -> str:
    """Return a default as a person writes it in YAML."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _kind(schema: Schema) -> str:
    """Return the type and limits of a value in Markdown."""
    end = " or `null`" if schema.get("nullable") else ""
    if "choices" in schema:
        return " or ".join(map(_kind, schema["choices"])) + end
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return " or ".join(f"`{_plain(value)}`" for value in values) + end
    return _one_kind(schema) + end


def _one_kind(schema: Schema) -> str:
    name = schema.get("type", "object")
    if name == "object":
        return _mapping(schema)
    if name == "string":
        return f"text like `{schema['pattern']}`" if "pattern" in schema else "text"
    if name == "boolean":
        return "`true` or `false`"
    if name == "array":
        if _holds_keys(schema["items"]):
            return "list"
        count = f", at least {schema['minItems']}" if schema.get("minItems", 1) > 1 else ""
        return f"list of {_kind(schema['items'])}{count}"
    return _number({"integer": "whole number", "number": "number"}[name], schema)


def _mapping(schema: Schema) -> str:
    below = schema.get("additionalProperties")
    if not isinstance(below, Mapping):
        return "settings"
    kind = "settings" if _holds_keys(below) else _kind(below)
    names = schema.get("propertyNames", {}).get("enum")
    return f"{' or '.join(f'`{name}`' for name in names) if names else 'names'} with {kind} each"


def _number(noun: str, schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    if "exclusiveMinimum" in schema:
        return f"{noun} above {schema['exclusiveMinimum']}"
    return f"{noun}, at least {low}" if low is not None else noun


def _resolved(node: Any, definitions: Schema) -> Any:
    """Return a schema with every reference replaced by what it names; keys beside it win.

    Unions become ``members`` by ``tag``, or ``choices`` of several JSON types; that a value may be
    null becomes ``nullable``.
    """
    if isinstance(node, list):
        return [_resolved(value, definitions) for value in node]
    if not isinstance(node, Mapping):
        return node
    plain = {k: _resolved(v, definitions) for k, v in node.items() if k not in _REPLACED}
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return {**_resolved(target, definitions), **plain}
    if "anyOf" in node:
        (target,) = (each for each in node["anyOf"] if each != {"type": "null"})
        return {**_resolved(target, definitions), **plain, "nullable": True}
    if "discriminator" in node:
        mapping = node["discriminator"]["mapping"]
        members = {tag: _resolved({"$ref": ref}, definitions) for tag, ref in mapping.items()}
        return {**plain, "members": members, "tag": node["discriminator"]["propertyName"]}
    if "oneOf" in node:
        return {**plain, "choices": [_resolved(each, definitions) for each in node["oneOf"]]}
    return plain


_REPLACED = {"$ref", "$defs", "anyOf", "oneOf", "discriminator"}
