"""Stage `measure`: radiomic features of each segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import SimpleITK as sitk
from threadpoolctl import threadpool_limits

import jipflow
from jipflow.cases import Case
from jipflow.files import canonical_digest
from jipflow.images.masks import read_segmentation
from jipflow.images.volume import Volume, read_volume, volume_path
from jipflow.outcomes import Made, Outcome, Status, attempt, blocked
from jipflow.radiomics.extract import Part, extract, extract_perturbed
from jipflow.reasons import CaseFault, Reason
from jipflow.settings.protocol import RadiomicsEntry
from jipflow.settings.radiomics import Radiomics
from jipflow.settings.run import Settings
from jipflow.tables import FAILURE_COLUMNS, FEATURE_COLUMNS, FEATURE_KEYS, PERTURBED_KEYS
from jipflow.workers import for_each_case

STAGE = "measure"

ENGINE = ("pyradiomics", "numpy", "scipy", "SimpleITK", "PyWavelets", "connected-components-3d")
"""The packages whose versions may show in the last digits of a feature."""


def run(
    *,
    cases: Sequence[Case],
    segmented: set[tuple[str, str]],
    settings: Settings,
    volumes: Path,
    masks: Path,
    threads: int,
) -> Tables:
    """Measure each segment that the protocol asks for.

    Args:
        cases: the shard's cases.
        segmented: (case_id, segmentation) of the masks that are there.
        settings: of the site and the protocol.
        volumes: folder of ``<case_id>/<role>.nrrd``.
        masks: folder of ``<case_id>/<segmentation>/``.
        threads: processes.

    Returns:
        The tables, whatever the number of threads, and the outcomes.
    """
    entries = [
        Entry(
            entry,
            settings.radiomics(entry),
            {entry.role, *settings.needed_roles(entry.segmentation)},
        )
        for entry in settings.protocol.radiomics
    ]
    # Where there are more cores than cases, several share the regions of one.
    shares = max(1, threads // max(1, len(cases)))
    units = [(case, share) for case in cases for share in range(shares)]
    work = partial(
        _measure_share,
        shares=shares,
        segmented=segmented,
        entries=entries,
        volumes=volumes,
        masks=masks,
    )
    found = Rows()
    outcomes = []
    for result in _joined(for_each_case(units, work, threads)):
        outcomes.append(result.outcome)
        found.add(result.rows)
    return Tables(
        feature_table(found.features),
        failure_table(found.failures),
        perturbed_table(found.perturbed),
        outcomes,
    )


def _joined(parts: Sequence[Measured]) -> list[Measured]:
    """Return what was measured of each segmentation of each case, whoever measured its regions."""
    by_entry: dict[tuple[str, int], list[Measured]] = {}
    for part in parts:
        by_entry.setdefault((part.outcome.case_id, part.entry), []).append(part)
    return [_whole(held) for held in by_entry.values()]


def _whole(parts: Sequence[Measured]) -> Measured:
    failed = [part for part in parts if part.outcome.status is not Status.OK]
    if failed:
        # An error that nobody knew is tried again, and is not to be hidden by one that is known.
        unknown = [part for part in failed if part.outcome.reason == Reason.UNEXPECTED_ERROR.value]
        return (unknown or failed)[0]
    whole = Measured(parts[0].entry, parts[0].outcome, Rows())
    for part in parts:
        whole.rows.add(part.rows)
    if nulls := len(whole.rows.failures):
        whole.outcome.message = f"{nulls} features are null, see features/failures.parquet"
    whole.outcome.seconds = sum(part.outcome.seconds for part in parts)
    whole.outcome.max_rss_mb = max(part.outcome.max_rss_mb for part in parts)
    return whole


@dataclass(frozen=True)
class Tables:
    """What the stage gives.

    Attributes:
        features: one row per case, role and segment, a float64 column per feature, null where it
            failed.
        failures: why each null is null.
        perturbed: the features of changed outlines, where the protocol asks for them.
        outcomes: of each segmentation of each case.
    """

    features: pa.Table
    failures: pa.Table
    perturbed: pa.Table
    outcomes: list[Outcome]


@dataclass
class Rows:
    """Rows of the tables."""

    features: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    perturbed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, others: Rows) -> None:
        """Add the rows of others."""
        self.features += others.features
        self.failures += others.failures
        self.perturbed += others.perturbed


@dataclass(frozen=True)
class Entry:
    """What is to be measured.

    Attributes:
        entry: of the protocol's ``radiomics``.
        parameters: the radiomics settings that it names.
        roles: those without which a case has nothing to measure.
    """

    entry: RadiomicsEntry
    parameters: Radiomics
    roles: set[str]


@dataclass
class Measured:
    """What an entry of the protocol gives for a case, or for some of its regions.

    Attributes:
        entry: its place in the protocol's ``radiomics``.
        outcome: of the segmentation.
        rows: of the tables.
    """

    entry: int
    outcome: Outcome
    rows: Rows


def feature_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as the features table, sorted, with columns in a fixed order."""
    whole = ("voxels", "measured_voxels")
    texts = (*FEATURE_KEYS, "measured_box", "settings_sha256", "versions")
    types = dict.fromkeys(whole, pa.int64()) | dict.fromkeys(texts, pa.string())
    return _table(rows, FEATURE_COLUMNS, FEATURE_KEYS, types)


