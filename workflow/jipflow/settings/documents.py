"""Content that is exchanged or approved, checked against its schema in ``workflow/schemas``."""

from __future__ import annotations

from typing import Any

import jsonschema

from jipflow.settings.resources import SCHEMAS, ConfigError, read_yaml


def validate(content: Any, schema: str, source: str) -> dict[str, Any]:
    """Check content against a schema and return it.

    Args:
        content: what was read.
        schema: name of a file ``workflow/schemas/<schema>.schema.yaml``.
        source: what the content was read from, for the message.

    Raises:
        ConfigError: the content does not fit; names the key.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{source} must be a mapping of keys to values.")
    validator = jsonschema.Draft202012Validator(
        read_yaml(SCHEMAS / f"{schema}.schema.yaml"), format_checker=jsonschema.FormatChecker()
    )
    errors = sorted(validator.iter_errors(content), key=lambda e: (len(e.absolute_path), str(e)))
    if errors:
        lines = dict.fromkeys(f"{source}: {_explain(error)}" for error in errors)
        raise ConfigError("\n".join(list(lines)[:5]))
    return content


def _explain(error: jsonschema.ValidationError) -> str:
    """Turn a schema error into one sentence that names the key."""
    where = error.json_path.removeprefix("$").removeprefix(".") or "the top level"
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        instance: Any = error.instance
        (unknown, *_) = sorted(set(instance) - set(schema.get("properties", {})))
        return f"unknown key {unknown!r} at {where}."
    return f"{where}: {error.message}."
