"""Each kind of analysis over sites, against what peers find for all rows in one place."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exactness_models
import exactness_survival
import exactness_values
from exactness_cases import Case, Of
from exactness_patients import Patients, sarcoma, simulated
from exactness_sites import Federation
from report import SHARED_DATA, Cell, write_result

CASES = (*exactness_values.CASES, *exactness_models.CASES, *exactness_survival.CASES)

FAR_COLUMN = "3 sites, mean of 10⁸ SD"

LIMIT = 1e-9
"""What a difference is to be at most."""

WORSE = {
    **dict.fromkeys(
        ("logistic", "poisson"),
        "standard errors are those at the coefficients before the last step, which is shorter than "
        "1e-9, and equal the peer's to 1e-9; a p value is an area far out in a tail, and differs "
        "by up to the square of z times as much as z does.",
    )
}
"""Kinds of which p values differ by more, and why."""

NOTES = [
    "The largest relative difference, |result - peer| / |peer|, over all numbers of the hub's "
    "result from what the peer finds for the rows of all sites in one table: counts, means, "
    "variances, estimates, standard errors, ends of intervals, statistics, degrees of freedom and "
    "p values alike, those of each site too. Of correlations it is the difference itself, and of "
    "covariances its share of the product of both standard deviations. A number without a peer "
    "stops the benchmark; `numbers` and `rounds` are those of 3 sites.",
    "The whole way is taken: each site builds its release behind its gate, a person's key approves "
    "it, it is packed, sealed and kept in the ledger; the hub opens and verifies each message, "
    "merges, and sends what the next round needs. Only images and Snakemake are left out. Of each "
    "site and rule the table says where a cell was held back.",
    "Simulated sites have 120 to 310 patients, of whom six each lack the feature, age, stage, and "
    "whether they died; a model is of those who have all of its variables.",
    "Mean of 10⁸ SD: values have 20 binary digits behind the point, and 10⁸ is added to features "
    "and ages, which is exact. Peers see them without it, for their own sums of squares would not "
    "be. Categories have no mean, and days are counted in intervals that a protocol cannot set so "
    "close: no such variable.",
    "Tumours: features of T1-weighted MR of the 15 patients with sarcoma, by jipflow's extraction; "
    "the makers GE, Philips and Siemens are the sites. Age, sex, stage, visits and follow-up are "
    "drawn in all columns. Five patients a site are the minimum itself, so that most cells stay.",
    "Parts: so that there are more patients with real features, each tumour is cut by 24, 28 or 32 "
    "planes that are drawn, and what lies beyond a plane stands for a patient: 120, 140 and 160 a "
    "site, who lack values as the simulated do. Such parts are not independent, which is of no "
    "matter here.",
    "Peers: the iterations of statsmodels go on to the last digits; lifelines, which stops "
    "earlier, is to agree with its Cox model to 1e-7. ComBat in float64 is the tests' own, written "
    "from the paper, for neuroCombat computes in float32. "
    "Survival: the peers have each time at the edge of its interval. Quantiles: each lies between "
    "two edges, as that of all rows does; the estimate is that of all rows, those of each site "
    "evenly between its edges. What a site withholds of a histogram or a table has no number.",
    "Not here: noisy_mean, which is not exact on purpose.",
    f"p values above {LIMIT:g}: {', '.join(WORSE)}; {WORSE['logistic']}",
]

Difference = tuple[float, str]


def differences(
    found: Any, expected: Any, repeats: frozenset[str] = frozenset(), at: str = ""
) -> Iterator[Difference]:
    """Yield the relative difference of each number of a result, and its place.

    Args:
        found: the result, or a part of it.
        expected: what it is to be; words and names of what a number is about are left out.
        repeats: names of numbers in `found` that need no peer.
        at: place of the part.

    Raises:
        ValueError: a number has no peer, or one of the two is missing.
    """
    if isinstance(expected, Mapping):
        for name, value in found.items():
            if name not in expected and name not in repeats and _has_number(value):
                raise ValueError(f"{at}.{name} has no peer")
        for name, value in expected.items():
            yield from differences(found[name], value, repeats, f"{at}.{name}")
    elif isinstance(expected, Of):
        yield abs(found - expected.value) / expected.unit, at
    elif isinstance(expected, Sequence):
        if len(found) != len(expected):
            raise ValueError(f"{at}: {len(found)} for {len(expected)}")
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differences(one, other, repeats, f"{at}[{i}]")
    elif expected is None or found is None:
        if expected is not found:
            raise ValueError(f"{at}: {found} for {expected}")
    elif found == expected:
        yield 0.0, at
    elif expected == 0:
        yield math.inf, at
    else:
        yield abs(float(found) - float(expected)) / abs(float(expected)), at


def _has_number(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_number, value.values()))
    if isinstance(value, list):
        return any(map(_has_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Compared:
    """What came of a case over sites.

    Attributes:
        numbers: how many were compared.
        worst: the largest relative difference but of p values; None where nothing was compared.
        place: of the number that differs most.
        tail: the largest relative difference of a p value.
        rounds: how many there were.
        withheld: at how many sites each rule kept back a cell.
        reason: why the hub has no result; empty where it has.
    """

    numbers: int
    worst: float | None
    place: str
    tail: float
    rounds: int
    withheld: Mapping[str, int]
    reason: str

    @property
    def cell(self) -> Cell:
        """What the table says."""
        kept = ", ".join(f"{rule} at {n}" for rule, n in self.withheld.items())
        if self.worst is None:
            return f"no result: {self.reason}" if self.reason else f"withheld: {kept}"
        most = max(self.worst, self.tail)
        text = f"{most:.1e}"
        if most > LIMIT >= self.worst:
            text = f"{self.worst:.1e}, p values {self.tail:.1e}"
        elif not kept:
            return most
        return f"{text}; withheld: {kept}" if kept else text


def compare(case: Case, patients: Patients) -> Compared:
    """Carry out a case over sites, and compare each number of the result."""
    with tempfile.TemporaryDirectory() as folder:
        ended = Federation(Path(folder), patients, case.entry(patients)).run()
    found = {name: value for name, value in ended.analysis.items() if name != "round"}
    reasons = [cell.get("reason") for cell in found["cells"]]
    # Curves of sites and tests within them are there although sites have no edge in common.
    if not reasons or (all(reasons) and "curves" not in found):
        reason = ", ".join(sorted(set(reasons)))
        return Compared(0, None, "", 0.0, ended.rounds, ended.withheld, reason)
    with warnings.catch_warnings():
        # lifelines says of each column that it is not far from constant among events.
        warnings.simplefilter("ignore")
        expected = case.pooled(patients, ended.analysis)
    known = list(differences(found, expected, case.repeats))
    tails = [each for each in known if each[1].endswith(".p")]
    worst, place = max(each for each in known if each not in tails)
    tail = max((each for each, _ in tails), default=0.0)
    if not math.isfinite(worst + tail):
        raise ValueError(f"{case.kind}, {case.title}: a number is 0 or none, and is not expected")
    return Compared(len(known), worst, place, tail, ended.rounds, ended.withheld, "")


def _compared(task: tuple[str, int, Patients]) -> tuple[str, int, Compared]:
    column, number, patients = task
    return column, number, compare(CASES[number], patients)


def scenarios(data: Path) -> dict[str, Patients]:
    """Return the patients of each column of the table."""
    found = {
        "3 sites": simulated(3),
        "10 sites": simulated(10),
        "50 sites": simulated(50),
        FAR_COLUMN: simulated(3, far=True),
    }
    if data.is_dir():
        found |= {
            "15 tumours, 5 a site": sarcoma(data),
            "420 parts of these tumours": sarcoma(data, parts=True),
        }
    return found


def main() -> None:
    if not (SHARED_DATA / "sarcoma").is_dir():
        sys.exit(f"{SHARED_DATA / 'sarcoma'} is not there: the tumours are read from it")
    columns = scenarios(SHARED_DATA / "sarcoma")
    tasks = [
        (name, number, patients)
        for name, patients in sorted(columns.items(), key=lambda each: -len(each[1].sites))
        for number, case in enumerate(CASES)
        if case.moves or name != FAR_COLUMN
    ]
    table: dict[tuple[str, int], Compared] = {}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, number, found in pool.map(_compared, tasks):
            table[name, number] = found
            case = CASES[number]
            print(f"{case.kind}, {case.title}; {name}: {found.cell} {found.place}", flush=True)
    rows: list[list[Cell]] = [
        [
            case.kind,
            case.title,
            case.peer,
            table["3 sites", number].rounds,
            table["3 sites", number].numbers,
            *(
                table[name, number].cell if (name, number) in table else "no such variable"
                for name in columns
            ),
        ]
        for number, case in enumerate(CASES)
    ]
    write_result(
        "exactness",
        "Exactness",
        ["kind", "what", "peer", "rounds", "numbers", *columns],
        rows,
        packages=["lifelines", "numpy", "scipy", "statsmodels"],
        notes=NOTES,
    )


if __name__ == "__main__":
    main()
