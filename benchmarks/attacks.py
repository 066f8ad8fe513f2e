"""What an attacker asks a site to learn the value of one of its patients: each attack a function.

An attack returns between which values it knows that of a patient to lie, in standard deviations of
the cohort; what it says of the truth is checked by who runs it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from attacked_site import BAIT, LOAD, VOLUME, Answer, Target, bins_of, mean_of, noisy_mean_of
from jipflow.analyses.noise import variance
from jipflow.analyses.noisy_mean import HALF

LOW, HIGH = 0.0, 5000.0
"""Between which volumes in ml every liver lies: what the attacker knows before."""

STEPS = 24
"""Halvings of a bisection."""


@dataclass(frozen=True)
class Learned:
    """What an attack got.

    Attributes:
        low: bound of a patient's value.
        high: likewise.
        truth: the value, which the attacker does not know.
        sd: standard deviation of the cohort.
    """

    low: float
    high: float
    truth: float
    sd: float

    @property
    def width(self) -> float:
        """Width of the interval in standard deviations; infinite where the attacker is wrong."""
        slack = 1e-6 * self.sd
        right = self.low - slack <= self.truth <= self.high + slack
        return (self.high - self.low) / self.sd if right else np.inf

    def words(self) -> str:
        """Return what a reader reads."""
        if self.width < 1e-3:
            return "exact"
        if self.width >= (HIGH - LOW) / 2 / self.sd or self.width > 4:
            return "nothing"
        return f"{self.width:.2g} SD"


Sums = list[tuple[frozenset[int], float]]
Attack = Callable[[Target], Learned]


def nothing(target: Target, truth: float = 0.0) -> Learned:
    """Return what who learns nothing knows."""
    return Learned(-np.inf, np.inf, truth, target.sd)


def total(cell: Mapping[str, float]) -> float:
    """Return the sum that a mean is of."""
    return cell["rows"] * cell["mean"]


def of_target(target: Target, low: float, high: float, patient: int = 0) -> Learned:
    """Return what is known of a patient's volume."""
    return Learned(low, high, float(target.values[VOLUME][patient]), target.sd)


def from_sums(target: Target, sums: Sums, known: Sequence[int] = (), patient: int = 0) -> Learned:
    """Return between which volumes that of a patient lies, by linear programming.

    Args:
        target: the site.
        sums: over sets of patients.
        known: patients whose volumes the attacker knows.
        patient: who is attacked.
    """
    volumes = target.values[VOLUME]
    bounds = [(LOW, HIGH)] * target.patients
    for each in known:
        bounds[each] = (volumes[each], volumes[each])
    if not sums:
        return of_target(target, LOW, HIGH, patient)
    table = np.array([[i in members for i in range(target.patients)] for members, _ in sums], float)
    found = []
    for sign in (1, -1):
        goal = np.zeros(target.patients)
        goal[patient] = sign
        best = linprog(goal, A_eq=table, b_eq=[s for _, s in sums], bounds=bounds, method="highs")
        found.append(best.x[patient] if best.success else np.nan)
    if not np.isfinite(found).all():
        return of_target(target, LOW, HIGH, patient)
    return of_target(target, found[0], found[1], patient)


def asked_sums(target: Target, cohorts: Sequence[Sequence[int]]) -> Sums:
    """Ask for the mean of the volumes in cohorts, and return the sums that left."""
    sums: Sums = []
    for patients in cohorts:
        cell = target.ask(target.rows(sorted(patients)), mean_of("a"))("a")
        if cell:
            sums.append((frozenset(patients), total(cell)))
    return sums


def one_left_out(target: Target) -> Learned:
    """Two cohorts that differ by one patient."""
    everyone = range(target.patients)
    return from_sums(target, asked_sums(target, [everyone, everyone[1:]]))


