"""The site's report: one self-contained page from the files of a results folder."""

from __future__ import annotations

import base64
import csv
import io
import math
import platform
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow import plots
from jipflow.files import canonical_digest, read_json
from jipflow.outcomes import Outcome, Status, read_outcomes
from jipflow.palette import segment_colour
from jipflow.reasons import Flag, Reason
from jipflow.report import pages
from jipflow.report.disclosure import disclosure_summary
from jipflow.report.pages import write_page
from jipflow.settings.config import MODELS, Settings, annotated, read_yaml
from jipflow.tables import AGREEMENT_VALUES, FEATURE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

STAGES = {
    "cohort": "Cohort",
    "retrieve": "Retrieve",
    "prepare": "Prepare",
    "segment": "Segment",
    "annotate": "Annotate",
    "encode": "Encode",
    "measure": "Measure",
    "document": "Document",
    "publish": "Publish",
    "overlay": "Overlay",
}
SEVERITY = {Status.OK: 0, Status.EXCLUDED: 1, Status.WAITING: 2, Status.FAILED: 3}

# What a page can hold and still open at once; everything is in the files beside it.
MAX_CASE_ROWS = 1000
MAX_PICTURES = 120
OPEN_PICTURES = 12
PICTURE_BUDGET = 2_600_000  # bytes of all pictures, before base64 adds a third
MAX_SKIPPED_ROWS = 200
MAX_SUMMARIES = 40
MAX_FLAG_ROWS = 300

# The distributions shown: title, unit by modality, and the column; the first column found is taken.
DISTRIBUTIONS: tuple[tuple[str, str, str], ...] = (
    ("Volume", "ml", "volume_ml"),
    ("Mean intensity", "intensity", "original_firstorder_Mean"),
    ("Entropy", "bits", "original_firstorder_Entropy"),
    ("Sphericity", "", "original_shape_Sphericity"),
    ("GLCM contrast", "", "original_glcm_Contrast"),
    ("90th percentile", "intensity", "original_firstorder_90Percentile"),
)
# From which intraclass correlation on a feature is in a band.
STABILITY_BANDS = {"excellent": 0.9, "good": 0.75, "moderate": 0.5, "poor": -math.inf}
INTENSITY_UNITS = {"CT": "HU", "PT": "SUV"}

PACKAGES = (
    "PyWavelets",
    "connected-components-3d",
    "duckdb",
    "highdicom",
    "nnunetv2",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydicom",
    "pyradiomics",
    "scipy",
    "SimpleITK",
    "snakemake",
    "torch",
)

# At least 14 characters tell a UID from a version; those made of a UUID have three parts only.
_UID = re.compile(r"(?<![\w.])(?=[\d.]{14})[0-2](?:\.\d+){2,}(?!\w)")
# An absolute path, which may hold spaces: up to the last separator of the sentence's part and, if
# there is one, the suffix after it. Then relative ones, and bare names of image files.
_ABSOLUTE = re.compile(
    r"""(?<![^\s'"(=:])(?:[A-Za-z]:|~|\.{1,2})?[/\\](?=\S)(?:[^\n'"]*[/\\])?"""
    r"""(?:[^\n'",:;/\\]*?\.\w{1,5}\b|[^\s'",:;]*)"""
)
_RELATIVE = re.compile(r"""[^\s'"]+[/\\](?:[^\s'"]*[/\\][^\s'"]*|[^\s'"]*\.\w{1,5}\b)""")
_IMAGE_FILE = re.compile(r"""[^\s'"]+\.(?:dcm|ima|dicom)\b""", re.IGNORECASE)
_WORD = re.compile(r"""[^\s'":;,()]+""")


