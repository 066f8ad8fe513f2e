"""Hashes that are the same wherever the same settings compute the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jipflow.files import canonical_digest
from jipflow.settings.protocol import Protocol
from jipflow.settings.reading import Named


def protocol_sha256(protocol: Protocol, named: Named) -> str:
    """Return the hash that is the same wherever the same protocol computes the same.

    It is of the canonical JSON (RFC 8785) of the protocol and of what it names: the pinned files of
    its models, the codes of its terms and the parameters of its radiomics. Where a term of its own
    is written does not matter.
    """
    return canonical_digest(protocol_content(protocol, named))


def protocol_content(protocol: Protocol, named: Named) -> dict[str, Any]:
    """Return what `protocol_sha256` is of; it holds nothing of a site."""
    content = _content(protocol)
    return {"protocol": content, **named_content(named, content)}


def protocol_parts(protocol: Protocol, named: Named) -> dict[str, str]:
    """Return the hash of each part of what `protocol_sha256` is of, to find out what differs.

    The parts are the protocol's keys, and what it names: see `named_content`.
    """
    content = _content(protocol)
    parts = {**content, **named_content(named, content)}
    return {name: canonical_digest(part) for name, part in sorted(parts.items())}


def _content(protocol: Protocol) -> dict[str, Any]:
    content = protocol.plain()
    content.pop("terms", None)
    return content


def named_content(named: Named, keys: Iterable[str]) -> dict[str, Any]:
    """Return the content that parts of a protocol refer to by name.

    Args:
        named: what the protocol names.
        keys: of the protocol.

    Returns:
        ``models`` (pinned files and how they are used) and ``terms`` (codes) behind
        ``segmentations``, ``parameters`` behind ``radiomics``.
    """
    content: dict[str, Any] = {}
    if "segmentations" in keys:
        content["models"] = {name: m.entry.decisive() for name, m in named.models.items()}
        content["terms"] = {name: term.plain() for name, term in named.terms.items()}
    if "radiomics" in keys:
        content["parameters"] = {name: each.plain() for name, each in named.parameters.items()}
    return content
