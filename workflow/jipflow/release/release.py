"""The way out of a site: build a candidate, let a person approve it, bundle what was approved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow.analyses.aggregates import CellKey, bin_index, cells_of, moments
from jipflow.exchange import keys, message
from jipflow.files import atomic_path, json_text, read_json, write_json
from jipflow.outcomes import passed, read_outcomes
from jipflow.reasons import StageError
from jipflow.release import gate as disclosure
from jipflow.release.gate import Candidate, Decision, Finding, Rule
from jipflow.settings.documents import validate
from jipflow.settings.run import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FORMAT_WORDS = frozenset(
    {
        *("protocol", "id", "version", "sha256", "site", "recipient", "round", "min_patients"),
        *("analyses", "analysis", "kind", "cells", "edges", *disclosure.RULES_OF_KIND),
        *("role", "segmentation", "segment", "feature"),
        *("n", "rows", "mean", "mean_rest", "m2", "under", "counts", "over"),
        *("aggregates_sha256", "rules", "summary", "released", "withheld", "withheld_bins"),
        *Rule,
        *(rule.meaning for rule in Rule),
        *Finding,
    }
)
"""Keys and fixed texts of the two released files."""


class ReleaseError(StageError):
    """Nothing is released; the message says why and what would mend it."""


def build(
    *,
    settings: Settings,
    features: Path,
    cases: Path,
    outcomes: Path,
    verdict: Path,
    out_dir: Path,
) -> None:
    """Write a candidate release: ``aggregates.json`` and ``disclosure.json``.

    Both depend on nothing but the inputs: the same inputs give the same bytes.

    Args:
        settings: of the run.
        features: ``features.parquet``.
        cases: ``cases.tsv``.
        outcomes: ``outcomes.parquet`` of all stages; only what was measured with outcome ok counts.
        verdict: ``verdict.json``.
        out_dir: folder of the candidate.

    Raises:
        ReleaseError: the run is not acceptable, or its tables contradict each other.
        DisclosureError: something would leave that the gate does not know to be safe.
    """
    _check_verdict(read_json(verdict))
    patient_of = _read_patients(cases)
    table = _read_features(features, patient_of, outcomes)
    candidates = [
        candidate
        for analysis in settings.protocol["analyses"]
        for candidate in _candidates(settings.protocol, analysis, table)
    ]
    decisions = disclosure.decide(candidates, patient_of, settings.min_patients)
    header = {
        "protocol": {
            "id": settings.protocol_id,
            "version": settings.protocol["protocol"]["version"],
            "sha256": settings.protocol_sha256,
        },
        "site": settings.site["site"]["id"],
        "recipient": settings.site["hub"]["id"],
        "round": message.ROUND,
        "version": settings.version,
        "min_patients": settings.min_patients,
    }
    aggregates = header | {"analyses": _released(settings.protocol["analyses"], decisions)}
    aggregates_text = json_text(aggregates)
    aggregates_sha256 = message.describe(aggregates_text.encode())["sha256"]
    record = header | {"aggregates_sha256": aggregates_sha256} | _record(decisions)

    vocabulary = _vocabulary(settings, candidates)
    exempt = {settings.protocol_sha256, settings.version, aggregates_sha256}
    exempt.add(settings.protocol["protocol"]["version"])
    pseudonyms = sorted({*patient_of, *patient_of.values()})
    for name, content in (("aggregates", aggregates), ("disclosure", record)):
        validate(content, name, f"{name}.json")
        try:
            disclosure.scan(content, vocabulary, exempt, pseudonyms)
        except disclosure.DisclosureError as error:
            raise disclosure.DisclosureError(
                f"{name}.json: {error} Nothing is released; rename it in the protocol."
            ) from None
    write_json(out_dir / "aggregates.json", aggregates)
    write_json(out_dir / "disclosure.json", record)


def _check_verdict(verdict: Mapping[str, Any]) -> None:
    if verdict.get("acceptable") is not True:
        raise ReleaseError(
            f"The run is not acceptable: {verdict.get('failed')} of {verdict.get('cases')} cases "
            f"failed, the protocol tolerates a share of {verdict.get('max_failed_fraction')}; "
            f"{verdict.get('waiting')} wait for a person, it tolerates "
            f"{verdict.get('max_waiting_fraction')}. "
            "The report names each case's reason; mend the causes and run again."
        )


def _read_patients(cases: Path) -> dict[str, str]:
    """Return the patient of each case of the cohort."""
    import pandas as pd

    table = pd.read_csv(cases, sep="\t", dtype=str, keep_default_na=False)
    pairs = table[["case_id", "patient"]].drop_duplicates()
    twice = pairs["case_id"][pairs["case_id"].duplicated()]
    if len(twice):
        raise ReleaseError(f"{cases}: case {twice.iloc[0]} has two patients; run cohort again.")
    return dict(zip(pairs["case_id"], pairs["patient"], strict=True))


def _read_features(features: Path, patient_of: Mapping[str, str], outcomes: Path) -> pd.DataFrame:
    """Read the measured rows of the cohort, sorted, and check that they belong to it."""
    import pandas as pd

    table = pd.read_parquet(features)
    key = ["case_id", "role", "segmentation", "segment"]
    table = table.sort_values(key, ignore_index=True)
    strangers = table[~table["case_id"].isin(list(patient_of))]
    if len(strangers):
        raise ReleaseError(
            f"{features}: case {strangers['case_id'].iloc[0]} is not in the cohort (it may have "
            "left it since); run collect again."
        )
    moved = table[table["case_id"].map(patient_of) != table["patient"]]
    if len(moved):
        raise ReleaseError(
            f"{features}: case {moved['case_id'].iloc[0]} has another patient than in the cohort; "
            "run collect again."
        )
    twice = table[table.duplicated(key)]
    if len(twice):
        raise ReleaseError(
            f"{features}: {' '.join(twice[key].iloc[0])} was measured twice; the protocol may have "
            "one radiomics entry for each segmentation and role."
        )
    measured = passed(o for o in read_outcomes(outcomes) if o.stage == "measure")
    pairs = zip(table["case_id"], table["segmentation"], strict=True)
    return table[[pair in measured for pair in pairs]].reset_index(drop=True)


def _candidates(
    protocol: Mapping[str, Any], analysis: Mapping[str, Any], table: pd.DataFrame
) -> list[Candidate]:
    """Compute every cell of an analysis, before any rule of disclosure."""
    import numpy as np

    columns = list(table.select_dtypes("number").columns)
    cells = cells_of(protocol, analysis, columns)
    for variable in analysis["variables"]:
        if not cells_of(protocol, {**analysis, "variables": [variable]}, columns):
            raise ReleaseError(
                f"analysis {analysis['id']}: {variable!r} is no feature that was measured; mend "
                "it in the protocol's analyses or add it to its radiomics."
            )
    rows_of = {
        key: rows.index.to_numpy()
        for key, rows in table.groupby(["role", "segmentation", "segment"])
    }
    none = np.array([], dtype=np.intp)
    case_ids, patients = table["case_id"].to_numpy(), table["patient"].to_numpy()
    # Most features of a segment have values of the same cases: one set serves them all.
    known: dict[tuple[Any, ...], frozenset[str]] = {}
    candidates = []
    for cell in cells:
        rows = rows_of.get(cell[:3], none)
        values = table[cell.feature].to_numpy(np.float64, na_value=np.nan)[rows]
        there = np.isfinite(values)
        values, rows = values[there], rows[there]
        group = (*cell[:3], there.tobytes())
        if group not in known:
            known[group] = frozenset(case_ids[rows])
        candidates.append(_candidate(analysis, cell, known[group], values, patients[rows]))
    return candidates


def _candidate(
    analysis: Mapping[str, Any],
    cell: CellKey,
    cases: frozenset[str],
    values: np.ndarray,
    patients: np.ndarray,
) -> Candidate:
    """Compute one cell from its values and the patient of each."""
    place = (analysis["id"], analysis["kind"], *cell, cases)
    if analysis["kind"] == "histogram":
        edges = analysis["edges"]
        bins = bin_index(values, edges)
        members = tuple(frozenset(patients[bins == i]) for i in range(len(edges) + 1))
        return Candidate(*place, bins=members)
    if len(values) == 0:
        return Candidate(*place)
    constant = disclosure.all_equal(float(values.min()), float(values.max()))
    return Candidate(*place, numbers=asdict(moments(values)), constant=constant)


def _place(candidate: Candidate) -> dict[str, str]:
    return {
        "role": candidate.role,
        "segmentation": candidate.segmentation,
        "segment": candidate.segment,
        "feature": candidate.feature,
    }


def _released(
    analyses: Sequence[Mapping[str, Any]], decisions: Sequence[Decision]
) -> list[dict[str, Any]]:
    """Return the analyses with the cells that the gate released."""
    released = []
    for analysis in sorted(analyses, key=lambda a: a["id"]):
        cells = [
            _place(d.candidate) | d.released
            for d in decisions
            if d.candidate.analysis == analysis["id"] and d.released is not None
        ]
        entry = {"id": analysis["id"], "kind": analysis["kind"], "cells": cells}
        if analysis["kind"] == "histogram":
            entry["edges"] = list(analysis["edges"])
        released.append(entry)
    return released


def _record(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Return what the gate did, without any count of patients."""
    cells = []
    for decision in decisions:
        candidate = decision.candidate
        cell: dict[str, Any] = {
            "analysis": candidate.analysis,
            "kind": candidate.kind,
            **_place(candidate),
            "released": decision.released is not None,
            "rules": {rule.value: finding.value for rule, finding in decision.findings.items()},
        }
        if decision.released is not None and candidate.kind == "histogram":
            last = len(candidate.bins) - 1
            cell["withheld_bins"] = [
                {0: "under", last: "over"}.get(i, i - 1) for i in sorted(decision.withheld_bins)
            ]
        cells.append(cell)
    withheld = {
        rule.value: sum(d.findings[rule] is Finding.WITHHELD for d in decisions) for rule in Rule
    }
    return {
        "rules": {rule.value: rule.meaning for rule in Rule},
        "summary": {
            "cells": len(cells),
            "released": sum(cell["released"] for cell in cells),
            "withheld": withheld,
        },
        "cells": cells,
    }