@dataclass
class CaseRow:
    """One line of the table of cases.

    Attributes:
        case_id: pseudonym of the case.
        patient: pseudonym of the patient; empty where the case never got one.
        images: roles by scanner.
        outcomes: what happened, in the order of the stages.
    """

    case_id: str
    patient: str = ""
    images: dict[str, list[str]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def status(self) -> Status:
        """The worst of the case's outcomes."""
        return max((o.status for o in self.outcomes), key=SEVERITY.__getitem__, default=Status.OK)

    @property
    def problems(self) -> list[Outcome]:
        """The outcomes that are not ok, causes before what merely followed from them."""
        bad = [o for o in self.outcomes if o.status is not Status.OK]
        return sorted(bad, key=lambda o: o.follows)

    @property
    def notes(self) -> list[Outcome]:
        """The outcomes that are ok but have something to say."""
        return [o for o in self.outcomes if o.status is Status.OK and o.message]

    @property
    def seconds(self) -> float:
        """Time that the case took in all stages."""
        return math.fsum(o.seconds for o in self.outcomes)

    @property
    def peak_mb(self) -> float:
        """Highest memory of any process that worked on the case."""
        return max((o.max_rss_mb for o in self.outcomes), default=0.0)

    def cell(self, stage: str) -> tuple[str, str]:
        """Return the status word and the text of the case's cell for a stage.

        Beside the words of `Status` there are ``none`` where no item reached the stage, and
        ``partial`` where all that did were ok but others had failed or wait before.
        """
        here = [o for o in self.outcomes if o.stage == stage]
        if not here:
            return "none", "not reached"
        good = sum(o.status is Status.OK for o in here)
        own = [o for o in here if not o.follows]
        if not own:
            return "none", "not reached"
        worst = max((o.status for o in own), key=SEVERITY.__getitem__)
        partly = f"{good} of {len(here)} ok"
        if worst is Status.OK and good < len(here):
            return "partial", partly
        return worst.value, partly if 0 < good < len(here) else worst.value


class Redactor:
    """Takes out of a message what may identify a patient: paths, UIDs and PatientIDs.

    Messages are written for the log and the outcomes' table, which name files by their path in
    the archive; names of folders and files there often hold a patient's name.

    Args:
        patient_ids: the identifiers in the site's catalog; those shorter than four characters are
            left alone, since they cannot be told from counts.
    """

    def __init__(self, patient_ids: Iterable[str]) -> None:
        self._ids = {identifier for identifier in patient_ids if len(identifier) >= 4}

    def __call__(self, text: str) -> str:
        """Return the text with ``‹path›``, ``‹UID›`` and ``‹patient›`` in place of these."""
        for pattern in (_ABSOLUTE, _RELATIVE, _IMAGE_FILE):
            text = pattern.sub("‹path›", text)
        text = _UID.sub("‹UID›", text)
        return _WORD.sub(
            lambda word: "‹patient›" if word[0].rstrip(".") in self._ids else word[0], text
        )


def write_report(*, results: Path, settings: Settings, path: Path) -> None:
    """Write the report of a run at a site.

    The page holds pseudonyms only: no patient's name or identifier, no path, no UID. The same
    files give the same bytes.

    Args:
        results: the protocol's results folder; ``outcomes.parquet``, ``verdict.json`` and
            ``cohort/`` must be there, what else is missing is said on the page.
        settings: the run's settings.
        path: the HTML file.
    """
    outcomes = read_outcomes(results / "outcomes.parquet")
    images = _images(results / "cohort" / "cases.tsv")
    catalogs = (results.parent / "catalog", results / "pacs")
    redact = Redactor({p for c in catalogs for p in _patient_ids(c / "series.parquet")})
    cases = case_rows(outcomes, images)
    features = _read_table(results / "features" / "features.parquet")
    quality = _read_table(results / "features" / "quality.parquet")
    stages = [s for s in STAGES if s != "cohort" and any(o.stage == s for o in outcomes)]
    colours = segment_colours(settings)
    write_page(
        path,
        "site.html.j2",
        settings=settings,
        verdict=read_json(results / "verdict.json"),
        flow=cohort_flow(read_json(results / "cohort" / "flow.json"), outcomes, stages),
        catalog=_catalog(results.parent / "catalog", redact),
        queries=_queries(results / "pacs" / "queries.json", redact),
        scanners=_scanners(images),
        cases=cases[:MAX_CASE_ROWS],
        all_cases=len(cases),
        stages={stage: STAGES[stage] for stage in stages},
        redact=redact,
        meaning=meaning,
        stage_counts=stage_counts(cases, stages),
        reasons=reason_tally(outcomes),
        quality=segment_quality(quality, settings, images),
        pictures=_pictures(results / "overlays", settings, features, quality, colours),
        distributions=distributions(features, images, colours),
        summaries=feature_summaries(features),
        missing=missing_values(_read_table(results / "features" / "failures.parquet")),
        stability=stability_groups(_read_table(results / "features" / "stability.parquet")),
        annotated=[s["id"] for s in annotated(settings.protocol["segmentations"])],
        readers=reader_groups(
            _read_table(results / "features" / "readings.parquet"),
            _read_table(results / "features" / "agreement.parquet"),
        ),
        release=_release(results),
        provenance=_provenance(settings),
        benchmarks=_benchmarks(results),
        stage_costs=stage_costs(outcomes),
        stability_bands=list(STABILITY_BANDS),
        max_case_rows=MAX_CASE_ROWS,
        max_flag_rows=MAX_FLAG_ROWS,
    )


def case_rows(outcomes: Iterable[Outcome], images: list[dict[str, str]]) -> list[CaseRow]:
    """Gather the table of cases: failed first, then waiting, excluded and ok, each by case_id."""
    rows: dict[str, CaseRow] = {}
    for image in images:
        row = rows.setdefault(image["case_id"], CaseRow(image["case_id"]))
        row.patient = image["patient"]
        row.images.setdefault(image["model"] or _scanner(image), []).append(image["role"])
    for outcome in outcomes:
        rows.setdefault(outcome.case_id, CaseRow(outcome.case_id)).outcomes.append(outcome)
    order = list(STAGES)
    for row in rows.values():
        row.outcomes.sort(key=lambda o: (order.index(o.stage), o.item))
    return sorted(rows.values(), key=lambda row: (-SEVERITY[row.status], row.case_id))


def cohort_flow(
    flow: dict[str, Any], outcomes: Iterable[Outcome], stages: Iterable[str]
) -> list[dict[str, Any]]:
    """Turn the filter's counts and the outcomes into boxes, each with what left before it.

    After the filter's steps comes a box a stage that lost cases, and a last one with the cases
    that went all the way. A case leaves at the first stage where one of its items fails.

    Returns:
        Boxes with ``label``, ``counts`` (word and number) and ``left``: the counts that left on
        the way to the box, with ``reasons``, and how many of them are ``waiting`` for a person.
    """
    outcomes = list(outcomes)
    boxes: list[dict[str, Any]] = []
    before: dict[str, Any] | None = None
    for step in flow["steps"]:
        counts = [(word, step[word]) for word in ("series", "patients", "cases") if word in step]
        left = []
        if before is not None:
            left = [
                (word, before[word] - step[word])
                for word in ("series", "patients")
                if before.get(word, 0) > step.get(word, 0)
            ]
        boxes.append(
            {"label": step["label"], "counts": counts, "left": left, "reasons": [], "waiting": 0}
        )
        before = step
    boxes[-1]["reasons"] = _reasons([o for o in outcomes if o.stage == "cohort"])
    remaining = (before or {}).get("cases", 0)
    gone: set[str] = {
        o.case_id for o in outcomes if o.stage == "cohort" and o.status is not Status.OK
    }
    losses = []
    for stage in stages:
        lost = [
            o
            for o in outcomes
            if o.stage == stage and o.status is not Status.OK and o.case_id not in gone
        ]
        cases = {o.case_id for o in lost}
        failed = {o.case_id for o in lost if o.status is not Status.WAITING}
        gone |= cases
        if cases:
            losses.append((stage, len(cases), len(cases - failed), _reasons(lost)))
    for stage, number, waiting, reasons in losses:
        remaining -= number
        boxes.append(
            {
                "label": f"Complete after {stage}",
                "counts": [("cases", remaining)],
                "left": [("cases", number)],
                "reasons": reasons,
                "waiting": waiting,
            }
        )
    boxes.append(
        {
            "label": "Cases with every outcome ok",
            "counts": [("cases", remaining)],
            "left": [],
            "reasons": [],
            "waiting": 0,
        }
    )
    return boxes


def _reasons(outcomes: Iterable[Outcome]) -> list[tuple[str, int]]:
    """Count cases by reason, the most frequent first, without mere consequences."""
    seen = {(o.case_id, o.reason) for o in outcomes if o.status is not Status.OK and not o.follows}
    tally = Counter(reason for _, reason in seen)
    return sorted(tally.items(), key=lambda entry: (-entry[1], entry[0]))


def stage_counts(cases: Iterable[CaseRow], stages: Iterable[str]) -> list[dict[str, Any]]:
    """Count for each stage the cases that were ok, failed, wait, were excluded or did not come."""
    cases = list(cases)
    table = []
    for stage in stages:
        tally = Counter(row.cell(stage)[0] for row in cases)
        reached = sum(tally.values()) - tally["none"]
        tally["ok"] += tally.pop("partial", 0)
        table.append({"stage": STAGES[stage], "reached": reached, **tally})
    zero = {"ok": 0, "failed": 0, "waiting": 0, "excluded": 0, "none": 0}
    return [{**zero, **entry} for entry in table]


def reason_tally(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Count items and cases by stage and reason, the most frequent first.

    Items whose input failed or waits at an earlier stage are no reason of their own and are left
    out.
    """
    items: dict[tuple[str, str, str], set[tuple[str, str]]] = defaultdict(set)
    for o in outcomes:
        if o.status is not Status.OK and not o.follows:
            items[(o.stage, o.status.value, o.reason)].add((o.case_id, o.item))
    table: list[dict[str, Any]] = [
        {
            "stage": STAGES[stage],
            "status": status,
            "reason": reason,
            "meaning": meaning(reason),
            "items": len(found),
            "cases": len({case for case, _ in found}),
        }
        for (stage, status, reason), found in items.items()
    ]
    order = list(STAGES.values())
    table.sort(key=lambda e: (-e["cases"], order.index(e["stage"]), e["reason"]))
    return table


def meaning(reason: str) -> str:
    """Return the sentence of a reason code, empty for a code that this version does not know."""
    try:
        return Reason(reason).meaning
    except ValueError:
        return ""


def segment_quality(
    quality: pd.DataFrame | None, settings: Settings, images: Iterable[dict[str, str]]
) -> dict[str, Any]:
    """Count the flags of segments, and say of each what was found and what the protocol expects.

    Args:
        quality: ``quality.parquet``.
        settings: the run's settings.
        images: the cases' series.

    Returns:
        ``expected``: names of the segments that the protocol expects something of; ``segments``:
        how many of these there are in all cases; ``tally``: code, meaning, segments and cases of
        each flag, the most frequent first; ``rows``: one a flag, by case, with ``found`` and
        ``expected``.
    """
    expectations = {
        (spec["id"], segment["name"]): segment["expect"]
        for spec in settings.protocol["segmentations"]
        for segment in spec["segments"]
        if segment.get("expect")
    }
    modality = {image["role"]: image["modality"] for image in images}
    units = {
        spec["id"]: INTENSITY_UNITS.get(modality.get(spec["role"], ""), "")
        for spec in settings.protocol["segmentations"]
    }
    entries = [] if quality is None else quality.to_dict("records")
    judged = [e for e in entries if (e["segmentation"], e["segment"]) in expectations]
    rows = []
    for entry in judged:
        expect = expectations[entry["segmentation"], entry["segment"]]
        for code in entry["flags"]:
            found, expected = _flag_words(code, entry, expect, units[entry["segmentation"]])
            keys = {key: entry[key] for key in ("case_id", "segmentation", "segment")}
            rows.append({**keys, "flag": code, "found": found, "expected": expected})
    tally = [
        {
            "flag": flag.value,
            "meaning": flag.meaning,
            "segments": sum(row["flag"] == flag for row in rows),
            "cases": len({row["case_id"] for row in rows if row["flag"] == flag}),
        }
        for flag in Flag
        if any(row["flag"] == flag for row in rows)
    ]
    return {
        "expected": [f"{segment} of {owner}" for owner, segment in expectations],
        "segments": len(judged),
        "tally": sorted(tally, key=lambda row: -row["segments"]),
        "rows": rows,
    }


def _flag_words(
    code: str, entry: Mapping[Any, Any], expect: Mapping[str, Any], unit: str
) -> tuple[str, str]:
    """Return what was found of a flagged segment, and what was expected, for reading."""
    if code == Flag.IMPLAUSIBLE_VOLUME:
        return _against(entry["volume_ml"], expect["volume_ml"], "ml")
    if code == Flag.IMPLAUSIBLE_INTENSITY:
        return _against(entry["mean"], expect["intensity"], unit)
    if code == Flag.MANY_COMPONENTS:
        most = pages.count(expect["components"])
        return f"{pages.count(entry['components'])} pieces", f"at most {most}"
    if code == Flag.TOUCHES_BORDER:
        return "at the border", "away from it"
    return f"{entry['disagreement']:.2f}", f"at most {expect['disagreement']:g}"


def _against(value: float, limits: Iterable[float], unit: str) -> tuple[str, str]:
    low, high = (f"{limit:g}".replace("-", "−") for limit in limits)
    return f"{pages.number(value)} {unit}".strip(), f"{low} to {high} {unit}".strip()


def segment_colours(settings: Settings) -> dict[tuple[str, str], str]:
    """Return the colour of each (segmentation, segment): its position in the protocol."""
    return {
        (segmentation["id"], segment["name"]): segment_colour(position)
        for segmentation in settings.protocol["segmentations"]
        for position, segment in enumerate(segmentation["segments"])
    }


def distributions(
    features: pd.DataFrame | None,
    images: list[dict[str, str]],
    colours: dict[tuple[str, str], str],
) -> list[dict[str, Any]]:
    """Draw a handful of features, a group of plots a role and segmentation.

    Returns:
        Groups with ``role``, ``segmentation`` and ``panels`` (``title``, ``unit``, ``column``,
        ``plot``).
    """
    if features is None or features.empty:
        return []
    modality = {image["role"]: image["modality"] for image in images}
    groups = []
    for key, rows in features.groupby(["role", "segmentation"], sort=True):
        role, segmentation = (str(part) for part in key)
        panels = []
        for title, unit, column in DISTRIBUTIONS:
            if column not in rows:
                continue
            strips = _strips(rows, column, segmentation, colours)
            if not strips:
                continue
            if unit == "intensity":
                unit = INTENSITY_UNITS.get(modality.get(role, ""), "arbitrary units")
            name = f"{title} of each segment of {segmentation} in {role}"
            panels.append(
                {
                    "title": title,
                    "unit": unit,
                    "column": column,
                    "plot": plots.strip_plot(name, strips),
                }
            )
        groups.append({"role": role, "segmentation": segmentation, "panels": panels})
    return groups


def _strips(
    rows: pd.DataFrame, column: str, segmentation: str, colours: dict[tuple[str, str], str]
) -> list[plots.Strip]:
    order = [segment for owner, segment in colours if owner == segmentation]
    present = [s for s in order if s in set(rows["segment"])]
    strips = []
    for segment in present:
        values = rows.loc[rows["segment"] == segment, ["case_id", column]].dropna()
        points = [(str(case), float(value)) for case, value in values.itertuples(index=False)]
        if points:
            strips.append(plots.Strip(segment, colours[segmentation, segment], points))
    return strips


def feature_summaries(features: pd.DataFrame | None) -> dict[str, Any]:
    """Summarise every feature of every segment.

    Returns:
        ``groups``: for each role, segmentation and segment the rows (feature, n, missing, mean,
        standard deviation with n − 1, median); ``left_out``: groups beyond `MAX_SUMMARIES`. A
        feature that no segment of a segmentation has was not asked for there.
    """
    if features is None or features.empty:
        return {"groups": [], "left_out": 0}
    asked: dict[Any, list[str]] = {
        segmentation: [c for c in feature_columns(features) if rows[c].notna().any()]
        for segmentation, rows in features.groupby("segmentation")
    }
    groups: list[dict[str, Any]] = []
    grouped = features.groupby(["role", "segmentation", "segment"], sort=True)
    for (role, segmentation, segment), rows in grouped:
        if len(groups) == MAX_SUMMARIES:
            break
        columns = asked[segmentation]
        values = rows[columns].astype(float)
        n, mean, sd, median = values.count(), values.mean(), values.std(ddof=1), values.median()
        groups.append(
            {
                "title": f"{segment} · {role} · {segmentation}",
                "rows": [
                    (c, int(n[c]), len(rows) - int(n[c]), mean[c], sd[c], median[c])
                    for c in columns
                ],
            }
        )
    return {"groups": groups, "left_out": grouped.ngroups - len(groups)}


def feature_columns(features: pd.DataFrame) -> list[str]:
    """Return the columns that hold features: the volume and what follows the fixed columns."""
    fixed = set(FEATURE_COLUMNS) - {"volume_ml"}
    return [column for column in features.columns if column not in fixed]


def missing_values(failures: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Count missing values by segment, feature and reason, the most frequent first."""
    if failures is None or failures.empty:
        return []
    keys = ["role", "segmentation", "segment", "feature", "reason"]
    tally = failures.groupby(keys)["case_id"].nunique().reset_index(name="cases")
    tally = tally.sort_values(["cases", *keys], ascending=[False] + [True] * len(keys))
    tally["meaning"] = tally["reason"].map(meaning)
    return [{str(k): value for k, value in row.items()} for row in tally.to_dict("records")]


def stability_groups(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Sort the features of each segment by how well they agree when its outline changes.

    The bands are those of Koo and Li 2016, "A guideline of selecting and reporting intraclass
    correlation coefficients for reliability research", J Chiropr Med 15:155-163.

    Returns:
        For each role, segmentation and segment: ``title``, ``measurements``, ``cases`` (the most
        that a feature has), ``classes`` (name, features, count in each of `STABILITY_BANDS`, and
        undefined) and ``rows`` (feature, cases, icc, lower, upper), the least stable first.
    """
    if table is None or table.empty:
        return []
    groups = []
    for (role, segmentation, segment), rows in table.groupby(["role", "segmentation", "segment"]):
        classes: dict[str, Counter[str]] = defaultdict(Counter)
        for feature, icc in zip(rows["feature"], rows["icc"], strict=True):
            image, name, _ = feature.split("_", 2)
            band = next((b for b, low in STABILITY_BANDS.items() if icc >= low), "undefined")
            classes[name if image == "original" else f"{name}, {image}"][band] += 1
        ordered = rows.sort_values(["icc", "feature"], na_position="last")
        columns = ["feature", "cases", "icc", "lower", "upper"]
        groups.append(
            {
                "title": f"{segment} · {role} · {segmentation}",
                "cases": int(rows["cases"].max()),
                "measurements": int(rows["measurements"].max()),
                "classes": [
                    (name, sum(bands.values()), [bands[b] for b in STABILITY_BANDS])
                    for name, bands in sorted(classes.items())
                ],
                "rows": list(ordered[columns].itertuples(index=False, name=None)),
            }
        )
    return groups


def reader_groups(
    readings: pd.DataFrame | None, agreement: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """Sum up what readers sent back, and how far they agree, by segmentation.

    Returns:
        For each segmentation: ``title``, ``readers`` (name, files, files that are used, cases
        accepted unchanged, cases with a proposal), ``pairs`` (segment, reader, other, cases, mean
        and least Dice coefficient, mean surface distance and 95th percentile of the Hausdorff
        distance in mm, each the mean over the cases) and ``rows``, the same of every case, the
        least Dice coefficient first.
    """
    if readings is None or agreement is None or readings.empty:
        return []
    groups = []
    for segmentation, files in readings.groupby("segmentation"):
        compared = agreement[agreement["segmentation"] == segmentation]
        pairs = []
        for (segment, other, reader), rows in compared.groupby(["segment", "other", "reader"]):
            dice, *distances = rows[list(AGREEMENT_VALUES)].mean()
            least = rows["dice"].min()
            pairs.append((segment, reader, other, len(rows), dice, least, *distances))
        columns = ["case_id", "segment", "reader", "other", *AGREEMENT_VALUES]
        ordered = compared.sort_values(["dice", *columns[:4]], na_position="last")
        groups.append(
            {
                "title": segmentation,
                "readers": [
                    (
                        name,
                        len(sent),
                        int(sent["used"].sum()),
                        int(sent["unchanged"].eq(True).sum()),
                        int(sent["unchanged"].notna().sum()),
                    )
                    for name, sent in files.groupby("reader")
                ],
                "pairs": pairs,
                "rows": list(ordered[columns].itertuples(index=False, name=None)),
            }
        )
    return groups


def stage_costs(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Return for each stage how long an item took and the highest memory, from the outcomes."""
    by_stage: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if not outcome.follows and outcome.stage != "cohort":
            by_stage[outcome.stage].append(outcome)
    costs = []
    for stage in (stage for stage in STAGES if stage in by_stage):
        seconds = sorted(o.seconds for o in by_stage[stage])
        costs.append(
            {
                "stage": STAGES[stage],
                "items": len(seconds),
                "total": math.fsum(seconds),
                "median": plots.quantile(seconds, 0.5),
                "longest": seconds[-1],
                "peak_mb": max(o.max_rss_mb for o in by_stage[stage]),
            }
        )
    return costs


def _read_table(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    import pandas as pd

    return pd.read_parquet(path)


def _read_tsv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def _images(path: Path) -> list[dict[str, str]]:
    """Read the cases' series, sorted by case and role."""
    return sorted(_read_tsv(path), key=lambda row: (row["case_id"], row["role"]))


def _scanner(image: dict[str, str]) -> str:
    words = f"{image.get('manufacturer', '')} {image.get('model', '')}".strip()
    return words or "unknown scanner"


def _scanners(images: Iterable[dict[str, str]]) -> list[tuple[str, str, int]]:
    tally = Counter((image["role"], _scanner(image)) for image in images)
    return sorted(((role, scanner, n) for (role, scanner), n in tally.items()))


def _patient_ids(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=["PatientID"]).column(0)
    return {identifier for identifier in column.unique().to_pylist() if identifier}


def _catalog(folder: Path, redact: Callable[[str], str]) -> dict[str, Any] | None:
    """Read the catalog's counts and the files that were not read, without their paths."""
    if not (folder / "summary.json").is_file():
        return None
    catalog: dict[str, Any] = {"summary": read_json(folder / "summary.json"), "unreadable": []}
    skipped = _read_table(folder / "skipped.parquet")
    if skipped is not None:
        rows = [
            {
                "row": row,
                "suffix": Path(entry["path"]).suffix[:8] or "none",
                "reason": redact(entry["reason"]),
            }
            for row, entry in enumerate(skipped.to_dict("records"))
            if entry["kind"] == "unreadable"
        ]
        catalog["unreadable"] = rows[:MAX_SKIPPED_ROWS]
    return catalog


def _queries(path: Path, redact: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return what each PACS was asked, and how many series it answered with."""
    if not path.is_file():
        return []
    rows = []
    for source, asked in read_json(path)["sources"].items():
        for query in asked["queries"]:
            keys = ", ".join(f"{name} = {value}" for name, value in sorted(query["keys"].items()))
            rows.append(
                {"source": source, "asked": redact(keys) or "everything", "series": query["series"]}
            )
        if "annotations" in asked:
            kinds = " or ".join(asked["annotations"]["keys"]["Modality"])
            rows.append(
                {
                    "source": source,
                    "asked": f"{kinds} of the patients of the cohort",
                    "series": asked["annotations"]["series"],
                }
            )
    return rows


def _pictures(
    folder: Path,
    settings: Settings,
    features: pd.DataFrame | None,
    quality: pd.DataFrame | None,
    colours: dict[tuple[str, str], str],
) -> dict[str, Any]:
    """Embed the overlays, each made small enough for all to fit the page's budget."""
    order = [segmentation["id"] for segmentation in settings.protocol["segmentations"]]
    by_case = [
        [file for s in order if (file := case / f"{s}.png").is_file()]
        for case in (sorted(folder.iterdir()) if folder.is_dir() else [])
    ]
    # Complete cases first, so that the pictures of a case stand side by side.
    files = [file for case in sorted(by_case, key=len, reverse=True) for file in case]
    volumes = _volumes(features)
    flagged = _flagged(quality)
    limit = PICTURE_BUDGET // max(1, min(len(files), MAX_PICTURES))
    roles = {s["id"]: s["role"] for s in settings.protocol["segmentations"]}
    cards = []
    for file in files[:MAX_PICTURES]:
        case, segmentation = file.parent.name, file.stem
        data, size = shrink(file.read_bytes(), limit)
        segments = [
            (
                segment,
                colour,
                volumes.get((case, segmentation, segment)),
                (case, segmentation, segment) in flagged,
            )
            for (owner, segment), colour in colours.items()
            if owner == segmentation
        ]
        cards.append(
            {
                "case": case,
                "segmentation": segmentation,
                "role": roles.get(segmentation, ""),
                "segments": segments,
                "width": size[0],
                "height": size[1],
                "source": "data:image/webp;base64," + base64.b64encode(data).decode(),
            }
        )
    return {"cards": cards, "all": len(files), "open": OPEN_PICTURES}


def _volumes(features: pd.DataFrame | None) -> dict[tuple[str, str, str], float]:
    if features is None:
        return {}
    columns = features[["case_id", "segmentation", "segment", "volume_ml"]].dropna()
    return {
        (case, segmentation, segment): float(volume)
        for case, segmentation, segment, volume in columns.itertuples(index=False)
    }


def _flagged(quality: pd.DataFrame | None) -> set[tuple[str, str, str]]:
    """Return case, segmentation and segment of those that have a flag."""
    if quality is None:
        return set()
    columns = quality.loc[quality["flags"].map(len) > 0, ["case_id", "segmentation", "segment"]]
    return set(columns.itertuples(index=False, name=None))


def shrink(png: bytes, limit: int) -> tuple[bytes, tuple[int, int]]:
    """Encode a picture as WebP in at most `limit` bytes, as good as that allows.

    Quality is given up first, then size; the smallest of all is taken where none fits.

    Returns:
        The file and its width and height in pixels.
    """
    from PIL import Image

    original = Image.open(io.BytesIO(png)).convert("RGB")
    for scale, quality in ((1.0, 82), (1.0, 68), (0.8, 66), (0.62, 62), (0.5, 50)):
        size = (round(original.width * scale), round(original.height * scale))
        picture = original if scale == 1 else original.resize(size, Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, format="WEBP", quality=quality, method=4)
        if stream.tell() <= limit:
            break
    return stream.getvalue(), size


def _release(results: Path) -> dict[str, Any] | None:
    """Read the disclosure of the latest release candidate of these outcomes."""
    rounds = sorted(results.glob("release/r*/disclosure.json"))
    # A candidate that is older than the outcomes was made of others and would mislead.
    made = (results / "outcomes.parquet").stat().st_mtime
    if not rounds or rounds[-1].stat().st_mtime < made:
        return None
    return {"round": rounds[-1].parent.name, **disclosure_summary(read_json(rounds[-1]))}


def _provenance(settings: Settings) -> dict[str, Any]:
    versions = []
    for package in PACKAGES:
        try:
            versions.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": versions,
        "site_sha256": canonical_digest(settings.site),
        "models": _models(settings),
    }


def _models(settings: Settings) -> list[tuple[str, str, str]]:
    """Return name, file and SHA-256 of the files of each model that the protocol uses."""
    names = sorted({s["model"] for s in settings.protocol["segmentations"] if "model" in s})
    known = read_yaml(MODELS)["models"] if names and MODELS.is_file() else {}
    rows = []
    for name in names:
        files = known.get(name, {}).get("files", {})
        pairs = (
            files.items()
            if isinstance(files, dict)
            else ((entry["path"], entry["sha256"]) for entry in files)
        )
        rows += [(name, str(file), str(sha256)) for file, sha256 in pairs]
    return rows


def _benchmarks(results: Path) -> list[dict[str, Any]]:
    """Sum up Snakemake's benchmark files by rule: jobs, total and longest time, peak memory.

    Only rules that end before the report begins, so that a report made again is the same.
    """
    table = []
    for rule in ("catalog", "query", "cohort", *(s for s in STAGES if s != "cohort"), "collect"):
        folder = results / "benchmarks"
        files = [results.parent / "catalog" / "catalog.tsv"] if rule == "catalog" else []
        files += [folder / f"{rule}.tsv", *sorted((folder / rule).glob("*.tsv"))]
        rows = [row for file in files if file.is_file() for row in _read_tsv(file)]
        memory = [value for row in rows if (value := _measured(row.get("max_rss"))) is not None]
        if rows:
            seconds = [float(row["s"]) for row in rows]
            table.append(
                {
                    "rule": rule,
                    "jobs": len(seconds),
                    "total": math.fsum(seconds),
                    "longest": max(seconds),
                    "peak_mb": max(memory, default=None),
                }
            )
    return table


def _measured(text: str | None) -> float | None:
    """Return a number of a benchmark file, None where the job was too short to be measured."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
