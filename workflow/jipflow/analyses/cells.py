"""The cells of analyses: what a released number is about, and the values behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from jipflow.absences import Absence
from jipflow.settings.clinical import ROLE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from jipflow.settings.protocol import By, Protocol


class Place(NamedTuple):
    """Where features were measured: a segment of a segmentation, on the series of a role."""

    role: str
    segmentation: str
    segment: str


CLINICAL = Place(ROLE, "clinical", "patient")
"""The place of clinical variables; the feature is the variable's name."""
CLINICAL_WORDS = "clinical data"
"""What people read of it."""


class Places(tuple[Place, ...]):
    """Everything that a protocol asks for, each once.

    Attributes:
        clinical: names of its clinical variables, which are features of `CLINICAL` and of no other
            place.
    """

    clinical: frozenset[str] = frozenset()

    @classmethod
    def of(cls, measured: Iterable[Place], clinical: Iterable[str]) -> Places:
        """Return the places of what is measured and, where there are any, of clinical variables."""
        names = frozenset(clinical)
        places = cls([*measured, *([CLINICAL] if names else [])])
        places.clinical = names
        return places


def has(place: Place, feature: str, places: Sequence[Place]) -> bool:
    """Return whether a feature can be of a place: clinical variables are of one, others of others.

    Args:
        place: one of them.
        feature: name of a feature or of a clinical variable.
        places: everything that the protocol asks for.
    """
    clinical = places.clinical if isinstance(places, Places) else frozenset()
    return (feature in clinical) == (place == CLINICAL)


class CellKey(NamedTuple):
    """What a released number is about, within an analysis."""

    role: str
    segmentation: str
    segment: str
    feature: str
    group: str = ""
    """Name of the group of patients; empty where it is of all."""

    @property
    def place(self) -> Place:
        """Where the feature was measured."""
        return Place(self.role, self.segmentation, self.segment)

    @property
    def words(self) -> str:
        """All that is not empty in one line, for messages."""
        place = (CLINICAL_WORDS,) if self.place == CLINICAL else self.place
        return " ".join(filter(None, (*place, self.feature, self.group)))

    @property
    def title(self) -> str:
        """The place and the group in words, for readers."""
        place = f"{self.segment} · {self.segmentation} on {self.role}"
        place = CLINICAL_WORDS if self.place == CLINICAL else place
        return f"{place} · group {self.group}" if self.group else place


class Whom(NamedTuple):
    """Of which patients a cell is.

    Attributes:
        by: what divides the patients into groups; nothing where the cell is of all.
        group: its group.
    """

    by: tuple[str, ...] = ()
    group: str = ""

    @classmethod
    def of(cls, by: By | None, key: CellKey) -> Whom:
        """Return of which patients a cell is.

        Args:
            by: of the settings of its analysis.
            key: what it is about.
        """
        return cls(by.identity(key.role), key.group) if by else cls()

    def apart(self, other: Whom) -> bool:
        """Return whether no case can be in both: they are of two groups of one division."""
        return self.by == other.by and self.group != other.group


@dataclass(frozen=True, eq=False)
class Values:
    """The values behind one cell at a site.

    Attributes:
        numbers: finite values, shape (rows,); more than patients where some have several cases.
        patients: pseudonym of the patient of each value, shape (rows,).
        case_ids: pseudonym of the case of each value, shape (rows,); no case has two.
        cases: the same as a set, one object for all cells of the same cases and place.
    """

    numbers: npt.NDArray[np.float64]
    patients: npt.NDArray[np.object_]
    case_ids: npt.NDArray[np.object_]
    cases: frozenset[str]


Scanners = Mapping[tuple[str, str], Mapping[str, str]]
"""By case and role, what groups are made by: of a series, what its header says of scanner and
acquisition, a text by ``manufacturer``, ``model`` and ``protocol_name``; of the role ``clinical``,
the values of the case's clinical variables that are categories, by ``clinical.<name>``."""

