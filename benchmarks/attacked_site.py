"""A site and who asks it: a steward approves whatever is asked, and the attacker keeps all of it.

The site is real: a candidate is built from its tables, approved with a person's key, packed, and
kept in the ledger. What the attacker chooses is a protocol with any analyses, variables, edges,
limits and names of segmentations, and which patients the filter of the cohort lets through.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))

from federation_world import Site, protocol, site
from jipflow.analyses.histogram import Histogram, bin_index
from jipflow.analyses.rules import Passed
from jipflow.analyses.summary import Summary
from jipflow.outcomes import Outcome, write_outcomes
from jipflow.release import gate
from jipflow.release.history import History
from jipflow.settings.run import settings_of

BUDGET = 1000
"""Requests that the steward approves."""

VOLUME, LOAD, BAIT = "volume_ml", "original_firstorder_Energy", "original_glcm_MCC"
"""A volume that everyone has, a load that few have, and a texture that always leaves again."""

LIVER = ("organs", "liver")

DEMO = np.array([1375.771, 1441.599, 1499.03, *np.linspace(1108.43, 1272.59, 10)])
"""Liver volumes in ml of the thirteen patients of the demonstration's first site."""


Mode = Literal["minimum", "forgetful", "now"]


class Spent(Exception):
    """All requests are used up."""


@dataclass
class Answer:
    """What the attacker has after a request.

    Attributes:
        cells: what left, by analysis, segment and feature.
        rules: what each rule found, likewise; nothing where no cell left, for then no record does.
    """

    cells: Mapping[tuple[str, str, str], Mapping[str, Any]]
    rules: Mapping[tuple[str, str, str], Mapping[str, str]]

    def __call__(self, name: str) -> Mapping[str, Any] | None:
        """Return the only cell of an analysis, or None where it was withheld."""
        found = [cell for key, cell in self.cells.items() if key[0] == name]
        return found[0] if found else None

    def found(self, name: str) -> Mapping[str, str]:
        """Return what each rule found for the only cell of an analysis."""
        return next((found for key, found in self.rules.items() if key[0] == name), {})


@dataclass
class Target:
    """A site that answers.

    Attributes:
        world: the site.
        values: of all its patients by feature, each of shape (patients,).
        minimum: fewest patients.
        mode: whether the minimum is its only rule, or it has all but remembers nothing, or it is as
            it is.
        budget: requests that its steward approves.
        asked: how many requests were made.
        noise: what its site lets noise take of each patient; None where none leaves.
    """

    world: Site
    values: dict[str, NDArray[np.float64]]
    minimum: int
    mode: Mode
    budget: int = BUDGET
    asked: int = 0
    noise: float | None = None
    patients: int = field(init=False)

    def __post_init__(self) -> None:
        self.patients = len(self.values[VOLUME])

    @classmethod
    def at(
        cls, root: Path, patients: int, minimum: int, *, mode: Mode, budget: int = BUDGET
    ) -> Target:
        """Return a site of patients whose livers are as large as livers are."""
        rng = np.random.default_rng(7)
        volumes = DEMO if patients == DEMO.size else rng.normal(1500, 300, patients)
        values = {
            VOLUME: rng.permutation(volumes),
            LOAD: np.where(np.arange(patients) == 0, 42.5, 0.0),
            BAIT: rng.normal(500, 1, patients),
        }
        return cls(site(root, "north", minimum=minimum), values, minimum, mode, budget)

    @property
    def sd(self) -> float:
        """Standard deviation of the volumes."""
        return float(self.values[VOLUME].std(ddof=1))

    def rows(
        self,
        patients: Sequence[int] | NDArray[np.intp] | None = None,
        place: tuple[str, str] = LIVER,
        role: str = "CT",
        **changed: NDArray[np.float64],
    ) -> pd.DataFrame:
        """Return what is measured of patients at a place; changed features are of all patients."""
        chosen = np.arange(self.patients) if patients is None else np.asarray(patients)
        columns = {name: v[chosen] for name, v in (self.values | changed).items()}
        names = {
            "case_id": [f"case{i:04d}" for i in chosen],
            "patient": [f"pseudo{i:04d}" for i in chosen],
            "role": role,
            "segmentation": place[0],
            "segment": place[1],
        }
        return pd.DataFrame(names | columns)

    def ask(
        self, tables: pd.DataFrame | Sequence[pd.DataFrame], *analyses: Mapping[str, Any], **limits
    ) -> Answer:
        """Ask for analyses of what the cohort's filter and the segmentations give.

        Args:
            tables: what is measured.
            analyses: of the protocol.
            limits: of disclosure that the protocol sets.

        Raises:
            Spent: all requests are used up.
        """
        if self.asked >= self.budget:
            raise Spent
        self.asked += 1
        table = pd.concat(tables) if not isinstance(tables, pd.DataFrame) else tables
        self.world.table = table.reset_index(drop=True)
        self.world.settings = self._settings(analyses, limits)
        shutil.rmtree(self.world.release, ignore_errors=True)
        self._write()
        with minimum_alone() if self.mode == "minimum" else contextlib.nullcontext():
            aggregates, record = self.world.build()
            answer = _answer(aggregates, record)
            if self.mode == "now" and answer.cells:
                with mock.patch.object(type(self.world), "write"):
                    self.world.send(self.world.root / "sent" / str(self.asked))
        return answer

    def _settings(self, analyses: Sequence[Mapping[str, Any]], limits: Mapping[str, Any]) -> Any:
        places = self.world.table[["segmentation", "segment"]].drop_duplicates()
        by_id = {str(name): list(part["segment"]) for name, part in places.groupby("segmentation")}
        measured = [
            {"segmentation": name, "role": "CT", "settings": "pyradiomics_ct"} for name in by_id
        ]
        base = _protocol()
        content = base | {
            "protocol": base["protocol"] | {"id": f"p{self.asked}"},
            "analyses": list(analyses),
            "segmentations": [segmentation(name, *named) for name, named in by_id.items()],
            "radiomics": measured,
            "disclosure": {"min_patients": self.minimum, **limits},
        }
        own = self.world.settings.site.plain()
        if self.noise is not None:
            own["disclosure"] = own["disclosure"] | {"noise": {"budget": self.noise}}
        return settings_of(own, content)

    def _write(self) -> None:
        self.world.write()
        table = self.world.table
        pairs = sorted(set(zip(table["case_id"], table["segmentation"], strict=True)))
        outcomes = [Outcome(case, "measure", item) for case, item in pairs]
        write_outcomes(self.world.root / "outcomes.parquet", outcomes)


