"""A small made-up results folder in the format of a real one, for the tests of the reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import typed
from jipflow.cases import Case, Series
from jipflow.catalog.cohort import CASE_COLUMNS
from jipflow.exchange.refusals import Refusal
from jipflow.files import write_json, write_parquet
from jipflow.hub.decisions import Accepted, RejectedBundle
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.settings import HubSettings
from jipflow.images.masks import Region, Segmentation, pack
from jipflow.images.volume import Grid, Volume
from jipflow.outcomes import Outcome, Status, write_outcomes
from jipflow.palette import segment_colour
from jipflow.privacy.pseudonyms import site_secret
from jipflow.release.behind import read_behind
from jipflow.release.candidate import build as build_release
from jipflow.release.contents import Release, read_release, record_built
from jipflow.release.ledger import Ledger
from jipflow.release.sent import Sent
from jipflow.release.since import read_review
from jipflow.release.terms import Terms
from jipflow.report.basis import Basis, basis
from jipflow.report.disclosure import write_disclosure_page
from jipflow.report.overlays import render_overlay
from jipflow.segment.quality import Quality, quality_table
from jipflow.settings.digests import protocol_parts
from jipflow.settings.hub import Hub
from jipflow.settings.run import Settings

PATIENT_NAME = "Doe^Jane"
PATIENT_IDS = ("MRN-77812", "MRN-77813")
OUTLOOK = Outlook(1, ("aachen", "berlin", "heidelberg"), (), further=False)
UID = "1.2.826.0.1.3680043.8.498.1234567"
ORGANS = ("liver", "spleen", "kidney-left", "lesion")
EXPECT = {
    "liver": {"expect": {"volume_ml": [1000, 2000], "intensity": [40, 180], "border": False}},
    "spleen": {"expect": {"components": 2, "disagreement": 0.2}},
}
SCANNERS = (
    ("SIEMENS", "Biograph 64"),
    ("GE MEDICAL SYSTEMS", "Discovery 710"),
    ("Philips", "Gemini"),
)
FEATURES = {
    "original_shape_MeshVolume": 1.0,
    "original_shape_Sphericity": 0.7,
    "original_shape_SurfaceVolumeRatio": 0.2,
    "original_firstorder_Mean": 60.0,
    "original_firstorder_Entropy": 3.2,
    "original_firstorder_90Percentile": 95.0,
    "original_firstorder_Kurtosis": 3.5,
    "original_glcm_Contrast": 14.0,
    "original_glcm_Correlation": 0.4,
    "original_glrlm_RunPercentage": 0.8,
    "original_gldm_DependenceEntropy": 5.5,
    "original_ngtdm_Coarseness": 0.0004,
}


def ledger_of(results: Path) -> Ledger:
    """Return the ledger of a results folder's site, beside it."""
    secret = site_secret(results.parent / "identity.key", results.parent / "all")
    return Ledger(results.parent / "ledger", secret, results.parent / "all")


def settings(site: str = "heidelberg") -> Settings:
    """Return a site's effective settings with a CT and a PET segmentation."""
    return typed.settings(
        site_content={
            "site": {"id": site, "name": f"University Hospital {site.title()}"},
            "sources": [{"name": "archive", "kind": "folder", "path": "/data/dicom"}],
            "hub": {"id": "hub"},
            "disclosure": {"min_patients": 5},
        },
        **{
            "protocol": {
                "id": "demo",
                "version": "1.0.0",
                "title": "Organs and lesions on PET/CT of the synthetic cohort",
                "description": "Shows every stage on patients whose truth is known.",
            },
            "segmentations": [
                {
                    "id": "organs",
                    "engine": "imported",
                    "role": "CT",
                    "segments": [
                        {"name": n, "match": n, "term": "liver", **EXPECT.get(n, {})}
                        for n in ORGANS
                    ],
                },
                {
                    "id": "gtv",
                    "engine": "imported",
                    "role": "PT",
                    "segments": [{"name": "gtv", "match": "GTV.*", "term": "gross-tumour-volume"}],
                },
            ],
            "radiomics": [
                {"segmentation": "organs", "role": "CT", "settings": "pyradiomics_ct"},
                {"segmentation": "gtv", "role": "PT", "settings": "pyradiomics_pet"},
            ],
            "analyses": [
                {
                    "id": "describe",
                    "kind": "summary",
                    "variables": ["CT.*", "PT.original_firstorder_*"],
                },
                {
                    "id": "volumes",
                    "kind": "histogram",
                    "variables": ["CT.volume_ml"],
                    "segments": ["liver", "lesion"],
                    "edges": [0, 10, 20, 1000, 1400, 1800, 2200],
                },
            ],
            "disclosure": {"min_patients": 5},
            "tolerance": {"max_failed_fraction": 0.5},
        },
        protocol_sha256="ab" * 32,
    )


