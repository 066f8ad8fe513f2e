"""Why a case of the cohort has no value: the tables of the stages, read as one reason a value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jipflow.absences import OF_CLINICAL, OF_CODE, OF_FEATURES, Absence
from jipflow.analyses.cells import CLINICAL, CellKey
from jipflow.files import read_frame
from jipflow.outcomes import Outcome, Status, passed, read_outcomes
from jipflow.release.contents import ReleaseError
from jipflow.settings.protocol import Protocol

STAGES = ("retrieve", "prepare", "segment", "annotate", "encode", "measure")
"""On the way to a value, in their order."""

EVERY = "*"
"""In ``failures.parquet``: all segments or features."""


@dataclass(frozen=True)
class Reasons:
    """What the tables of a run say of values that are not there.

    Attributes:
        roles: of which there is a series, by case.
        segmented_on: the role of each segmentation.
        ended: by case and item, why it went no further, and at which stage.
        failures: codes by case, role, segmentation, segment and feature.
        done: cases and segmentations that were measured.
        measured: cases, roles, segmentations and segments that have a row of features.
        gaps: codes by case and clinical variable.
    """

    roles: Mapping[str, Collection[str]]
    segmented_on: Mapping[str, str]
    ended: Mapping[tuple[str, str], tuple[int, str]]
    failures: Mapping[tuple[str, ...], str]
    done: Collection[tuple[str, str]]
    measured: Collection[tuple[str, ...]]
    gaps: Mapping[tuple[str, str], str]

    def absence(self, case: str, key: CellKey) -> Absence:
        """Return why a case has no value of a cell.

        Raises:
            ReleaseError: a clinical variable has neither a value nor a reason; names the case.
        """
        if key.place == CLINICAL:
            reason = OF_CODE.get(self.gaps.get((case, key.feature), ""))
            if reason is None or reason not in OF_CLINICAL:
                raise ReleaseError(
                    f"clinical/missing.parquet: case {case} has no {key.feature} and no reason of "
                    "it; run clinical again."
                )
            return reason
        return self._of_feature(case, key)

    def _of_feature(self, case: str, key: CellKey) -> Absence:
        needed = dict.fromkeys((self.segmented_on[key.segmentation], key.role))
        if any(role not in self.roles[case] for role in needed):
            return Absence.NO_IMAGE
        items = (*needed, key.segmentation)
        ended = [self.ended[case, item] for item in items if (case, item) in self.ended]
        if ended:
            return _of_code(min(ended)[1])
        if (case, key.segmentation) not in self.done:
            return Absence.OTHER
        place = (case, key.role, key.segmentation)
        for segment, feature in ((key.segment, key.feature), (key.segment, EVERY), (EVERY, EVERY)):
            if (*place, segment, feature) in self.failures:
                return _of_code(self.failures[*place, segment, feature])
        return Absence.UNDEFINED if (*place, key.segment) in self.measured else Absence.NO_REGION


def _of_code(code: str) -> Absence:
    """Return what a code of an outcome or of a feature counts as."""
    found = OF_CODE.get(code)
    return found if found is not None and found in OF_FEATURES else Absence.OTHER


def read_reasons(
    *,
    protocol: Protocol,
    roles: Mapping[str, Collection[str]],
    features: Path,
    failures: Path,
    outcomes: Path,
    missing: Path | None,
) -> Reasons:
    """Read why values of a run are not there.

    Args:
        protocol: of the run.
        roles: of which there is a series, by case of the cohort.
        features: ``features.parquet``.
        failures: ``failures.parquet``.
        outcomes: ``outcomes.parquet`` of all stages.
        missing: ``missing.parquet``, where the protocol has clinical variables.
    """

    keys = ["case_id", "role", "segmentation", "segment"]
    failed = read_frame(failures, [*keys, "feature", "reason"])
    gaps: dict[tuple[str, str], str] = {}
    if missing is not None:
        table = read_frame(missing)
        gaps = {(c, v): r for c, v, r in table[["case_id", "variable", "reason"]].to_numpy()}
    every = read_outcomes(outcomes)
    return Reasons(
        roles=roles,
        segmented_on={each.id: each.role for each in protocol.segmentations},
        ended=_ended(every),
        failures={tuple(row[:-1]): row[-1] for row in failed.to_numpy()},
        done=passed(each for each in every if each.stage == "measure"),
        measured=set(map(tuple, read_frame(features, keys).to_numpy())),
        gaps=gaps,
    )


def _ended(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], tuple[int, str]]:
    """Return of each item that went no further at which stage, and why: by its own first reason."""
    found: dict[tuple[str, str], list[tuple[bool, int, str]]] = defaultdict(list)
    for each in outcomes:
        if each.status is not Status.OK and each.stage in STAGES:
            place = (each.follows, STAGES.index(each.stage), each.reason)
            found[each.case_id, each.item].append(place)
    return {item: min(places)[1:] for item, places in found.items()}