def perturbed_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of changed outlines as a table, sorted, with columns in a fixed order."""
    return _table(rows, PERTURBED_KEYS, PERTURBED_KEYS, dict.fromkeys(PERTURBED_KEYS, pa.string()))


def failure_table(failures: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return failures as a table, sorted."""
    types = dict.fromkeys(FAILURE_COLUMNS, pa.string())
    return _table(failures, FAILURE_COLUMNS, FAILURE_COLUMNS, types)


def _table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    order: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> pa.Table:
    """Return rows as a table: the columns, then the others by name; float64 but for `types`."""
    others = sorted({name for row in rows for name in row} - set(columns))
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in (*columns, *others)])
    ordered = sorted(rows, key=lambda row: [row[name] for name in order])
    return pa.Table.from_pylist([dict(row) for row in ordered], schema=schema)


def _measure_share(
    unit: tuple[Case, int],
    shares: int,
    segmented: set[tuple[str, str]],
    entries: Sequence[Entry],
    volumes: Path,
    masks: Path,
) -> list[Measured]:
    """Measure of a case, in so many shares of its regions, the one of that number."""
    case, share = unit
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    # Several segmentations of a role are measured in one reading of its series.
    read = cache(lambda role: read_volume(volume_path(volumes, case.case_id, role)))
    measured = []
    for number, wanted in enumerate(entries):
        entry, parameters = wanted.entry, wanted.parameters
        segmentation, role = entry.segmentation, entry.role
        if not case.roles.keys() >= wanted.roles:
            continue
        # Regions that lie together are filtered together, which changes last digits.
        apart = parameters.plain()["imageType"].keys() <= {"Original"}
        if share and not apart:
            continue
        rows = Rows()
        if (case.case_id, segmentation) in segmented:
            regions = slice(share, None, shares if apart else 1)
            work = partial(_measure, case, entry, parameters, read, masks, regions, rows)
            outcome = attempt(case.case_id, STAGE, segmentation, work, masks)
            if outcome.status is not Status.OK:
                failure = {
                    "case_id": case.case_id,
                    "role": role,
                    "segmentation": segmentation,
                    "segment": "*",
                    "feature": "*",
                    "reason": outcome.reason,
                    "message": outcome.message,
                }
                rows = Rows(failures=[failure])
        else:
            outcome = blocked(case.case_id, STAGE, segmentation, f"the mask {segmentation!r}")
        measured.append(Measured(number, outcome, rows))
    return measured


def _measure(
    case: Case,
    entry: RadiomicsEntry,
    parameters: Radiomics,
    read: Callable[[str], Volume],
    masks: Path,
    regions: slice,
    rows: Rows,
) -> Made:
    """Measure segments of one segmentation on the image of a role, into the tables' rows."""
    role, name = entry.role, entry.segmentation
    volume = read(role)
    segmentation = read_segmentation(masks / case.case_id / name)
    if not segmentation.grid.matches(volume.grid):
        raise CaseFault(
            Reason.GRID_MISMATCH,
            f"case {case.case_id}: segmentation {name!r} lies on a grid of "
            f"{segmentation.grid.shape} voxels, the image of {role} on one of "
            f"{volume.grid.shape}, or elsewhere; segment the series that is measured.",
        )
    digest = canonical_digest(parameters.plain())
    boxes = list(segmentation.boxes())[regions]
    parts = [Part(mask, corner) for _, mask, corner in boxes]
    # More threads would change the order of sums, and so the last digits.
    with threadpool_limits(1, user_api="blas"):
        extractions = extract(volume, parts, parameters)
        if entry.stability is not None:
            seeds = [f"{case.case_id} {name} {segment.name}" for segment, _, _ in boxes]
            changed = extract_perturbed(volume, parts, parameters, entry.stability, seeds)
        else:
            changed = [{} for _ in parts]
    for (segment, mask, _), extraction, changes in zip(boxes, extractions, changed, strict=True):
        key = {"case_id": case.case_id, "role": role, "segmentation": name, "segment": segment.name}
        voxels = int(mask.sum())
        rows.perturbed += [
            {**key, "patient": case.patient, "perturbation": change, **found.values}
            for change, found in changes.items()
        ]
        rows.features.append(
            {
                **key,
                "patient": case.patient,
                "voxels": voxels,
                "volume_ml": voxels * volume.grid.voxel_volume / 1000.0,
                "measured_voxels": extraction.voxels,
                "measured_box": extraction.box,
                "settings_sha256": digest,
                "versions": versions(),
                **extraction.values,
            }
        )
        rows.failures += [
            {**key, **asdict(problem), "reason": problem.reason.value}
            for problem in extraction.failures
        ]
    return Made()


@cache
def versions() -> str:
    """Return jipflow's version and those of the packages that compute."""
    known = [f"jipflow {jipflow.__version__}"]
    return ", ".join([*known, *(f"{name} {metadata.version(name)}" for name in ENGINE)])