def parts(target: Target) -> Learned:
    """A cohort, and two parts of it that leave one patient."""
    rest = list(range(1, target.patients))
    half = len(rest) // 2
    cohorts = [range(target.patients), rest[:half], rest[half:]]
    return from_sums(target, asked_sums(target, cohorts))


def parts_of_two_segmentations(target: Target) -> Learned:
    """A cohort, then its two parts as two segmentations of one protocol."""
    rest = list(range(1, target.patients))
    half = len(rest) // 2
    sums = asked_sums(target, [range(target.patients)])
    places = [("one", "first"), ("two", "second")]
    of_part = [rest[:half], rest[half:]]
    tables = [target.rows(p, place) for p, place in zip(of_part, places, strict=True)]
    answer = target.ask(tables, *(mean_of(place[0], segment=place[1]) for place in places))
    for patients, (name, _) in zip(of_part, places, strict=True):
        cell = answer(name)
        if cell:
            sums.append((frozenset(patients), total(cell)))
    return from_sums(target, sums)


def small_overlaps(target: Target) -> Learned:
    """Cohorts of which any two share at most two patients."""
    blocks: list[frozenset[int]] = []
    rng = np.random.default_rng(1)
    size = target.minimum
    for _ in range(20000):
        block = frozenset(rng.choice(target.patients, size, replace=False).tolist())
        if all(len(block & other) <= 2 for other in blocks):
            blocks.append(block)
        if len(blocks) >= 2 * target.patients:
            break
    return from_sums(target, asked_sums(target, [sorted(block) for block in blocks]))


def random_subsets(target: Target) -> Learned:
    """Random cohorts, solved together by linear programming."""
    rng = np.random.default_rng(2)
    sizes = np.arange(target.minimum, target.patients + 1)
    sums: Sums = []
    found = of_target(target, LOW, HIGH)
    while target.asked < target.budget and found.words() != "exact":
        cohorts = [
            rng.choice(target.patients, rng.choice(sizes), replace=False).tolist()
            for _ in range(min(50, target.budget - target.asked))
        ]
        sums += asked_sums(target, cohorts)
        found = from_sums(target, sums)
    return found


def nested_dates(target: Target) -> Learned:
    """Cohorts up to a date, which is moved so that patients come in one by one."""
    cohorts = [range(end) for end in range(target.minimum, target.patients + 1)]
    return from_sums(target, asked_sums(target, cohorts), patient=target.patients - 1)


