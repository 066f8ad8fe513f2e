"""Content read into a typed part; knows no content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from jipflow.settings.part import Part
from jipflow.settings.resources import ConfigError

P = TypeVar("P", bound=Part)


def load(kind: type[P], content: Any, source: str, beside: Sequence[str] = ()) -> P:
    """Check content against a type and complete it with defaults.

    Args:
        kind: what the content is.
        content: what was read.
        source: what the content was read from, for the message.
        beside: keys that stand beside the content, which others have read; for the message.

    Raises:
        ConfigError: the content does not fit; a sentence for each of up to five mistakes names the
            key and the fix.
    """
    if content is None:
        raise ConfigError(f"{source} is empty; it must be a mapping of keys to values.")
    if not isinstance(content, Mapping):
        raise ConfigError(f"{source} must be a mapping of keys to values.")
    plain = plain_data(content)
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        # Only a mistake needs the schema and the words for it.
        from jipflow.settings.json_schema import json_schema
        from jipflow.settings.kinds import wrong_file
        from jipflow.settings.messages import messages

        if other := wrong_file(kind.__name__, plain):
            raise ConfigError(f"{source} {other}") from None
        found = messages(error, json_schema(kind), plain, beside)
        raise ConfigError("\n".join(f"{source}: {text}" for text in found)) from None


def plain_data(content: Any) -> Any:
    """Copy nested mappings and sequences as plain dicts and lists."""
    if isinstance(content, Mapping):
        return {str(key): plain_data(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain_data(value) for value in content]
    return content


def check_unique(names: Sequence[str], source: str, key: str) -> None:
    """Check that no name stands twice below a key.

    Raises:
        ConfigError: one does.
    """
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{source}: {key}: the name {name!r} is used twice; rename one.")