NO_SCANNERS: Scanners = MappingProxyType({})


def scanners_of(rows: Iterable[Mapping[str, str]]) -> Scanners:
    """Return the scanners of the rows of ``cases.tsv``."""
    return {(row["case_id"], row["role"]): row for row in rows}


def groups_met(
    by: By, cases: Sequence[str], patients: Sequence[str], role: str, scanners: Scanners
) -> list[list[str]]:
    """Return the groups that each case meets; it belongs to one where it meets only that.

    A case meets the groups of its patient's other cases as well, unless it meets none itself:
    groups are compared as different patients.

    Args:
        by: what the groups are of.
        cases: pseudonyms of cases.
        patients: pseudonym of the patient of each.
        role: of the variable.
        scanners: of the series.
    """
    own = [by.met(scanners.get((case, by.role_of(role)))) for case in cases]
    of_patient: dict[str, set[str]] = defaultdict(set)
    for patient, met in zip(patients, own, strict=True):
        of_patient[patient].update(met)
    return [
        sorted(of_patient[patient]) if met else []
        for patient, met in zip(patients, own, strict=True)
    ]


def by_patient(values: Values) -> Values:
    """Return the mean value of each patient, with patients in the place of cases, sorted."""
    import numpy as np

    patients, owner = np.unique(values.patients.astype(str), return_inverse=True)
    sums = np.bincount(owner, weights=values.numbers, minlength=patients.size)
    numbers = sums / np.bincount(owner, minlength=patients.size)
    names = patients.astype(object)
    return Values(numbers, names, names, frozenset(names))


def only(values: Values, cases: frozenset[str]) -> Values:
    """Return the values of some cases."""
    import numpy as np

    kept = np.array([case in cases for case in values.case_ids], dtype=bool)
    ids = values.case_ids[kept]
    return Values(values.numbers[kept], values.patients[kept], ids, frozenset(ids))


def follow(values: Values, others: Sequence[Values]) -> list[Values]:
    """Return values whose sums follow from those of others and of these, and not without these.

    They are of the cases by which these values differ from each of the others, and of the smallest
    sets into which all of them divide the cases.
    """
    # Of several of the same cases the first tells the same sets apart as all of them.
    others = list({other.cases: other for other in reversed(others)}.values())[::-1]
    found: dict[frozenset[str], Values] = {}
    for other in others:
        for more, less in ((values, other), (other, values)):
            found.setdefault(more.cases - less.cases, more)
    sets: dict[str, list[int]] = defaultdict(list)
    for number, other in enumerate(others):
        for case in other.cases:
            sets[case].append(number)
    divided: dict[tuple[int, ...], set[str]] = defaultdict(set)
    for case in values.cases.union(*(other.cases for other in others)):
        divided[tuple(sets[case])].add(case)
    for numbers, cases in divided.items():
        inside, outside = values.cases & cases, cases - values.cases
        if inside and (outside or not numbers):
            found.setdefault(inside, values)
            if outside:
                found.setdefault(frozenset(outside), others[numbers[0]])
    known = {frozenset(), values.cases, *(other.cases for other in others)}
    return [only(of, cases) for cases, of in found.items() if cases not in known]


@dataclass(frozen=True)
class Cohort:
    """All cases, whether or not anything was measured of them.

    Attributes:
        patient_of: patient of each case.
        absence: returns why a case has no value of a cell.
    """

    patient_of: Mapping[str, str]
    absence: Callable[[str, CellKey], Absence]