def phantom(
    modality: str = "CT", seed: int = 0, shape: tuple[int, int, int] = (48, 96, 128)
) -> tuple[Volume, Segmentation]:
    """Return a body with four organs, or one lesion on PET, on an anisotropic upright grid."""
    rng = np.random.default_rng(seed)
    spacing = (6.0, 3.2, 3.2)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = *spacing, 1.0
    grid = Grid(shape, affine)
    z, y, x = np.meshgrid(
        *((np.arange(n) - n / 2 + 0.5) * s for n, s in zip(shape, spacing, strict=True)),
        indexing="ij",
    )

    def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
        moved = np.asarray(centre) + rng.normal(0, 3, 3)
        axes = zip((z, y, x), moved, radii, strict=True)
        return sum(((a - c) / r) ** 2 for a, c, r in axes) < 1  # type: ignore[return-value]

    body = (x / 170) ** 2 + (y / 110) ** 2 < 1
    liver = ellipsoid((20, -10, -70), (70, 60, 70))
    spleen = ellipsoid((30, 30, 105), (40, 30, 25))
    kidney = ellipsoid((-40, 40, 60), (50, 22, 22))
    lesion = ellipsoid((30, -20, -70), (16, 14, 14))
    spine = (x / 20) ** 2 + ((y - 65) / 20) ** 2 < 1
    if modality == "CT":
        image = np.where(body, 20.0, -1000.0)
        for region, value in ((spine, 300), (liver, 75), (spleen, 60), (kidney, 130), (lesion, 25)):
            image[region & body] = value
        image += rng.normal(0, 14, shape)
        masks = [liver & ~lesion, spleen, kidney, lesion]
        names = ORGANS
    else:
        image = 0.4 * body + 2.2 * liver + 3.0 * kidney + 9.0 * lesion
        image = np.maximum(image + rng.normal(0, 0.15, shape), 0)
        masks, names = [lesion], ("gtv",)
    regions = [
        Region(n, "liver", m, "MANUAL", "phantom") for n, m in zip(names, masks, strict=True)
    ]
    segmentation = pack(regions, grid)
    return Volume(image.astype(np.float32), grid), segmentation


def case(identifier: str) -> Case:
    """Return a case with a CT and a PET series."""
    roles = {r: Series(f"{UID}.{n}", r, ()) for n, r in enumerate(("CT", "PT"))}
    return Case(identifier, f"p{identifier[1:]}", "s00000", roles)


def build(results: Path, cases: int = 14, pictures: bool = True, seed: int = 7) -> Path:
    """Write the results folder of a finished run, with some cases that failed.

    Case 1 lacks slices in its CT, case 2 has no contours on PET, case 3 was excluded, and one
    message names a path, a patient and a UID, as messages may.
    """
    rng = np.random.default_rng(seed)
    ids = [f"k{n:02d}qhz4m7{'abcdefghij'[n % 5 : n % 5 + 6]}2" for n in range(cases)]
    _write_catalog(results.parent / "catalog", cases)
    _write_cohort(results, ids)
    outcomes, rows, failures = [], [], []
    for number, identifier in enumerate(ids):
        if number == 3:
            outcomes.append(
                Outcome(identifier, "cohort", "", Status.EXCLUDED, "missing_role", "No PT series.")
            )
            continue
        outcomes += _outcomes(number, identifier, rng)
        for role, segmentation, segments in (("CT", "organs", ORGANS), ("PT", "gtv", ("gtv",))):
            if (number == 1 and role == "CT") or (number == 2 and role == "PT"):
                continue
            rows += [_features(identifier, role, segmentation, s, rng) for s in segments]
            if pictures:
                volume, masks = phantom(role, number)
                names = {s: segment_colour(i) for i, s in enumerate(segments)}
                target = results / "overlays" / identifier / f"{segmentation}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(render_overlay(volume, masks, role, names))
    rows[2]["original_glcm_Contrast"] = None
    failures.append(
        {
            "case_id": rows[2]["case_id"],
            "role": "CT",
            "segmentation": "organs",
            "segment": rows[2]["segment"],
            "feature": "original_glcm_Contrast",
            "reason": "not_finite",
            "message": "The value is nan.",
        }
    )
    write_outcomes(results / "outcomes.parquet", outcomes)
    write_parquet(results / "features" / "features.parquet", pd.DataFrame(rows))
    write_parquet(results / "features" / "failures.parquet", pd.DataFrame(failures))
    write_parquet(results / "features" / "quality.parquet", quality_table(_quality(rows)))
    verdict = {"cases": cases - 1, "ok": cases - 3, "failed": 2, "excluded": 1}
    verdict["failed_fraction"] = 2 / (cases - 1)  # type: ignore[assignment]
    write_json(
        results / "verdict.json", {**verdict, "max_failed_fraction": 0.5, "acceptable": True}
    )
    for rule, seconds in (("segment", 31.4), ("measure", 12.25), ("prepare", 4.5), ("cohort", 0.4)):
        folder = results / "cohort" if rule == "cohort" else results / "shards" / "s00000" / rule
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cost.tsv").write_text(
            f"seconds\tcpu_seconds\tpeak_mb\n{seconds}\t{seconds}\t{seconds * 40}\n"
        )
    return results


