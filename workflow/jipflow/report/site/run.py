"""What a run left in its results folder, as far as several sections of the report read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jipflow.files import read_frame, read_json, read_parquet, read_tsv
from jipflow.outcomes import STAGES as OUTCOME_STAGES
from jipflow.outcomes import Outcome, read_outcomes
from jipflow.palette import segment_colour
from jipflow.privacy.redaction import Redactor
from jipflow.reasons import Reason
from jipflow.settings.protocol import SegmentationSettings, annotated
from jipflow.settings.run import Settings

if TYPE_CHECKING:
    import pandas as pd

STAGES = {stage: stage.capitalize() for stage in OUTCOME_STAGES}
"""The stages that write outcomes, in their order, with the names that people read."""

INTENSITY_UNITS = {"CT": "HU", "PT": "SUV"}
"""Unit of a volume's voxels by modality; of SUV that is not by body weight its type is added."""


@dataclass(frozen=True)
class Run:
    """A run at a site, as its files tell it.

    Attributes:
        results: the protocol's results folder.
        joined: folder of the tables of all shards: the same, or that of a subset.
        settings: the run's settings.
        verdict: content of ``verdict.json``.
        outcomes: every item of every case at every stage.
        images: the rows of ``cohort/cases.tsv``, one a case and role, sorted by these; of the
            subset alone, where it is one.
        redact: takes what may identify a patient out of a message.
    """

    results: Path
    joined: Path
    settings: Settings
    verdict: Mapping[str, Any]
    outcomes: list[Outcome]
    images: list[dict[str, str]]
    redact: Redactor

    @cached_property
    def features(self) -> pd.DataFrame | None:
        """The table of features."""
        return optional_frame(self.joined / "features" / "features.parquet")

    @cached_property
    def quality(self) -> pd.DataFrame | None:
        """The table of what each segment is like."""
        return optional_frame(self.joined / "features" / "quality.parquet")

    @property
    def subset(self) -> Mapping[str, int] | None:
        """How many of how many cases a first try is of; None for the whole cohort."""
        found: Mapping[str, int] | None = self.verdict.get("subset")
        return found

    @cached_property
    def case_ids(self) -> set[str]:
        """The cases that the page is about."""
        return {image["case_id"] for image in self.images}

    @property
    def segmentations(self) -> Sequence[SegmentationSettings]:
        """The protocol's segmentations."""
        return self.settings.protocol.segmentations

    @property
    def annotated(self) -> list[str]:
        """Ids of the segmentations that persons make."""
        return [spec.id for spec in annotated(self.segmentations)]

    @property
    def stages(self) -> list[str]:
        """The stages that cases came to after the cohort, in their order."""
        reached = {outcome.stage for outcome in self.outcomes}
        return [stage for stage in STAGES if stage != "cohort" and stage in reached]

    @property
    def colours(self) -> dict[tuple[str, str], str]:
        """The colour of each (segmentation, segment), by its position in the protocol."""
        return {
            (spec.id, segment.name): segment_colour(position)
            for spec in self.segmentations
            for position, segment in enumerate(spec.segments)
        }

    def intensity_unit(self, role: str) -> str | None:
        """Return the unit of the voxels of a role's series; None where it is arbitrary."""
        modality = {image["role"]: image["modality"] for image in self.images}
        unit = INTENSITY_UNITS.get(modality.get(role, ""))
        suv = self.settings.protocol.roles[role].suv_type
        return f"SUV {suv.lower()}" if unit == "SUV" and suv != "BW" else unit


def read_run(results: Path, settings: Settings, joined: Path | None = None) -> Run:
    """Read what the sections share.

    Args:
        results: the protocol's results folder; ``cohort/`` must be there.
        settings: the run's settings.
        joined: folder of ``outcomes.parquet`` and ``verdict.json``; by default `results`.
    """
    joined = joined or results
    catalogs = (results.parent / "catalog", results / "pacs")
    images = read_tsv(results / "cohort" / "cases.tsv")
    outcomes = read_outcomes(joined / "outcomes.parquet")
    verdict = read_json(joined / "verdict.json")
    if "subset" in verdict:
        cases = {outcome.case_id for outcome in outcomes}
        images = [row for row in images if row["case_id"] in cases]
    return Run(
        results=results,
        joined=joined,
        settings=settings,
        verdict=verdict,
        outcomes=outcomes,
        images=sorted(images, key=lambda row: (row["case_id"], row["role"])),
        redact=Redactor({p for c in catalogs for p in _patient_ids(c / "series.parquet")}),
    )


def optional_frame(path: Path) -> pd.DataFrame | None:
    """Read a Parquet table; None where the run did not write it."""
    if not path.is_file():
        return None
    return read_frame(path)


def scanner(image: Mapping[str, str]) -> str:
    """Return manufacturer and model of the scanner of a row of ``cases.tsv``."""
    words = f"{image.get('manufacturer', '')} {image.get('model', '')}".strip()
    return words or "unknown scanner"


def meaning(reason: str) -> str:
    """Return the sentence of a reason code, empty for a code that this version does not know."""
    try:
        return Reason(reason).meaning
    except ValueError:
        return ""


def _patient_ids(path: Path) -> set[str]:
    if not path.is_file():
        return set()

    column = read_parquet(path, ["PatientID"]).column(0)
    return {identifier for identifier in column.unique().to_pylist() if identifier}
