"""A hostile hub chooses the bins of quantiles: whatever it asks for, it isolates no few patients.

Each attack is shown to work on a site without the rule that stops it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from jipflow.analyses.bins import SAME_BINS, groups_of, shown
from jipflow.analyses.cells import by_patient
from jipflow.analyses.contract import ImpossibleCell, Proposed
from jipflow.analyses.histogram import Histogram
from jipflow.analyses.histogram import Settings as HistogramSettings
from jipflow.analyses.quantiles import NO_EDGE
from jipflow.analyses.rules import Passed
from jipflow.release.gate import decide
from jipflow.release.history import EARLIER, NOTHING, Candidate, History, Past
from jipflow.release.saturation import Regions
from quantile_world import FIVE, KEY, asked, proposed, quantiles, values_of


def histogram(edges, id="bins", feature="volume_ml"):
    return Histogram(
        HistogramSettings(id=id, kind="histogram", variables=[f"CT.{feature}"], edges=edges)
    )


def binned(analysis, values, feature="volume_ml"):
    return Proposed(analysis, KEY._replace(feature=feature), values, values)


@dataclass
class Site:
    """A site with its ledger, and all that it has ever sent."""

    remembers: bool = True
    pasts: list = field(default_factory=list)
    left: list = field(default_factory=list)

    def asked(self, *cells):
        """Return what the gate lets out by analysis, and the rule that kept back the rest."""
        patient_of = {
            case: patient
            for cell in cells
            for case, patient in zip(cell.values.case_ids, cell.values.patients, strict=True)
        }
        history = History(self.pasts) if self.remembers else NOTHING
        decisions = decide(cells, patient_of, FIVE, Regions(), history)
        leaving = [Candidate(d.proposed, d.released).cell for d in decisions if d.released]
        self.pasts.append(Past(leaving))
        self.left += leaving
        return {
            d.proposed.analysis.settings.id: d.released
            or next(rule for rule, found in d.findings.items() if found == "withheld")
            for d in decisions
        }

    def smallest(self, values):
        """Return the patients of the smallest group that all that ever left distinguishes."""
        groups = groups_of([shown(cell) for cell in self.left], values.numbers)
        return min(len(set(values.patients[groups == g])) for g in np.unique(groups))


def spread(patients=60, seed=0):
    return values_of(np.random.default_rng(seed).uniform(0, 100, patients))


def of_two_cases(patients=40, seed=0):
    """Return values of which every other patient has two."""
    owners = [f"p{i:03d}" for i in range(patients) for _ in range(1 + i % 2)]
    return values_of(np.random.default_rng(seed).uniform(0, 100, len(owners)), owners)


VALUES = [spread(), spread(200, 1), of_two_cases(), of_two_cases(150, 1)]


@pytest.mark.parametrize("values", VALUES)
def test_a_hub_that_is_not_true_to_what_it_asked_for_before(values):
    """Bins of bins show one set of edges, in whatever order they are split; fine ones alone do not.

    A site that remembers nothing is asked for one bin after the other, each as if it were the first
    that is split.
    """
    analysis = quantiles(bins=4)
    honest = [asked([(1, n)], [(2, 4 * n + i)]) for n in range(4) for i in range(4)]
    hostile = [asked([(2, n), (2, n + 7)], [(3, 4 * n + 1), (3, 4 * n + 30)]) for n in range(9)]
    north, careless = Site(remembers=False), Site(remembers=False)
    for stated in honest:
        analysis.check_stated(stated, 3)
        north.asked(proposed(analysis, values, stated))
    assert north.smallest(values) >= 5
    for stated in hostile:
        with pytest.raises(ImpossibleCell, match="no round before it asked for"):
            analysis.check_stated(stated, 3)
        content = analysis.compute(values, stated)
        content = replace(content, asked=content.asked[1:])
        careless.asked(Proposed(analysis, KEY, values, content))
    assert careless.smallest(values) < 5


@pytest.mark.parametrize("values", VALUES)
def test_ranges_that_are_shifted_from_protocol_to_protocol(values):
    for remembers in (True, False):
        north = Site(remembers)
        for shift in np.arange(0, 10, 0.7):
            north.asked(proposed(quantiles(low=shift, high=100 + shift), values))
        assert (north.smallest(values) >= 5) == remembers


@pytest.mark.parametrize("values", VALUES)
def test_two_quantiles_of_one_variable_in_one_release(values):
    """Each by itself would show its own edges."""
    north = Site()
    several = [quantiles(f"q{i}", low=i, high=100 + i) for i in range(7)]
    found = north.asked(*(proposed(analysis, values) for analysis in several))
    assert hasattr(found["q0"], "cuts")
    assert north.smallest(values) >= 5
    careless = Site(remembers=False)
    for analysis in several:
        careless.asked(proposed(analysis, values))
    assert careless.smallest(values) < 5


HISTOGRAM = histogram([0, 29, 51, 71, 100])


@pytest.mark.parametrize("values", VALUES)
def test_quantiles_beside_a_histogram_in_one_release(values):
    north = Site()
    found = north.asked(binned(HISTOGRAM, values), proposed(quantiles(), values))
    assert all(hasattr(cell, "counts") for cell in found.values())
    assert north.smallest(values) >= 5
    careless = Site(remembers=False)
    for cell in (binned(HISTOGRAM, values), proposed(quantiles(), values)):
        careless.asked(cell)
    assert careless.smallest(values) < 5


@pytest.mark.parametrize("values", VALUES)
def test_quantiles_after_a_histogram_that_left_before(values):
    north = Site()
    north.asked(binned(HISTOGRAM, values))
    found = north.asked(proposed(quantiles(), values))
    assert found["spread"].cuts
    following = asked([(1, 4), (1, 5), (1, 7)])
    assert north.asked(proposed(quantiles(), values, following))["spread"].cuts
    assert north.smallest(values) >= 5


def test_a_histogram_after_quantiles_that_left_before():
    values = spread()
    north = Site()
    north.asked(proposed(quantiles(), values))
    assert north.asked(binned(HISTOGRAM, values)) == {"bins": EARLIER}
    # Edges that the quantiles showed say nothing new.
    cuts = shown(north.left[0]).cuts
    again = north.asked(binned(histogram([*cuts[:4], 120]), values))
    assert again["bins"].counts
    assert north.smallest(values) >= 5
    # It is not known in which bins the cases of a patient were.
    north, values = Site(), of_two_cases()
    north.asked(proposed(quantiles(), values))
    assert north.asked(binned(HISTOGRAM, values)) == {"bins": EARLIER}


def test_what_left_with_a_histogram_leaves_again():
    for values in VALUES:
        north = Site()
        cells = [binned(HISTOGRAM, values), proposed(quantiles(), values)]
        assert north.asked(*cells) == north.asked(*cells)


CUBES = values_of(np.arange(1.0, 61) ** 3 / 3000)
LINEAR = values_of(np.arange(1.0, 61))


def test_of_variables_that_rise_together_only_the_first_has_bins():
    first, second = quantiles("a"), quantiles("b", "diameter")
    north = Site()
    found = north.asked(proposed(first, LINEAR), proposed(second, CUBES, feature="diameter"))
    assert found["a"].cuts
    assert found["b"] == SAME_BINS
    found = Site().asked(
        binned(histogram([0, 30, 60]), LINEAR), proposed(second, CUBES, feature="diameter")
    )
    assert found["b"] == SAME_BINS
    # Nor later, when the other has left.
    assert north.asked(proposed(second, CUBES, feature="diameter")) == {"b": EARLIER}
    assert north.asked(binned(histogram([0, 10, 100]), CUBES)) == {"bins": EARLIER}


def cohort(numbers, patients):
    """Return the values of the first patients."""
    return values_of(numbers[:patients])


def test_patients_who_join_between_rounds():
    """One patient more would show in which bin; enough of them must be enough in each bin."""
    numbers = [*np.linspace(1, 99, 60), 33.0, *np.linspace(30.5, 31, 4), *np.linspace(20, 80, 7)]
    analysis = quantiles()
    sixty, more = cohort(numbers, 60), cohort(numbers, 61)
    for remembers in (True, False):
        north = Site(remembers)
        north.asked(proposed(analysis, sixty))
        found = north.asked(proposed(analysis, more, asked([(1, 4)])))["spread"]
        assert (found == EARLIER) == remembers
    # Twelve have joined, of whom seven are spread over several bins.
    north = Site()
    north.asked(proposed(analysis, sixty))
    assert north.asked(proposed(analysis, cohort(numbers, 72))) == {"spread": EARLIER}
    # Five have joined one bin, which would be known of each; then ten have joined two bins.
    few = [*np.linspace(1, 99, 60), *[33.0] * 5, *[62.0] * 5]
    north = Site()
    north.asked(proposed(analysis, cohort(few, 60)))
    assert north.asked(proposed(analysis, cohort(few, 65))) == {"spread": EARLIER}
    assert north.asked(proposed(analysis, cohort(few, 70)))["spread"].n == 70


def test_values_that_were_measured_anew_between_rounds():
    """Almost all values have moved a little, as of another model: bins of both would cross."""
    values = spread()
    moved = values_of(values.numbers + np.random.default_rng(5).normal(0, 0.3, 60))
    north = Site()
    north.asked(proposed(quantiles(), values))
    assert north.asked(proposed(quantiles(), moved, asked([(1, 4)]))) == {"spread": EARLIER}


@pytest.mark.parametrize("values", VALUES)
def test_requests_without_end(values):
    """Many protocols, each with rounds that look anywhere, show one set of bins."""
    rng = np.random.default_rng(7)
    north = Site()
    for i in range(20):
        low, width = rng.uniform(-20, 40), rng.uniform(20, 100)
        analysis = quantiles(f"q{i}", low=low, high=low + width, bins=int(rng.integers(2, 12)))
        leaves = rng.choice(analysis.settings.bins, 2, replace=False)
        splits = [[(1, int(n)) for n in sorted(leaves)]]
        north.asked(proposed(analysis, values))
        north.asked(proposed(analysis, values, asked(*splits)))
    assert north.smallest(values) >= 5
    edges = {cut for cell in north.left for cut in shown(cell).cuts}
    places = {int((values.numbers < edge).sum()) for edge in edges}
    assert len(places) < values.numbers.size / 5


def test_a_site_withholds_where_the_hub_knows_all_others():
    """A site of ten patients can show one edge at most, with five on either side."""
    values = values_of(np.linspace(11, 89, 10))
    for round_ in range(1, 4):
        splits = [[(1, 4), (1, 5)], [(2, 49), (2, 50)]][: round_ - 1]
        checked = quantiles().check(
            quantiles().compute(values, asked(*splits) if splits else None), 10, FIVE
        )
        assert isinstance(checked, Passed)
        assert checked.numbers["counts"] == [5, 5]
    less = values_of(np.linspace(11, 89, 9))
    assert Site().asked(proposed(quantiles(), less)) == {"spread": NO_EDGE}


def test_values_are_compared_a_patient_a_row():
    values = of_two_cases()
    assert by_patient(values).numbers.size == 40
    north = Site()
    first = north.asked(proposed(quantiles(), values))["spread"]
    second = north.asked(proposed(quantiles(), values, asked([(1, 4)])))["spread"]
    assert set(first.cuts) <= set(second.cuts)