class Measured:
    """What a site measured, as analyses read it.

    Args:
        table: rows of ``features.parquet``, with case_id, patient, role, segmentation, segment and
            a column a feature.
        places: everything that the protocol measures, whether or not a patient has it.
        scanners: of the series.
        cohort: all cases; None where nobody asks for those without a value.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        places: Sequence[Place],
        scanners: Scanners = NO_SCANNERS,
        cohort: Cohort | None = None,
    ) -> None:
        self.places = places
        self.cohort = cohort
        self._scanners = scanners
        self.features: Sequence[str] = list(table.select_dtypes("number").columns)
        self._table = table
        self._cases = table["case_id"].to_numpy()
        self._patients = table["patient"].to_numpy()
        self._rows = {
            Place(*map(str, key)): rows.index.to_numpy()
            for key, rows in table.groupby(list(Place._fields))
        }
        # Most features of a segment have values of the same cases: one set serves them all.
        self._known: dict[tuple[Any, ...], frozenset[str]] = {}
        self._groups: dict[tuple[Place, tuple[str, ...]], npt.NDArray[np.object_]] = {}

    def values(self, key: CellKey, by: By | None = None) -> Values:
        """Return the finite values of a cell; none where nobody was measured there.

        Args:
            key: of the cell.
            by: what its group is of, where it is of one.
        """
        import numpy as np

        rows = self._rows.get(key.place, np.array([], dtype=np.intp))
        numbers = self._table[key.feature].to_numpy(np.float64, na_value=np.nan)[rows]
        there = np.isfinite(numbers)
        if by is not None:
            there &= self._groups_of(key.place, by, rows) == key.group
        rows = rows[there]
        group = (key.place, there.tobytes())
        if group not in self._known:
            self._known[group] = frozenset(self._cases[rows])
        return Values(numbers[there], self._patients[rows], self._cases[rows], self._known[group])

    def _groups_of(
        self, place: Place, by: By, rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.object_]:
        """Return the group of each row of a place, None where it is of none."""
        import numpy as np

        known = (place, by.identity(place.role))
        if known not in self._groups:
            cases, patients = list(self._cases[rows]), list(self._patients[rows])
            found = groups_met(by, cases, patients, place.role, self._scanners)
            names = [met[0] if len(met) == 1 else None for met in found]
            self._groups[known] = np.array(names, dtype=object)
        return self._groups[known]

    def of(self, feature: str) -> dict[Place, Values]:
        """Return a feature of each segment that was measured; nothing where none has it."""
        if feature not in self.features:
            return {}
        there = [place for place in self._rows if has(place, feature, self.places)]
        return {place: self.values(CellKey(*place, feature)) for place in there}


def measured_places(protocol: Protocol) -> Places:
    """Return everything that a protocol measures or has as clinical variables, each once."""
    measured = [
        Place(entry.role, entry.segmentation, segment.name)
        for entry in protocol.radiomics
        for segment in protocol.segmentation(entry.segmentation).segments
    ]
    return Places.of(measured, [variable.name for variable in protocol.clinical_variables])


def expand(
    variables: Iterable[str],
    segments: Sequence[str] | None,
    features: Iterable[str],
    places: Sequence[Place],
    groups: Sequence[str] = ("",),
) -> list[CellKey]:
    """Return the cells of variables: each feature in every segment measured in its role.

    Args:
        variables: ``<role>.<feature>``, where * stands for any text.
        segments: only these; None for all. Clinical variables are of none, and always there.
        features: names of the features that exist.
        places: everything that the protocol measures.
        groups: names of groups of patients, an empty one for all.

    Returns:
        Sorted, without duplicates.
    """
    names = list(features)
    return sorted(
        {
            CellKey(*place, feature, group)
            for variable in variables
            for role, _, glob in [variable.partition(".")]
            for place in places
            if place.role == role
            and (segments is None or place.segment in segments or place == CLINICAL)
            for feature in names
            if fnmatchcase(feature, glob) and has(place, feature, places)
            for group in groups
        }
    )


def asks_for(variable: str, key: CellKey) -> bool:
    """Return whether a variable, ``<role>.<feature>``, asks for a cell, whatever its segment."""
    role, _, glob = variable.partition(".")
    return key.role == role and fnmatchcase(key.feature, glob)