def add_release(results: Path, site: Settings) -> Release:
    """Build the release candidate of a results folder and return it."""
    folder = results / "release" / "r01"
    build_release(
        settings=site,
        features=results / "features" / "features.parquet",
        cases=results / "cohort" / "cases.tsv",
        outcomes=results / "outcomes.parquet",
        failures=results / "features" / "failures.parquet",
        verdict=results / "verdict.json",
        ledger=ledger_of(results),
        behind_dir=results / "behind",
        out_dir=folder,
    )
    return read_release(folder)


def basis_of(results: Path, site: Settings) -> Basis:
    """Count whom the release of a results folder is of."""
    return basis(
        settings=site,
        features=results / "features" / "features.parquet",
        cases=results / "cohort" / "cases.tsv",
        outcomes=results / "outcomes.parquet",
    )


def write_disclosure(
    results: Path,
    site: Settings,
    path: Path,
    sent: Sequence[Sent] = (),
    secret: bytes = bytes(32),
) -> str:
    """Write the page of a results folder's release, and return it."""
    folder = results / "release" / "r01"
    write_disclosure_page(
        release=read_release(folder),
        terms=Terms.of(site),
        review=read_review(folder, built=False),
        path=path,
        basis=basis_of(results, site),
        secret=secret,
        sent=sent,
    )
    if path.parent == folder:
        record_built(folder, read_behind(results / "behind"), [])
    return path.read_text(encoding="utf-8")


SITES = ("aachen", "berlin", "heidelberg")


def round_of(
    folder: Path, sites: Sequence[str] = SITES
) -> tuple[dict[str, Any], list[Accepted], list[RejectedBundle]]:
    """Return a hub's merged result, its accepted messages and its rejected files."""
    accepted = []
    for number, site in enumerate(sites):
        results = build(folder / site / "demo", 12 + 3 * number, pictures=False, seed=number)
        release = add_release(results, settings(site))
        accepted.append(
            Accepted(
                file=f"demo-{site}-r01-a1.age",
                sha256="ef" * 32,
                site=site,
                attempt=1,
                key="ed25519:" + "ab" * 32,
                approvals=[{"person": "Dr. Ada Example", "key": "", "issued": ""}],
                issued="2026-01-05T10:00:00Z",
                version="0.1.0",
                aggregates=release.aggregates,
                disclosure=release.disclosure,
            )
        )
    why = Refusal.SENDER_SIGNATURE
    rejected = [RejectedBundle("demo-berlin-copy.age", "01" * 32, str(why), why.meaning, "berlin")]
    return merge(accepted=accepted, settings=hub(folder, sites)), accepted, rejected


def hub(folder: Path, sites: Sequence[str] = SITES) -> HubSettings:
    """Return the settings of a hub of some sites."""
    here, key = settings(), "ed25519:" + "0" * 64
    person = {"name": "Dr. Ada Example", "key": key}
    roster = [{"site": site, "key": key, "approvers": [person]} for site in sites]
    place = {"id": "hub", "name": "Coordinating centre"}
    content = {"hub": place, "protocol": "demo", "inbox": str(folder), "roster": roster}
    return HubSettings(
        hub=Hub.model_validate(content),
        protocol=here.protocol,
        protocol_sha256=here.protocol_sha256,
        protocol_parts=protocol_parts(here.protocol, here.named),
        named=here.named,
    )


def _write_catalog(folder: Path, cases: int) -> None:
    summary = {
        "files": 4213,
        "dicom_files": 4198,
        "not_dicom": 12,
        "unreadable": 2,
        "duplicates": 1,
        "links": 0,
        "mended": 3,
        "series": 2 * cases + 5,
        "patients": cases + 1,
        "sources": {"archive": {"files": 4213, "dicom_files": 4198}},
    }
    write_json(folder / "summary.json", summary)
    skipped = [
        {"path": f"in/{PATIENT_NAME}/IM0001.dcm", "kind": "unreadable", "reason": "no header"},
        {"path": "in/notes.txt", "kind": "not_dicom", "reason": "no DICM prefix"},
        {
            "path": "in/x.dcm",
            "kind": "unreadable",
            "reason": f"/data/dicom/{PATIENT_NAME}/x y.dcm ends after 12 bytes",
        },
    ]
    write_parquet(folder / "skipped.parquet", pd.DataFrame(skipped))
    write_parquet(folder / "series.parquet", pd.DataFrame({"PatientID": PATIENT_IDS}))


