"""The hub: verify what the sites sent, refuse what is not beyond doubt, merge the rest."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import stat
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jipflow import __version__
from jipflow.analyses.aggregates import CellKey, Moments, in_analysis, merge_moments
from jipflow.exchange.keys import verifies
from jipflow.exchange.message import CONTENT, LIMITS, MEMBERS, ROUND, canonical, describe, pack
from jipflow.reasons import Coded
from jipflow.release.gate import RULES_OF_KIND, hides
from jipflow.settings.digests import protocol_sha256
from jipflow.settings.documents import validate
from jipflow.settings.hub import Hub
from jipflow.settings.reading import protocol_path, read_protocol
from jipflow.settings.resources import ConfigError
from jipflow.settings.schema import load


class Refusal(Coded):
    """Why a bundle was rejected; the codes are stable, `meaning` is for people."""

    NOT_A_FILE = ("not_a_file", "A link, folder or device, not a plain file")
    OVERSIZED_BUNDLE = ("oversized_bundle", "The file is larger than any bundle may be")
    NOT_A_ZIP = ("not_a_zip", "The file is not a readable zip archive")
    UNSAFE_PATH = ("unsafe_path", "A member's path leads out of the archive")
    DUPLICATE_MEMBER = ("duplicate_member", "Two members have one name")
    UNEXPECTED_MEMBER = ("unexpected_member", "A member that bundles do not have")
    MISSING_MEMBER = ("missing_member", "A member that every bundle has is not there")
    COMPRESSED_MEMBER = ("compressed_member", "A compressed or encrypted member")
    OVERSIZED_MEMBER = ("oversized_member", "A member is larger than it may be")
    CORRUPT_MEMBER = ("corrupt_member", "A member's checksum is wrong")
    ZIP_NOT_CANONICAL = ("zip_not_canonical", "The archive holds more than its members")
    MANIFEST_NOT_JSON = ("manifest_not_json", "The manifest is not JSON")
    MANIFEST_NOT_CANONICAL = ("manifest_not_canonical", "The manifest is not canonical JSON")
    MANIFEST_INVALID = ("manifest_invalid", "The manifest does not fit its schema")
    SIGNATURES_INVALID = ("signatures_invalid", "The signatures are not in their form")
    UNKNOWN_SITE = ("unknown_site", "The sender is not on the roster")
    SITE_SIGNATURE = ("site_signature", "The manifest is not signed by the site's machine")
    UNKNOWN_APPROVER = ("unknown_approver", "The approver is not on the roster for this site")
    APPROVER_SIGNATURE = ("approver_signature", "The manifest is not signed by the approver")
    WRONG_RECIPIENT = ("wrong_recipient", "The bundle is addressed to another hub")
    WRONG_PROTOCOL = ("wrong_protocol", "The bundle belongs to another protocol")
    PROTOCOL_CHANGED = ("protocol_changed", "The site ran another text of the protocol")
    WRONG_ROUND = ("wrong_round", "The bundle belongs to another round")
    FILE_CHANGED = ("file_changed", "A file is not the one that the manifest names")
    AGGREGATES_INVALID = ("aggregates_invalid", "The aggregates do not fit their schema")
    DISCLOSURE_INVALID = ("disclosure_invalid", "The disclosure record does not fit its schema")
    HEADER_MISMATCH = ("header_mismatch", "A file contradicts the manifest")
    OUTSIDE_PROTOCOL = ("outside_protocol", "A number that the protocol does not ask for")
    NOT_RELEASED = ("not_released", "The cells are not those that the disclosure record releases")
    CELL_BELOW_MINIMUM = ("cell_below_minimum", "A number rests on too few patients")
    IMPOSSIBLE_CELL = ("impossible_cell", "The numbers of a cell contradict each other")
    REPLAY = ("replay", "The same message came twice")
    ATTEMPT_CONFLICT = ("attempt_conflict", "Two different messages claim one attempt")
    SUPERSEDED = ("superseded", "The site sent a later attempt")
    UNREADABLE = ("unreadable", "The bundle cannot be read")


class Refused(Exception):
    """A bundle is rejected as a whole.

    Args:
        refusal: the stable code.
        detail: which member, name or number; empty where the code says it all.
    """

    def __init__(self, refusal: Refusal, detail: str = "") -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail


def load_hub_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check the hub's configuration and complete it with the protocol.

    Args:
        config: content of ``hub.yaml``.

    Returns:
        The effective settings: ``hub`` (content of ``hub.yaml``, defaults filled), ``protocol``,
        ``protocol_sha256`` and ``version``.

    Raises:
        ConfigError: something is wrong; names the key and the mend.
    """
    content = {key: value for key, value in config.items() if key != "pathvars"}
    hub = load(Hub, content, "hub configuration")
    check_hub(hub.plain())
    own = Path(hub.models.registry) if hub.models else None
    protocol, named = read_protocol(protocol_path(hub.protocol), own)
    return {
        "hub": hub.plain(),
        "protocol": protocol.plain(),
        "protocol_sha256": protocol_sha256(protocol, named),
        "version": __version__,
    }