def _vocabulary(settings: Settings, candidates: Sequence[Candidate]) -> set[str]:
    """Return every string that the released files may hold."""
    protocol = settings.protocol
    words = {settings.protocol_id, settings.site["site"]["id"], settings.site["hub"]["id"]}
    words |= {analysis["id"] for analysis in protocol["analyses"]}
    words |= {entry["role"] for entry in protocol["radiomics"]}
    for segmentation in protocol["segmentations"]:
        words |= {segmentation["id"], *(s["name"] for s in segmentation["segments"])}
    return words | FORMAT_WORDS | {candidate.feature for candidate in candidates}


def approve(
    *, release_dir: Path, name: str, key_file: Path, attempt: int = 1, now: datetime | None = None
) -> dict[str, Any]:
    """Record a person's approval of a candidate release in ``approval.json``.

    The person signs the very manifest that the bundle will carry: the hash of each file, the
    protocol, the sender and the recipient.

    Args:
        release_dir: folder that `build` wrote.
        name: the approver's name, as the hub's roster has it; it leaves the site.
        key_file: the approver's private key.
        attempt: counts what the site sends in this round; the hub takes the latest.
        now: time of the approval, the clock's by default.

    Returns:
        The approval.

    Raises:
        ReleaseError: there is no candidate, or its two files do not belong together.
        KeyFault: the key is missing or open to others.
    """
    contents = _read_release(release_dir)
    header = contents["disclosure.json"][1]
    key = keys.load_key(key_file)
    issued = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = {
        "format": message.FORMAT,
        "protocol": header["protocol"],
        "version": header["version"],
        "round": header["round"],
        "attempt": attempt,
        "sender": header["site"],
        "recipient": header["recipient"],
        "approver": {"name": name, "key": keys.public_text(key)},
        "issued": issued,
        "files": {file: message.describe(data) for file, (data, _) in contents.items()},
    }
    validate(manifest, "manifest", "approval")
    approval = {"manifest": manifest, "signature": keys.sign(key, message.canonical(manifest))}
    write_json(release_dir / "approval.json", approval)
    return approval


