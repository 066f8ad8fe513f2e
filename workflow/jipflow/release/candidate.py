"""A candidate release: every cell that the protocol asks for, and what the gate lets out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow.analyses.cells import (
    CellKey,
    Cohort,
    Measured,
    Place,
    Scanners,
    Values,
    by_patient,
    expand,
    measured_places,
    scanners_of,
)
from jipflow.analyses.contract import AnyAnalysis, Proposed, analyses_of
from jipflow.analyses.forms import StatedCell
from jipflow.analyses.noise import WithNoise
from jipflow.analyses.rules import Finding
from jipflow.exchange import message
from jipflow.files import json_text, read_frame, read_json, write_json
from jipflow.outcomes import passed, read_outcomes
from jipflow.release.absent import read_reasons
from jipflow.release.behind import Behind
from jipflow.release.clinical import read_clinical
from jipflow.release.contents import ReleaseError, State, Verdict, formats, protocol_text
from jipflow.release.gate import (
    MIN_PATIENTS,
    Decision,
    DisclosureError,
    all_rules,
    decide,
    scan,
    strings,
)
from jipflow.release.history import Candidate, History, Past
from jipflow.release.ledger import Ledger
from jipflow.release.noise import Draw, Noisy, decide_noisy
from jipflow.release.saturation import Regions, fingerprints
from jipflow.release.since import review_of, write_review
from jipflow.release.stated import given_cells
from jipflow.release.staying import write_staying
from jipflow.release.terms import write_terms
from jipflow.settings.run import Settings

if TYPE_CHECKING:
    import pandas as pd


def build(
    *,
    settings: Settings,
    features: Path,
    cases: Path,
    outcomes: Path,
    verdict: Path,
    ledger: Ledger,
    behind_dir: Path,
    out_dir: Path,
    failures: Path,
    clinical: Path | None = None,
    missing: Path | None = None,
    staying_dir: Path | None = None,
    round_: int = 1,
    state: State | None = None,
) -> list[str]:
    """Write a candidate release: its two files, ``terms.json`` and ``review.json``.

    They depend on nothing but the inputs and the ledger: the same give the same bytes. What stands
    behind them is written beside, for the ledger, and does not leave; nor does what values have
    become, which is for the site.

    The first round asks for all cells of all analyses, a later one for those of which the hub says
    what its kind needs.

    Args:
        settings: of the run.
        features: ``features.parquet``.
        cases: ``cases.tsv``.
        outcomes: ``outcomes.parquet`` of all stages; only what was measured with outcome ok counts.
        verdict: ``verdict.json``.
        ledger: of the site.
        behind_dir: folder for what stands behind the candidate.
        out_dir: folder of the candidate.
        failures: ``failures.parquet``: why features are null.
        clinical: ``clinical.parquet``, where the protocol has clinical variables. They count
            whether or not anything was measured of their case.
        missing: ``missing.parquet``, likewise: why they are null.
        staying_dir: folder for what values have become (see `jipflow.release.staying`); None where
            nobody wants it.
        round_: that the release is of.
        state: what the hub says before the round; may be None in the first.

    Returns:
        Hashes of the ledger's entries, all of which it was compared with.

    Raises:
        ReleaseError: the run is not acceptable, its tables contradict each other, or the hub says
            what no honest hub does.
        LedgerFault: what left before is not known.
        DisclosureError: something would leave that the gate does not know to be safe.
    """
    _check_verdict(read_json(verdict))
    patient_of, scanners = _read_cases(cases)
    reasons = read_reasons(
        protocol=settings.protocol,
        roles=_roles_of(scanners),
        features=features,
        failures=failures,
        outcomes=outcomes,
        missing=missing,
    )
    table, texts = _read_rows(settings, patient_of, features, outcomes, clinical)
    cohort = Cohort(patient_of, reasons.absence)
    places = measured_places(settings.protocol)
    measured = Measured(table, places, {**scanners, **texts}, cohort)
    given = given_cells(settings, round_, state)
    analyses = [each for each in analyses_of(settings.protocol) if each.settings.id in given]
    proposed = [
        cell
        for analysis in analyses
        for cell in _propose(analysis, measured, given[analysis.settings.id])
    ]
    prints = fingerprints(measured)
    entries = ledger.entries()
    pasts = [kept.past for kept in entries if kept.past]
    exact, noisy = _decide(settings, proposed, patient_of, prints, pasts, ledger.draws.drawn)
    decisions = sorted([*exact, *noisy.decisions], key=lambda each: each.proposed.order)

    header = _header(settings, round_)
    aggregates = header | {"analyses": _released(analyses, decisions)}
    aggregates_sha256 = message.describe(json_text(aggregates).encode()).sha256
    record = header | {"aggregates_sha256": aggregates_sha256} | _record(decisions)
    known = formats()
    about = message.checked(known.aggregates, aggregates, "aggregates.json")
    message.checked(known.disclosure, record, "disclosure.json")

    vocabulary = _vocabulary(settings, analyses, proposed) | known.words
    exempt = {settings.protocol_sha256, settings.version, aggregates_sha256}
    exempt |= {text for part in header["protocol"]["parts"].items() for text in part}
    exempt.add(settings.protocol.protocol.version)
    pseudonyms = sorted({*patient_of, *patient_of.values()})
    for name, content in (("aggregates", aggregates), ("disclosure", record)):
        try:
            scan(content, vocabulary, exempt, pseudonyms)
        except DisclosureError as error:
            raise DisclosureError(
                f"{name}.json: {error} Nothing is released; rename it in the protocol."
            ) from None
    behind = _behind(exact, noisy, *prints, _limits(settings))
    behind.write(behind_dir)
    if staying_dir is not None:
        write_staying(exact, staying_dir)
    write_json(out_dir / "aggregates.json", aggregates)
    write_json(out_dir / "disclosure.json", record)
    write_terms(out_dir, settings)
    write_review(out_dir, review_of(settings, about, behind.past(), entries, state, noisy))
    return [kept.sha256 for kept in entries]


def _read_rows(
    settings: Settings,
    patient_of: Mapping[str, str],
    features: Path,
    outcomes: Path,
    clinical: Path | None,
) -> tuple[pd.DataFrame, Scanners]:
    """Return what was measured of the cohort, clinical values too, and the texts among these."""
    import pandas as pd

    table = _read_features(features, patient_of, outcomes)
    if clinical is not None:
        found = read_clinical(clinical, settings.protocol, patient_of)
        return pd.concat([table, found.rows], ignore_index=True), found.texts
    if settings.protocol.clinical:
        raise ReleaseError("The clinical variables of the protocol were not read; run clinical.")
    return table, {}


def _decide(
    settings: Settings,
    proposed: Sequence[Proposed],
    patient_of: Mapping[str, str],
    prints: tuple[Mapping[Place, Values], Mapping[Place, Values]],
    pasts: Sequence[Past],
    draw: Draw,
) -> tuple[list[Decision], Noisy]:
    """Decide on every cell: on the exact ones by all rules, on those with noise by the budget."""
    exact = decide(
        [cell for cell in proposed if not isinstance(cell.analysis, WithNoise)],
        patient_of,
        settings.disclosure,
        Regions.by(*prints),
        History(pasts, *prints, limits=_limits(settings)),
    )
    noise = settings.site.disclosure.noise
    noisy = decide_noisy(
        [cell for cell in proposed if isinstance(cell.analysis, WithNoise)],
        settings.protocol_sha256,
        noise.budget if noise else None,
        pasts,
        draw,
    )
    return exact, noisy


def _header(settings: Settings, round_: int) -> dict[str, Any]:
    return {
        "protocol": protocol_text(settings).plain(),
        "site": settings.site.site.id,
        "recipient": settings.site.hub.id,
        "round": round_,
        "version": settings.version,
        "min_patients": settings.min_patients,
    }


def _check_verdict(verdict: Mapping[str, Any]) -> None:
    if subset := verdict.get("subset"):
        raise ReleaseError(
            f"The tables are of a subset, {subset['cases']} of {subset['of']} cases, of which no "
            "release is built: run the same without case and shards first."
        )
    if verdict.get("acceptable") is not True:
        raise ReleaseError(
            f"The run is not acceptable: {verdict.get('failed')} of {verdict.get('cases')} cases "
            f"failed, {verdict.get('unexpected', 0)} by errors that jipflow does not know; the "
            f"protocol tolerates a share of {verdict.get('max_failed_fraction')}; "
            f"{verdict.get('waiting')} wait for a person, it tolerates "
            f"{verdict.get('max_waiting_fraction')}. "
            "The report names each case's reason; fix the causes and run again."
        )


def _read_cases(cases: Path) -> tuple[dict[str, str], Scanners]:
    """Return the patient of each case of the cohort, and the scanners of its series."""
    import pandas as pd

    table = pd.read_csv(cases, sep="\t", dtype=str, keep_default_na=False)
    pairs = table[["case_id", "patient"]].drop_duplicates()
    twice = pairs["case_id"][pairs["case_id"].duplicated()]
    if len(twice):
        raise ReleaseError(f"{cases}: case {twice.iloc[0]} has two patients; run cohort again.")
    patient_of = dict(zip(pairs["case_id"], pairs["patient"], strict=True))
    records: Any = table.to_dict("records")
    return patient_of, scanners_of(records)


def _roles_of(scanners: Scanners) -> dict[str, set[str]]:
    """Return the roles that each case has a series of."""
    roles: dict[str, set[str]] = {}
    for case, role in scanners:
        roles.setdefault(case, set()).add(role)
    return roles


def _read_features(features: Path, patient_of: Mapping[str, str], outcomes: Path) -> pd.DataFrame:
    """Read the measured rows of the cohort, sorted, and check that they belong to it."""
    table = read_frame(features)
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


def _propose(
    analysis: AnyAnalysis, measured: Measured, given: Mapping[CellKey, StatedCell] | None
) -> list[Proposed]:
    """Compute every cell of an analysis that the round asks for, before any rule of disclosure."""
    settings = analysis.settings
    for variable in settings.variables:
        if not expand([variable], settings.segments, measured.features, measured.places):
            raise ReleaseError(
                f"analysis {settings.id}: {variable!r} is no feature that was measured; fix "
                "it in the protocol's analyses or add it to its radiomics."
            )
    for key in analysis.reads():
        if key.place not in measured.places or key.feature not in measured.features:
            raise ReleaseError(
                f"analysis {settings.id}: {key.role}.{key.feature} of {key.title} is nothing that "
                "was measured; fix it in the protocol's analyses."
            )
    return analysis.propose(measured, given)


def _released(
    analyses: Sequence[AnyAnalysis], decisions: Sequence[Decision]
) -> list[dict[str, Any]]:
    """Return the analyses with the cells that the gate released."""
    cells: dict[str, list[dict[str, Any]]] = {analysis.settings.id: [] for analysis in analyses}
    for decision in decisions:
        if decision.released is not None:
            cells[decision.proposed.analysis.settings.id].append(decision.released.plain())
    return [
        {
            "id": analysis.settings.id,
            "kind": analysis.settings.kind,
            "cells": cells[analysis.settings.id],
            **analysis.heading(),
        }
        for analysis in analyses
    ]


def _limits(settings: Settings) -> dict[str, float]:
    """Return the limits of dominance that the protocol has chosen."""
    chosen = settings.protocol.disclosure
    return {"largest_two": float(chosen.largest_two), "p_percent": float(chosen.p_percent)}


def _behind(
    decisions: Sequence[Decision],
    noisy: Noisy,
    volumes: Mapping[Place, Values],
    means: Mapping[Place, Values],
    limits: Mapping[str, float],
) -> Behind:
    """Return what stands behind the cells that the gate released, and behind those it withheld."""
    leaving = [
        Candidate(piece, d.released).cell
        for d in decisions
        if d.released
        for piece in d.proposed.pieces
    ]
    withheld = [
        (rule.code, Candidate(piece, None).cell)
        for d in decisions
        for piece in d.proposed.pieces
        for rule, found in d.findings.items()
        if found == Finding.WITHHELD and rule != MIN_PATIENTS
    ]
    withheld += [
        (rule.code, Candidate(piece, None).cell)
        for d in decisions
        for piece in d.kept_back
        for rule in d.proposed.analysis.rules
        if rule.parts
    ]
    by_place = [{place: by_patient(v) for place, v in of.items()} for of in (volumes, means)]
    return Behind.of(Past(leaving, by_place[0], by_place[1], withheld, limits, noisy.cells))


def _record(decisions: Sequence[Decision]) -> dict[str, Any]:
    """Return what the gate did, without any count of patients."""
    cells = []
    for decision in decisions:
        settings, key = decision.proposed.analysis.settings, decision.proposed.key
        cells.append(
            {
                "analysis": settings.id,
                "kind": settings.kind,
                **key._asdict(),
                "released": decision.released is not None,
                "rules": {rule.code: str(found) for rule, found in decision.findings.items()},
                **{f"withheld_{rule.parts}": list(p) for rule, p in decision.parts.items()},
            }
        )
    rules = all_rules()
    released = sum(decision.released is not None for decision in decisions)
    verdict: Verdict = "released" if released else "nothing released"
    withheld = {
        rule.code: sum(d.findings[rule] == Finding.WITHHELD for d in decisions) for rule in rules
    }
    return {
        "verdict": verdict,
        "rules": {rule.code: rule.meaning for rule in rules},
        "summary": {
            "cells": len(cells),
            "released": released,
            "withheld": withheld,
        },
        "cells": cells,
    }


def _vocabulary(
    settings: Settings, analyses: Sequence[AnyAnalysis], proposed: Sequence[Proposed]
) -> set[str]:
    """Return every string of the protocol and the site that the released files may hold."""
    protocol = settings.protocol
    words = {settings.protocol_id, settings.site.site.id, settings.site.hub.id}
    words |= {text for place in measured_places(protocol) for text in place}
    for segmentation in protocol.segmentations:
        words |= {segmentation.id, *(segment.name for segment in segmentation.segments)}
    for analysis in analyses:
        words |= {analysis.settings.id, *analysis.settings.groups}
        words |= {text for _, text in strings(analysis.heading())}
    return words | {cell.key.feature for cell in proposed}