def known_others(target: Target) -> Learned:
    """A cohort of one patient and of others whose values are known."""
    known = list(range(1, 1 + target.patients // 2))
    cohort = list(range(target.minimum))
    return from_sums(target, asked_sums(target, [cohort]), known)


def known_others_with_noise(target: Target) -> Learned:
    """The same with noise (epsilon 4 of a budget of 4), asked again of others that are known."""
    if target.mode == "minimum":
        return known_others(target)
    bounds, middle, epsilon, volumes = (500.0, 2500.0), 1500.0, 4.0, target.values[VOLUME]
    target.noise = epsilon
    rng = np.random.default_rng(4)
    known = range(1, 1 + target.patients // 2)
    guesses: dict[tuple[int, ...], float] = {}
    for _ in range(40 if target.mode == "forgetful" else 10):
        others = sorted(rng.choice(known, target.minimum - 1, replace=False).tolist())
        cell = target.ask(target.rows([0, *others]), noisy_mean_of("a", bounds, epsilon))("a")
        assert cell is not None
        total = cell["noisy_sum"] * (bounds[1] - bounds[0]) / 2 / HALF
        guesses[tuple(others)] = total + middle - sum(volumes[others] - middle)
    # Once all is spent, the sums are of nobody, which the attacker knows.
    counted = list(guesses.values())[: None if target.mode == "forgetful" else 1]
    step = (bounds[1] - bounds[0]) / 2 / HALF
    error = 4 * step * np.sqrt(variance(2 * HALF / epsilon) / len(counted))
    guess = float(np.mean(counted))
    return of_target(target, guess - error, guess + error)


def known_half_of_everyone(target: Target) -> Learned:
    """A cohort of everyone, of half of whom the values are known."""
    known = list(range(1, 1 + target.patients // 2))
    return from_sums(target, asked_sums(target, [range(target.patients)]), known)


def growing(target: Target) -> Learned:
    """A cohort that grows by one patient."""
    sums: Sums = []
    for end in range(target.patients - 3, target.patients + 1):
        answer = target.ask(target.rows(range(end)), mean_of("a"), mean_of("bait", BAIT))
        cell = answer("a")
        if cell:
            sums.append((frozenset(range(end)), total(cell)))
    return from_sums(target, sums, patient=target.patients - 1)


def other_names(target: Target) -> Learned:
    """The same region under another name and in other units, in all but one patient."""
    whole = target.ask(target.rows(), mean_of("a"))("a")
    mesh = {"original_shape_MeshVolume": 1000 * target.values[VOLUME]}
    rest = target.rows(range(1, target.patients), ("again", "hepar"), **mesh)
    cell = target.ask(rest, mean_of("b", "original_shape_MeshVolume", "hepar"))("b")
    if not (whole and cell):
        return of_target(target, LOW, HIGH)
    value = total(whole) - total(cell) / 1000
    return of_target(target, value, value)


def remeasured(target: Target, jitter: float = 0.0) -> Learned:
    """Another segmentation, equal in all and empty in one patient."""
    rng = np.random.default_rng(3)
    again = target.values[VOLUME] * (1 + jitter * rng.normal(size=target.patients))
    again[0] = 0.0
    other = target.rows(None, ("again", "hepar"), **{VOLUME: again})
    first = target.ask(target.rows(), mean_of("a"))("a")
    second = target.ask(other, mean_of("a", segment="hepar"))("a")
    if not (first and second):
        return of_target(target, LOW, HIGH)
    value = total(first) - total(second)
    error = 3 * jitter * np.sqrt(target.patients) * float(target.values[VOLUME].mean())
    return of_target(target, value - error, value + error)


def remeasured_a_little_in_all(target: Target) -> Learned:
    """Another segmentation, a millionth off in all and empty in one patient."""
    return remeasured(target, 1e-6)


def only_one_has(target: Target) -> Learned:
    """A load that is 0 in all but one patient."""
    cell = target.ask(target.rows(), mean_of("a", LOAD))("a")
    truth, sd = float(target.values[LOAD][0]), float(target.values[LOAD].std(ddof=1))
    value = total(cell) if cell else np.nan
    return Learned(value, value, truth, sd) if cell else Learned(-np.inf, np.inf, truth, sd)


def dominant(target: Target) -> Learned:
    """A value that is a thousand times as large as all others."""
    volumes = target.values[VOLUME].copy()
    volumes[0] *= 1000
    cell = target.ask(target.rows(**{VOLUME: volumes}), mean_of("a"))("a")
    if not cell:
        return of_target(target, LOW, HIGH)
    value = (total(cell) - (target.patients - 1) * 1500) / 1000
    spread = (target.patients - 1) * target.sd / 1000
    return of_target(target, value - spread, value + spread)


def few_lie_between(target: Target, below: Mapping[float, int]) -> Learned:
    """Return the narrowest range that a few patients lie in, by numbers of patients below edges."""
    volumes = np.sort(target.values[VOLUME])
    found = nothing(target)
    for (low, a), (high, b) in itertools.pairwise(sorted(below.items())):
        inside = volumes[(volumes >= low) & (volumes <= high)]
        if 0 < abs(b - a) < target.minimum and high - low < found.high - found.low and inside.size:
            found = Learned(low, high, float(inside[0]), target.sd)
    return found


def counted_below(answer: Answer, edges: Sequence[float]) -> dict[float, int]:
    """Return the numbers of patients below edges that follow from a histogram."""
    cell = answer("h")
    if not cell:
        return {}
    bins = [cell["under"], *cell["counts"], cell["over"]]
    found = {}
    for i, edge in enumerate(edges):
        if None not in bins[: i + 1]:
            found[edge] = sum(bins[: i + 1])
        elif None not in bins[i + 1 :]:
            found[edge] = cell["n"] - sum(bins[i + 1 :])
    return found


def narrow_bins(target: Target) -> Learned:
    """One histogram with bins of 1 ml."""
    edges = [float(edge) for edge in range(500, 2600)]
    cell = target.ask(target.rows(), bins_of("h", edges))("h")
    if not cell:
        return nothing(target)
    there = [i for i, n in enumerate(cell["counts"]) if n is None]
    volumes = target.values[VOLUME]
    truth = volumes[(volumes >= edges[there[0]]) & (volumes <= edges[there[0] + 1])]
    return Learned(edges[there[0]], edges[there[0] + 1], float(truth[0]), target.sd)


def shifted_edges(target: Target) -> Learned:
    """Histograms of two bins, the edge between them shifted from release to release."""
    below: dict[float, int] = {}
    ends = target.values[VOLUME].mean() + 3 * target.sd * np.array([-1, 1])
    for edge in np.linspace(*ends, min(100, target.budget)):
        edges = [0.0, float(edge), 9000.0]
        below |= counted_below(target.ask(target.rows(), bins_of("h", edges)), edges)
    return few_lie_between(target, below)


def bisected(
    target: Target, low: float, high: float, truth: float, is_below: Callable[[float], bool | None]
) -> Learned:
    """Return the range that a bisection leaves: when no answer comes, or after all steps."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        answer = is_below(middle)
        if answer is None:
            break
        low, high = (middle, high) if answer else (low, middle)
    return Learned(low, high, truth, target.sd)


def which_bins_are_withheld(target: Target) -> Learned:
    """An edge, bisected by whether a histogram is withheld and by which rule."""
    ranked = np.sort(target.values[VOLUME])

    def is_below(edge: float) -> bool | None:
        answer = target.ask(target.rows(), mean_of("bait", BAIT), bins_of("h", [0, edge, 9000]))
        cell, found = answer("h"), answer.found("h")
        if cell:
            return cell["counts"][0] is None or cell["counts"][0] < target.minimum
        if not found:
            return None
        if found["small_bins"] == "withheld" or found["one_bin"] == "withheld":
            return True
        return None if found["small_bins"] == "not applied" else False

    low, high = ranked[0] - target.sd, float(np.median(ranked))
    return bisected(target, low, high, float(ranked[target.minimum - 1]), is_below)


def which_limits_withhold(target: Target) -> Learned:
    """The limit of dominance, bisected by whether a mean is withheld: the sum of the first two."""
    ranked = np.sort(target.values[VOLUME])[::-1]
    everything = 0.0

    def is_below(share: float) -> bool | None:
        nonlocal everything
        answer = target.ask(
            target.rows(), mean_of("bait", BAIT), mean_of("a"), largest_two=share / everything
        )
        if not answer.cells:
            return None
        cell, found = answer("a"), answer.found("a")
        if cell or found["dominance"] == "passed":
            return False
        return True if found["dominance"] == "withheld" else None

    cell = target.ask(target.rows(), mean_of("bait", BAIT), mean_of("a"))("a")
    if not cell or target.mode == "minimum":
        return nothing(target, float(ranked[:2].sum()))
    everything = total(cell)
    low, high = 2.02 * everything / target.patients, 0.9 * everything
    return bisected(target, low, high, float(ranked[:2].sum()), is_below)


def maxima(target: Target) -> NDArray[np.float64]:
    """Return the greatest intensity of each patient's focus."""
    return np.random.default_rng(4).uniform(2.0, 9.0, target.patients)


def threshold(target: Target) -> Learned:
    """A threshold, bisected by whether all have a voxel above it."""
    greatest = maxima(target)

    def is_below(at: float) -> bool | None:
        above = np.flatnonzero(greatest > at)
        if above.size < target.minimum:
            return False
        texture = np.random.default_rng(5).normal(3, 1, target.patients)
        size = np.random.default_rng(6).uniform(1, 20, target.patients)
        focus = target.rows(above, ("t", "focus"), **{VOLUME: size, BAIT: texture})
        answer = target.ask(
            [target.rows(), focus], mean_of("bait", BAIT), mean_of("t", BAIT, "focus")
        )
        cell = answer("t")
        return cell is not None and cell["n"] == target.patients

    found = bisected(target, 0.0, 4.0, float(greatest.min()), is_below)
    return Learned(found.low, found.high, found.truth, float(greatest.std(ddof=1)))


def filter_on_a_header(target: Target) -> Learned:
    """A filter on age, bisected by whether anything leaves."""
    ages = np.random.default_rng(8).uniform(30, 90, target.patients)

    def is_below(age: float) -> bool | None:
        chosen = np.flatnonzero(ages <= age)
        if chosen.size < target.minimum:
            return True
        cell = target.ask(target.rows(chosen), mean_of("bait", BAIT))("bait")
        return cell is None or cell["n"] < target.patients

    target.ask(target.rows(), mean_of("bait", BAIT))
    found = bisected(target, 0.0, 120.0, float(ages.max()), is_below)
    return Learned(found.low, found.high, found.truth, float(ages.std(ddof=1)))


def functions_of_one_region(target: Target) -> Learned:
    """Five functions of volume and surface of five patients, solved for the volumes."""
    from test_attacks import shapes, solved

    volumes = target.values[VOLUME].copy()
    chosen = np.arange(5)
    columns = shapes(volumes)
    answer = target.ask(
        target.rows(chosen, **columns),
        *(mean_of(f"a{i}", name) for i, name in enumerate(columns)),
    )
    sent = {
        feature: (cell["mean"], cell["m2"] / (cell["n"] - 1))
        for (_, _, feature), cell in answer.cells.items()
    }
    truth = np.sort(volumes[chosen])
    if not sent:
        return nothing(target)
    if len(sent) == 1:
        return least_of(target, next(iter(answer.cells.values())), float(truth[0]))
    tries = [solved(sent, 5, seed) for seed in range(6)]
    found = [volumes for volumes, misfit in tries if misfit < 1e-9]
    if not found:
        return nothing(target)
    least = [float(volumes[0]) for volumes in found]
    if len(sent) == 5:
        least = [min(least, key=lambda value: abs(value - truth[0]))]
    return Learned(min(least) - 0.01, max(least) + 0.01, float(truth[0]), target.sd)


def least_of(target: Target, cell: Mapping[str, float], truth: float) -> Learned:
    """Return between which values the least of some lies whose mean and scatter are known.

    The bounds are those of Samuelson (1968, "How deviant can you be?", Journal of the American
    Statistical Association 63:1522-1525), and of all others equal to one another.
    """
    n, deviation = cell["n"], np.sqrt(cell["m2"] / cell["n"])
    low = cell["mean"] - deviation * np.sqrt(n - 1)
    return Learned(low, cell["mean"] - deviation / np.sqrt(n - 1), truth, target.sd)


ATTACKS: tuple[Attack, ...] = (
    one_left_out,
    growing,
    nested_dates,
    parts,
    parts_of_two_segmentations,
    small_overlaps,
    random_subsets,
    other_names,
    remeasured,
    remeasured_a_little_in_all,
    only_one_has,
    dominant,
    narrow_bins,
    shifted_edges,
    which_bins_are_withheld,
    which_limits_withhold,
    functions_of_one_region,
    threshold,
    filter_on_a_header,
    known_half_of_everyone,
    known_others,
    known_others_with_noise,
)
"""In the order of the table."""