def _read_release(release_dir: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Read the files of a candidate and check that one build wrote them."""
    import json

    contents = {}
    for name in message.CONTENT:
        path = release_dir / name
        if not path.is_file():
            raise ReleaseError(f"{path} is missing; build the release first.")
        data = path.read_bytes()
        try:
            content = json.loads(data)
        except ValueError:
            raise ReleaseError(f"{path} is not JSON any more; build the release again.") from None
        contents[name] = (data, validate(content, path.stem, str(path)))
    belongs_to = contents["disclosure.json"][1]["aggregates_sha256"]
    if message.describe(contents["aggregates.json"][0])["sha256"] != belongs_to:
        raise ReleaseError(
            f"{release_dir / 'aggregates.json'} was changed after the disclosure gate wrote it; "
            "build the release again."
        )
    return contents


def read_approval(release_dir: Path) -> dict[str, Any]:
    """Read an approval and check that it holds for the files as they are now.

    Raises:
        ReleaseError: nobody approved, the files were changed since, or the signature is wrong.
    """
    return _read_approved(release_dir)[0]


def _read_approved(release_dir: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return a valid approval and the very bytes that were checked against it."""
    contents = _read_release(release_dir)
    path = release_dir / "approval.json"
    if not path.is_file():
        raise ReleaseError(
            f"Nobody has approved this release. Read {release_dir / 'disclosure.html'}, then: "
            f"jipflow release approve {release_dir} --name NAME --key FILE"
        )
    try:
        approval = validate(read_json(path), "approval", str(path))
    except ValueError:
        raise ReleaseError(f"{path} is not JSON any more; approve again.") from None
    manifest = validate(approval["manifest"], "manifest", str(path))
    for name, (data, _) in contents.items():
        if message.describe(data) != manifest["files"][name]:
            raise ReleaseError(
                f"{release_dir / name} was changed after {manifest['approver']['name']} approved "
                "it; look at it again and approve again."
            )
    signed = message.canonical(manifest)
    if not keys.verifies(manifest["approver"]["key"], approval["signature"], signed):
        raise ReleaseError(f"{path} was changed after it was signed; approve again.")
    return approval, {name: data for name, (data, _) in contents.items()}


def approved_bundle(settings: Settings, release_dir: Path, out_dir: Path) -> Path:
    """Return where the bundle of a release belongs; its name holds the attempt approved last.

    Args:
        settings: of the run.
        release_dir: folder of the release; without an approval its attempt is the first.
        out_dir: folder for the bundle.
    """
    attempt = 1
    with suppress(OSError, ValueError, KeyError, TypeError):
        attempt = int(read_json(release_dir / "approval.json")["manifest"]["attempt"])
    site = settings.site["site"]["id"]
    return out_dir / message.bundle_name(settings.protocol_id, site, message.ROUND, attempt)


def bundle(*, settings: Settings, release_dir: Path, out_dir: Path) -> Path:
    """Write the bundle of an approved release.

    Args:
        settings: of the run; its ``identity.signing_key_file`` is made on first use.
        release_dir: folder of the release.
        out_dir: folder for the bundle.

    Returns:
        The bundle, ``<protocol>-<site>-r<round>-a<attempt>.zip``.

    Raises:
        ReleaseError: it is not approved, was changed since, or belongs to other settings.
    """
    approval, contents = _read_approved(release_dir)
    manifest = approval["manifest"]
    expected = {
        "sender": settings.site["site"]["id"],
        "recipient": settings.site["hub"]["id"],
        "version": settings.version,
        "protocol": settings.protocol_sha256,
    }
    found = {key: manifest[key] for key in expected} | {"protocol": manifest["protocol"]["sha256"]}
    for what, value in expected.items():
        if found[what] != value:
            raise ReleaseError(
                f"{release_dir} was built for another {what} ({found[what]}) than the settings "
                f"name now ({value}); build and approve it again."
            )
    key = keys.load_or_create_key(Path(settings.site["identity"]["signing_key_file"]))
    signed = message.canonical(manifest)
    signatures = {"approver": approval["signature"], "site": keys.sign(key, signed)}
    members = {"manifest.json": signed, "signatures.json": message.canonical(signatures)}
    for name, data in contents.items():
        if len(data) > message.LIMITS[name]:
            raise ReleaseError(
                f"{release_dir / name} has {len(data)} bytes, a bundle takes at most "
                f"{message.LIMITS[name]}; ask for fewer features in the protocol's analyses."
            )
    path = approved_bundle(settings, release_dir, out_dir)
    with atomic_path(path) as partial:
        partial.write_bytes(message.pack(members | contents))
    return path
