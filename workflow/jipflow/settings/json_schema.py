"""The JSON Schema of a typed part, with what its fields' docstrings say."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from importlib import import_module
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from jipflow.settings.part import Part

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def json_schema(kind: type[Part]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a type; callers leave it unchanged."""
    schema: dict[str, Any] = kind.model_json_schema(schema_generator=_Generator)
    _tidy(schema)
    return {"$schema": DIALECT, **schema}


class _Generator(GenerateJsonSchema):
    """Knows that a key without default is absent and not null, and reads docstrings of fields."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = schema["schema"]
        if schema.get("default", ...) is None and inner["type"] != "nullable":
            return self.generate_inner(inner)
        if "default_factory" in schema and not schema.get("default_factory_takes_data"):
            # Of a mapping that completes itself.
            return {**self.generate_inner(inner), "default": {}}
        return super().default_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        found = super().dict_schema(schema)
        # Names that do not match are refused, which patternProperties would not say.
        for pattern, value in found.pop("patternProperties", {}).items():
            found |= {"propertyNames": {"type": "string", "pattern": pattern}}
            found["additionalProperties"] = value
        return found

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        kind = schema["cls"]
        if issubclass(kind, Part) and kind.least_keys:
            found["minProperties"] = kind.least_keys
        for key, text in _descriptions(kind).items():
            found["properties"][key].setdefault("description", text)
        return found


def _descriptions(kind: type[Any]) -> dict[str, str]:
    """Return the docstrings of a class's fields, its bases' included, by their keys."""
    docstrings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, Part):
            docstrings |= _docstrings(base.__module__).get(base.__qualname__, {})
    fields = kind.model_fields
    return {fields[name].alias or name: docstrings[name] for name in fields if name in docstrings}


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the docstring below each annotated name of each class of a module."""
    source = inspect.getsource(import_module(module))
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        found[node.name] = {}
        for field, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                found[node.name][ast.unparse(field.target)] = ast.literal_eval(after.value)
    return found


def _tidy(node: Any) -> None:
    """Take out titles, which repeat names, and line ends of descriptions; changed in place."""
    if isinstance(node, list):
        for child in node:
            _tidy(child)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("title"), str):
        del node["title"]
    if isinstance(node.get("description"), str):
        node["description"] = " ".join(node["description"].split())
    for key, child in node.items():
        named = key in {"properties", "$defs"}
        for each in child.values() if named else [child] if key != "default" else []:
            _tidy(each)