def check_hub(hub: Mapping[str, Any]) -> None:
    """Check what a schema cannot say of the hub's settings.

    Args:
        hub: validated content of ``hub.yaml``.

    Raises:
        ConfigError: the inbox is missing, a site is listed twice, or one key serves twice; a site's
            machine must not be able to approve its own release.
    """
    if not Path(hub["inbox"]).is_dir():
        raise ConfigError(f"hub configuration: the inbox {hub['inbox']} is not a folder; make it.")
    sites: set[str] = set()
    owners: dict[str, str] = {}
    for entry in hub["roster"]:
        if entry["site"] in sites:
            raise ConfigError(f"hub configuration: roster: site {entry['site']!r} is listed twice.")
        sites.add(entry["site"])
        people = [(person["key"], person["name"]) for person in entry["approvers"]]
        for key, owner in [(entry["key"], f"the machine of {entry['site']}"), *people]:
            if owners.setdefault(key, owner) != owner:
                raise ConfigError(
                    f"hub configuration: roster: {owners[key]} and {owner} have the same key; "
                    "each machine and each person needs a key of their own."
                )


def accept(
    *, inbox: Path, settings: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Verify every bundle of the inbox.

    A bad bundle is rejected as a whole and never stops the others. The result is a function of the
    files in the inbox and the settings alone: the same inbox gives the same result again.

    Args:
        inbox: folder; its files ``*.zip`` are the bundles, their names do not matter.
        settings: from `load_hub_settings`.

    Returns:
        The accepted messages sorted by site, each with keys file, sha256, site, attempt, approver,
        issued, version, aggregates and disclosure; and the rejected files sorted by name, each with
        file, sha256 (null where it was not read), reason, meaning and detail.
    """
    accepted: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for path in sorted(Path(inbox).glob("*.zip")):
        digest = None
        try:
            raw = _read_bundle(path)
            digest = hashlib.sha256(raw).hexdigest()
            accepted.append({"file": path.name, "sha256": digest} | verify(raw, settings))
        except Refused as refused:
            rejected.append(_rejection(path.name, digest, refused.refusal, refused.detail))
        # What a hostile file may raise in a parser cannot be listed; it must not stop the others.
        except Exception as error:
            detail = type(error).__name__
            rejected.append(_rejection(path.name, digest, Refusal.UNREADABLE, detail))
    latest, outdated = _latest_attempts(accepted)
    return latest, sorted(rejected + outdated, key=lambda entry: entry["file"])


def _rejection(name: str, digest: str | None, refusal: Refusal, detail: str) -> dict[str, Any]:
    return {
        "file": name,
        "sha256": digest,
        "reason": refusal.value,
        "meaning": refusal.meaning,
        "detail": detail[:300],
    }


def _latest_attempts(
    messages: Sequence[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Keep the latest attempt of each site, and say of the others why they do not count."""
    by_site: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in messages:
        by_site[entry["site"]].append(entry)
    latest, outdated = [], []
    for site in sorted(by_site):
        last = max(entry["attempt"] for entry in by_site[site])
        current = [entry for entry in by_site[site] if entry["attempt"] == last]
        for entry in by_site[site]:
            if entry["attempt"] < last:
                detail = f"attempt {last} of {site} is there"
                outdated.append((entry, Refusal.SUPERSEDED, detail))
        if len({entry["sha256"] for entry in current}) > 1:
            detail = f"attempt {last} of {site}; the site must send attempt {last + 1}"
            outdated += [(entry, Refusal.ATTEMPT_CONFLICT, detail) for entry in current]
        else:
            latest.append(current[0])
            detail = f"same bytes as {current[0]['file']}"
            outdated += [(entry, Refusal.REPLAY, detail) for entry in current[1:]]
    return latest, [
        _rejection(entry["file"], entry["sha256"], refusal, detail)
        for entry, refusal, detail in outdated
    ]


def _read_bundle(path: Path) -> bytes:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise Refused(Refusal.NOT_A_FILE)
    overhead = 64 * 1024
    largest = sum(LIMITS.values()) + overhead
    with path.open("rb") as stream:
        raw = stream.read(largest + 1)
    if len(raw) > largest:
        raise Refused(Refusal.OVERSIZED_BUNDLE, f"more than {largest} bytes")
    return raw


def verify(raw: bytes, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Verify one bundle, from the outside to the inside.

    Signatures are checked before anything that they protect is interpreted further than its form.

    Args:
        raw: bytes of the bundle.
        settings: as for `accept`.

    Returns:
        site, attempt, approver, issued, version, aggregates, disclosure.

    Raises:
        Refused: anything is not as it must be.
    """
    members = _open_zip(raw)
    manifest = _verified_manifest(members, settings["hub"])
    _check_addressing(manifest, settings)
    for name in CONTENT:
        if describe(members[name]) != manifest["files"][name]:
            raise Refused(Refusal.FILE_CHANGED, name)
    aggregates = _content(members, "aggregates.json", Refusal.AGGREGATES_INVALID)
    disclosure = _content(members, "disclosure.json", Refusal.DISCLOSURE_INVALID)
    _check_headers(manifest, aggregates, disclosure)
    _check_cells(aggregates, disclosure, settings["protocol"])
    return {
        "site": manifest["sender"],
        "attempt": manifest["attempt"],
        "approver": manifest["approver"]["name"],
        "issued": manifest["issued"],
        "version": manifest["version"],
        "aggregates": aggregates,
        "disclosure": disclosure,
    }


def _open_zip(raw: bytes) -> dict[str, bytes]:
    """Return the members of a bundle's zip; refuse every other zip than `pack` would write."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            members = {}
            for entry in entries:
                try:
                    members[entry.filename] = archive.read(entry)
                except zipfile.BadZipFile:
                    raise Refused(Refusal.CORRUPT_MEMBER, entry.filename) from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise Refused(Refusal.NOT_A_ZIP) from None
    if pack(members) != raw:
        raise Refused(Refusal.ZIP_NOT_CANONICAL)
    return members


def _check_entries(entries: Sequence[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise Refused(Refusal.UNSAFE_PATH, repr(name))
    for name in names:
        if names.count(name) > 1:
            raise Refused(Refusal.DUPLICATE_MEMBER, repr(name))
        if name not in MEMBERS:
            raise Refused(Refusal.UNEXPECTED_MEMBER, repr(name))
    for name in MEMBERS:
        if name not in names:
            raise Refused(Refusal.MISSING_MEMBER, name)
    for entry in entries:
        if (
            entry.compress_type != zipfile.ZIP_STORED
            or entry.compress_size != entry.file_size
            or entry.flag_bits & 1
        ):
            raise Refused(Refusal.COMPRESSED_MEMBER, entry.filename)
        if entry.file_size > LIMITS[entry.filename]:
            raise Refused(Refusal.OVERSIZED_MEMBER, f"{entry.filename}: {entry.file_size} bytes")


def _strict_json(data: bytes) -> Any:
    """Parse JSON, refusing doubled keys and numbers that are not finite.

    Raises:
        ValueError: it is not such JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise ValueError("a key occurs twice")
        return content

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError("a number is not finite")
        return number

    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=finite,
            parse_constant=finite,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _verified_manifest(members: Mapping[str, bytes], hub: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest after both signatures of it have been verified by the roster's keys."""
    signed = members["manifest.json"]
    try:
        content = _strict_json(signed)
    except ValueError as error:
        raise Refused(Refusal.MANIFEST_NOT_JSON, str(error)) from None
    try:
        manifest = validate(content, "manifest", "manifest.json")
    except ConfigError as error:
        raise Refused(Refusal.MANIFEST_INVALID, str(error)) from None
    if canonical(manifest) != signed:
        raise Refused(Refusal.MANIFEST_NOT_CANONICAL)
    signatures = _signatures(members["signatures.json"])
    entry = next((e for e in hub["roster"] if e["site"] == manifest["sender"]), None)
    if entry is None:
        raise Refused(Refusal.UNKNOWN_SITE, manifest["sender"])
    if not verifies(entry["key"], signatures["site"], signed):
        raise Refused(Refusal.SITE_SIGNATURE, manifest["sender"])
    if manifest["approver"] not in entry["approvers"]:
        raise Refused(Refusal.UNKNOWN_APPROVER, manifest["approver"]["name"])
    if not verifies(manifest["approver"]["key"], signatures["approver"], signed):
        raise Refused(Refusal.APPROVER_SIGNATURE, manifest["approver"]["name"])
    return manifest


def _signatures(data: bytes) -> dict[str, str]:
    try:
        signatures = _strict_json(data)
    except ValueError as error:
        raise Refused(Refusal.SIGNATURES_INVALID, str(error)) from None
    right = (
        isinstance(signatures, dict)
        and set(signatures) == {"site", "approver"}
        and all(isinstance(signature, str) for signature in signatures.values())
        and canonical(signatures) == data
    )
    if not right:
        raise Refused(Refusal.SIGNATURES_INVALID)
    return signatures


def _check_addressing(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    here = settings["protocol"]["protocol"]
    if manifest["recipient"] != settings["hub"]["hub"]["id"]:
        raise Refused(Refusal.WRONG_RECIPIENT, manifest["recipient"])
    if manifest["protocol"]["id"] != here["id"]:
        raise Refused(Refusal.WRONG_PROTOCOL, manifest["protocol"]["id"])
    if manifest["protocol"]["sha256"] != settings["protocol_sha256"]:
        detail = f"version {manifest['protocol']['version']}, the hub has {here['version']}"
        raise Refused(Refusal.PROTOCOL_CHANGED, detail)
    if manifest["round"] != ROUND:
        raise Refused(Refusal.WRONG_ROUND, str(manifest["round"]))


def _content(members: Mapping[str, bytes], name: str, refusal: Refusal) -> dict[str, Any]:
    try:
        return validate(_strict_json(members[name]), Path(name).stem, name)
    except (ValueError, ConfigError) as error:
        raise Refused(refusal, str(error)) from None


def _check_headers(
    manifest: Mapping[str, Any], aggregates: Mapping[str, Any], disclosure: Mapping[str, Any]
) -> None:
    claims = {
        "protocol": manifest["protocol"],
        "site": manifest["sender"],
        "recipient": manifest["recipient"],
        "round": manifest["round"],
        "version": manifest["version"],
        "min_patients": aggregates["min_patients"],
    }
    for name, content in zip(CONTENT, (aggregates, disclosure), strict=True):
        for key, value in claims.items():
            if content[key] != value:
                raise Refused(Refusal.HEADER_MISMATCH, f"{name}: {key}")
    if disclosure["aggregates_sha256"] != manifest["files"]["aggregates.json"]["sha256"]:
        raise Refused(Refusal.HEADER_MISMATCH, "disclosure.json: aggregates_sha256")


def _check_cells(
    aggregates: Mapping[str, Any], disclosure: Mapping[str, Any], protocol: Mapping[str, Any]
) -> None:
    """Check each number against the protocol, the gate's record and the minimum."""
    asked = {analysis["id"]: analysis for analysis in protocol["analyses"]}
    minimum = max(protocol["disclosure"]["min_patients"], aggregates["min_patients"])
    seen: set[tuple[str, ...]] = set()
    ids = [analysis["id"] for analysis in aggregates["analyses"]]
    if len(ids) != len(set(ids)):
        raise Refused(Refusal.OUTSIDE_PROTOCOL, "an analysis occurs twice")
    for analysis in aggregates["analyses"]:
        definition = asked.get(analysis["id"])
        if (
            definition is None
            or definition["kind"] != analysis["kind"]
            or analysis["kind"] not in RULES_OF_KIND
            or definition.get("edges") != analysis.get("edges")
        ):
            raise Refused(Refusal.OUTSIDE_PROTOCOL, f"analysis {analysis['id']}")
        for cell in analysis["cells"]:
            key = _key(cell)
            where = f"{analysis['id']}: {' '.join(key)}"
            if (analysis["id"], *key) in seen or not in_analysis(protocol, definition, key):
                raise Refused(Refusal.OUTSIDE_PROTOCOL, where)
            seen.add((analysis["id"], *key))
            if cell["n"] < minimum:
                raise Refused(Refusal.CELL_BELOW_MINIMUM, where)
            if analysis["kind"] == "histogram":
                _check_histogram(cell, len(analysis["edges"]) - 1, minimum, where)
            elif cell["rows"] < cell["n"]:
                raise Refused(Refusal.IMPOSSIBLE_CELL, where)
    released = {(c["analysis"], *_key(c)) for c in disclosure["cells"] if c["released"]}
    if released != seen:
        raise Refused(Refusal.NOT_RELEASED)
    for cell in disclosure["cells"]:
        definition = asked.get(cell["analysis"])
        if definition is None or not in_analysis(protocol, definition, _key(cell)):
            raise Refused(Refusal.OUTSIDE_PROTOCOL, f"disclosure.json: {cell['analysis']}")


def _check_histogram(cell: Mapping[str, Any], bins: int, minimum: int, where: str) -> None:
    counts = [cell["under"], *cell["counts"], cell["over"]]
    shown = [count for count in counts if count is not None]
    if len(cell["counts"]) != bins or any(count > cell["n"] for count in shown):
        raise Refused(Refusal.IMPOSSIBLE_CELL, where)
    if len(shown) == len(counts) and sum(shown) < cell["n"]:
        raise Refused(Refusal.IMPOSSIBLE_CELL, where)
    if any(0 < count < minimum for count in shown) or not hides(counts, cell["n"], minimum):
        raise Refused(Refusal.CELL_BELOW_MINIMUM, where)


def _key(cell: Mapping[str, Any]) -> CellKey:
    return CellKey(cell["role"], cell["segmentation"], cell["segment"], cell["feature"])


def merge(*, accepted: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge accepted messages into the result of the round.

    A pure function of the messages and the protocol; the order of the messages does not matter.

    Args:
        accepted: as `accept` returns them, one a site.
        settings: as for `accept`.

    Returns:
        protocol, round, sites and analyses; of a summary cell the merged n, rows, mean, variance
        and sd and each site's own, of a histogram cell the merged counts. A bin that a contributing
        site withheld is null in the merged counts and listed in ``withheld`` with those sites.
    """
    messages = sorted(accepted, key=lambda entry: entry["site"])
    protocol = settings["protocol"]["protocol"]
    return {
        "protocol": {
            "id": protocol["id"],
            "version": protocol["version"],
            "title": protocol["title"],
            "sha256": settings["protocol_sha256"],
        },
        "round": ROUND,
        "sites": [
            {
                "id": entry["site"],
                "attempt": entry["attempt"],
                "approver": entry["approver"],
                "issued": entry["issued"],
                "version": entry["version"],
                "patients": _most_patients(entry["aggregates"]),
                "cells_released": entry["disclosure"]["summary"]["released"],
                "cells_withheld": entry["disclosure"]["summary"]["cells"]
                - entry["disclosure"]["summary"]["released"],
            }
            for entry in messages
        ],
        "analyses": [
            _merge_analysis(analysis, messages)
            for analysis in sorted(settings["protocol"]["analyses"], key=lambda a: a["id"])
        ],
    }


def _most_patients(aggregates: Mapping[str, Any]) -> int | None:
    """Return the patients behind a site's fullest released cell, None where it released none."""
    cells = itertools.chain.from_iterable(a["cells"] for a in aggregates["analyses"])
    return max((cell["n"] for cell in cells), default=None)


def _merge_analysis(
    analysis: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Merge one analysis over the sites, cell by cell."""
    cells: dict[CellKey, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for entry in messages:
        for sent in entry["aggregates"]["analyses"]:
            if sent["id"] == analysis["id"]:
                for cell in sent["cells"]:
                    cells[_key(cell)][entry["site"]] = cell
    merge_cell = _merge_summary if analysis["kind"] == "summary" else _merge_histogram
    merged = [
        {**key._asdict(), "sites": sorted(by_site), **merge_cell(by_site)}
        for key, by_site in sorted(cells.items())
    ]
    result = {"id": analysis["id"], "kind": analysis["kind"], "cells": merged}
    if analysis["kind"] == "histogram":
        result["edges"] = list(analysis["edges"])
    return result


def _describe(n: int, moment: Moments) -> dict[str, Any]:
    return {
        "n": n,
        "rows": moment.rows,
        "mean": moment.mean,
        "variance": moment.variance,
        "sd": math.sqrt(moment.variance),
    }


def _merge_summary(by_site: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the moments; the sites' patients are distinct, so their numbers add."""
    of_site = {
        site: Moments(cell["rows"], cell["mean"], cell["mean_rest"], cell["m2"])
        for site, cell in sorted(by_site.items())
    }
    return {
        **_describe(sum(cell["n"] for cell in by_site.values()), merge_moments(of_site)),
        "by_site": [
            {"site": site, **_describe(by_site[site]["n"], moment)}
            for site, moment in of_site.items()
        ],
    }


def _merge_histogram(by_site: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Add the bins that every contributing site shows."""
    sites = sorted(by_site)
    names: list[str | int] = ["under", *range(len(by_site[sites[0]]["counts"])), "over"]
    rows = {s: [by_site[s]["under"], *by_site[s]["counts"], by_site[s]["over"]] for s in sites}
    totals: list[int | None] = []
    withheld = []
    for i, name in enumerate(names):
        silent = [site for site in sites if rows[site][i] is None]
        totals.append(None if silent else sum(rows[site][i] for site in sites))
        if silent:
            withheld.append({"bin": name, "sites": silent})
    return {
        "n": sum(by_site[site]["n"] for site in sites),
        "under": totals[0],
        "counts": totals[1:-1],
        "over": totals[-1],
        "withheld": withheld,
        "by_site": [
            {key: by_site[site][key] for key in ("n", "under", "counts", "over")} | {"site": site}
            for site in sites
        ],
    }