@cache
def _protocol() -> Mapping[str, Any]:
    return protocol()


def segmentation(name: str, *segments: str) -> dict[str, Any]:
    """Return the entry of a segmentation in a protocol."""
    named = [{"name": segment, "label": "liver", "term": "liver"} for segment in segments]
    return {"id": name, "engine": "nnunet", "model": "phantom-ct", "role": "CT", "segments": named}


def mean_of(name: str, feature: str = VOLUME, segment: str = "liver") -> dict[str, Any]:
    """Return the entry of an analysis: mean and variance of a feature."""
    asked = {"variables": [f"CT.{feature}"], "segments": [segment]}
    return {"id": name, "kind": "summary", **asked}


def noisy_mean_of(name: str, bounds: Sequence[float], epsilon: float) -> dict[str, Any]:
    """Return the entry of an analysis: the mean of the volume with noise."""
    asked = {"kind": "noisy_mean", "bounds": [float(bound) for bound in bounds]}
    return mean_of(name) | asked | {"epsilon": float(epsilon)}


def bins_of(
    name: str, edges: Sequence[float], feature: str = VOLUME, segment: str = "liver"
) -> dict[str, Any]:
    """Return the entry of an analysis: a histogram of a feature."""
    asked = mean_of(name, feature, segment)
    return asked | {"kind": "histogram", "edges": [float(edge) for edge in edges]}


def _answer(aggregates: Mapping[str, Any], record: Mapping[str, Any]) -> Answer:
    cells = {
        (analysis["id"], cell["segment"], cell["feature"]): cell
        for analysis in aggregates["analyses"]
        for cell in analysis["cells"]
    }
    rules = {
        (cell["analysis"], cell["segment"], cell["feature"]): cell["rules"]
        for cell in record["cells"]
        if cells
    }
    return Answer(cells, rules)


@contextlib.contextmanager
def minimum_alone() -> Iterator[None]:
    """Let the gate know no rule but that of the minimum, and no ledger."""

    def moments(self: Summary, content: Any, patients: int, disclosure: Any) -> Passed:
        return Passed(asdict(content.moments))

    def bins(cells: Any, disclosure: Any, known: Any) -> list[Passed]:
        found = []
        for cell, _ in cells:
            edges = cell.analysis.settings.edges
            counts = np.bincount(bin_index(cell.values.numbers, edges), minlength=len(edges) + 1)
            shown: list[int | None] = [
                int(n) if n == 0 or n >= disclosure.min_patients else None for n in counts
            ]
            found.append(Passed({"under": shown[0], "counts": shown[1:-1], "over": shown[-1]}))
        return found

    with (
        mock.patch.object(gate, "differing", return_value=set()),
        mock.patch.object(gate, "clashing", return_value=set()),
        mock.patch.object(gate, "saturated", return_value=set()),
        mock.patch.object(History, "conflicting", return_value=set()),
        mock.patch.object(Summary, "check", moments),
        mock.patch.object(Histogram, "check_all", bins),
    ):
        yield