def _write_cohort(results: Path, ids: list[str]) -> None:
    lines = ["\t".join(CASE_COLUMNS)]
    for number, identifier in enumerate(ids):
        if number == 3:
            continue
        manufacturer, model = SCANNERS[number % 3]
        lines += [
            f"{identifier}\tp{identifier[1:]}\ts00000\t{role}\t{UID}.{number}\t{role}"
            f"\t{manufacturer}\t{model}\t{role} routine\t96"
            for role in ("CT", "PT")
        ]
    path = results / "cohort" / "cases.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    n = len(ids)
    steps = [
        {"step": "found", "label": "Series found", "series": 2 * n + 5, "patients": n + 1},
        {
            "step": "where-1",
            "label": "Modality IN ('CT','PT')",
            "series": 2 * n + 1,
            "patients": n,
        },
        {
            "step": "where-2",
            "label": "SliceThickness <= 5 AND NumberOfInstances >= 20",
            "series": 2 * n - 1,
            "patients": n,
        },
        {
            "step": "cases",
            "label": "Cases with every required role",
            "series": 2 * n - 2,
            "patients": n - 1,
            "cases": n - 1,
        },
    ]
    write_json(results / "cohort" / "flow.json", {"steps": steps})


def _outcomes(number: int, identifier: str, rng: np.random.Generator) -> list[Outcome]:
    made = []
    for stage in ("prepare", "segment", "encode", "measure", "overlay"):
        for role, segmentation in (("CT", "organs"), ("PT", "gtv")):
            item = role if stage == "prepare" else segmentation
            outcome = Outcome(identifier, stage, item, seconds=float(rng.gamma(2, 0.6)))
            outcome.max_rss_mb = 400 + 50 * float(rng.random())
            broken = (number, role) in {(1, "CT"), (2, "PT")}
            cause = "prepare" if number == 1 else "segment"
            if broken and stage == cause:
                outcome.status = Status.FAILED
                outcome.reason = "missing_slices" if number == 1 else "no_contours"
                outcome.message = (
                    f"3 slices are missing after /data/dicom/{PATIENT_NAME}/CT 2/IM 0004.dcm of "
                    f"series {UID} of patient {PATIENT_IDS[0]}; ask the archive for them."
                    if number == 1
                    else "No structure set of the patient has an ROI that matches GTV.*."
                )
            elif broken and (stage != "prepare" or number == 1):
                if stage == "overlay":
                    continue
                outcome.status, outcome.reason = Status.FAILED, "depends_on_failed"
                outcome.message = f"{cause} failed."
            if stage == "prepare" and role == "PT":
                outcome.decisions = ["decay_to_series_time"]
            made.append(outcome)
    return made


def _quality(rows: list[dict[str, object]]) -> list[Quality]:
    """Return what the segments are like; the first two livers and the first spleen are flagged."""
    found = []
    flagged = {
        ("liver", 0): {"volume_ml": 312.5, "mean": -7.5},
        ("liver", 1): {"touches_border": True},
        ("spleen", 0): {"components": 11, "disagreement": 0.31},
    }
    flags = {
        ("liver", 0): ("implausible_volume", "implausible_intensity"),
        ("liver", 1): ("touches_border",),
        ("spleen", 0): ("many_components", "folds_disagree"),
    }
    seen: Counter[str] = Counter()
    for row in rows:
        key = (str(row["segment"]), seen[str(row["segment"])])
        seen[key[0]] += 1
        names = (str(row[name]) for name in ("case_id", "segmentation", "segment"))
        plain = Quality(*names, 1500.0, 1, False, 60.0, None, flags.get(key, ()))
        found.append(replace(plain, **flagged.get(key, {})))
    return found


def _features(
    identifier: str, role: str, segmentation: str, segment: str, rng: np.random.Generator
) -> dict[str, object]:
    size = {"liver": 1450, "spleen": 190, "kidney-left": 165, "lesion": 14, "gtv": 16}[segment]
    volume = size * math.exp(float(rng.normal(0, 0.2)))
    row: dict[str, object] = {
        "case_id": identifier,
        "patient": f"p{identifier[1:]}",
        "role": role,
        "segmentation": segmentation,
        "segment": segment,
        "voxels": int(volume * 16),
        "volume_ml": volume,
        "settings_sha256": "cd" * 32,
    }
    scale = 1.0 if role == "CT" else 0.12
    for name, value in FEATURES.items():
        row[name] = value * scale * math.exp(float(rng.normal(0, 0.15)))
    row["original_shape_MeshVolume"] = volume * 1000
    return row
