"""ComBat from sums of the sites equals ComBat on the pooled table, and what it cannot estimate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from combat_reference import combat
from jipflow.analyses.estimates import COLLINEAR
from jipflow.analyses.harmonise import (
    Common,
    NotEstimated,
    common,
    harmonise,
    scatter_after,
    site_effect,
)
from jipflow.analyses.moments import moments
from jipflow.analyses.scatter import scatter
from jipflow.analyses.shrinkage import Batch, NoPriors, posterior, priors

SIZES = (24, 41, 33)


def drawn(seed=0, sizes=SIZES, features=6, covariates=2, mean=0.0, lost=0.0):
    """Return a table of features, the site of each row, and covariates.

    Values are of few binary digits, so that adding a mean of 10⁸ is exact.
    """
    rng = np.random.default_rng(seed)
    rows = sum(sizes)
    sites = np.repeat(np.arange(len(sizes)), sizes)
    c = np.column_stack([rng.normal(60, 9, rows), rng.integers(0, 2, rows)])[:, :covariates]
    shift = rng.normal(0, 1.2, (len(sizes), features))
    stretch = rng.gamma(8, 1 / 8, (len(sizes), features))
    away = rng.normal(0, 1, (rows, features)) * stretch[sites] + shift[sites]
    away += (c - c.mean(axis=0)) @ rng.normal(0, 0.05, (c.shape[1], features))
    table = mean + np.round(away * 2**18) / 2**18
    if lost:
        table[rng.random(table.shape) < lost] = np.nan
        c[rng.random(c.shape) < lost / 2] = np.nan
    return table, sites, np.round(c * 2**10) / 2**10


def by_sites(table, sites, covariates):
    """Return of each site and feature the columns of the complete cases."""
    found = []
    for site in np.unique(sites):
        own = sites == site
        columns = [np.column_stack([y, covariates])[own] for y in table.T]
        found.append([each[np.isfinite(each).all(axis=1)] for each in columns])
    return found


def federated(table, sites, covariates):
    """Return what is shared of each feature, and each site's harmonised features."""
    own = by_sites(table, sites, covariates)
    shared = [
        common({f"s{i}": scatter(site[g]) for i, site in enumerate(own)})
        for g in range(table.shape[1])
    ]
    return own, shared, [harmonise(list(zip(site, shared, strict=True))) for site in own]


@pytest.mark.parametrize("covariates", [0, 1, 2])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"mean": 1e8},
        {"lost": 0.1},
        {"sizes": (12, 90, 31, 45, 20, 17, 64)},
        {"sizes": range(12, 62)},
    ],
)
def test_it_equals_the_pooled_one(covariates, more):
    table, sites, c = drawn(covariates=covariates, **more)
    expected = combat(table, sites, c)
    _, shared, found = federated(table, sites, c)
    assert [each.mean + each.rest for each in shared] == pytest.approx(
        expected.alpha + [np.dot(e.centers, b) for e, b in zip(shared, expected.beta, strict=True)],
        rel=1e-12,
    )
    assert [each.variance for each in shared] == pytest.approx(expected.variance, rel=1e-9)
    for each, slopes in zip(shared, expected.beta, strict=True):
        assert each.slopes == pytest.approx(slopes, rel=1e-9)
    there = np.isfinite(expected.table)
    for i, site in enumerate(found):
        assert [each.shift for each in site] == pytest.approx(expected.gamma[i], rel=1e-9)
        assert [each.spread for each in site] == pytest.approx(expected.delta[i], rel=1e-9)
        for g, each in enumerate(site):
            rows = there[:, g] & (sites == i)
            relative = expected.relative[rows, g]
            assert each.values == pytest.approx(expected.table[rows, g], rel=1e-9)
            measured = moments(relative)
            assert each.moments.m2 == pytest.approx(measured.m2, rel=1e-9)
            apart = (each.moments.mean - expected.origins[g]) + each.moments.mean_rest
            assert apart == pytest.approx(measured.mean, rel=1e-9, abs=1e-12)


def test_a_hub_knows_before_what_sites_measure_after():
    """Means and squares of harmonised values follow from the sums: they tell nothing new."""
    table, sites, c = drawn(mean=1e8)
    own, shared, found = federated(table, sites, c)
    for site, harmonised in zip(own, found, strict=True):
        for columns, of, each in zip(site, shared, harmonised, strict=True):
            after = scatter_after(scatter(columns), of, each.shift, each.spread)
            assert after.products[0, 0] == pytest.approx(each.moments.m2, rel=1e-9)
            apart = (after.means[0] - each.moments.mean) + (after.rests[0] - each.moments.mean_rest)
            assert apart == pytest.approx(0, abs=1e-9)
            direct = scatter(np.column_stack([each.values - 1e8, columns[:, 1:]]))
            assert after.products == pytest.approx(direct.products, rel=1e-6)


MAKERS = {
    "GE": ("003", "012", "019", "032", "042"),
    "Siemens": ("017", "023", "025", "034", "035"),
    "Philips": ("002", "008", "024", "038", "047"),
}


def test_it_equals_the_pooled_one_of_real_scanners(shared_data):
    """Textures of the MR of 15 sarcomas, as the median of nine teams has them, by maker."""
    path = shared_data / "ibsi" / "reference" / "ibsi_1_validation_sarcoma.csv"
    every = pd.read_csv(path).query("modality == 'MR_T1'")
    wide = every.pivot(index="id", columns="tag", values="median")
    wide = wide[[tag for tag in wide if tag.startswith("cm_") and tag.endswith("_3D_comb")]]
    wide = wide.loc[[f"STS_{number}" for numbers in MAKERS.values() for number in numbers]]
    table, sites = wide.to_numpy(), np.repeat(np.arange(3), 5)
    assert table.shape[1] > 20
    nothing = np.zeros((15, 0))
    expected = combat(table, sites, nothing)
    _, _, found = federated(table, sites, nothing)
    for i, site in enumerate(found):
        for g, each in enumerate(site):
            assert each.shift == pytest.approx(expected.gamma[i, g], rel=1e-9)
            assert each.spread == pytest.approx(expected.delta[i, g], rel=1e-9)
            values = expected.table[sites == i, g]
            assert each.values == pytest.approx(values, rel=1e-9, abs=1e-9 * values.std())


def test_the_effect_of_sites_is_that_of_an_analysis_of_variance():
    table, sites, c = drawn(covariates=0)
    own, *_ = federated(table, sites, c)
    found = site_effect({str(i): scatter(site[0]) for i, site in enumerate(own)})
    expected = stats.f_oneway(*(site[0][:, 0] for site in own))
    assert found["statistic"] == pytest.approx(expected.statistic, rel=1e-9)
    assert found["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found["df"] == [2, len(table) - 3]
    variances = [site[0][:, 0].var(ddof=1) for site in own]
    assert found["variance_ratio"] == pytest.approx(max(variances) / min(variances), rel=1e-9)


def test_the_effect_of_sites_beside_covariates_is_that_of_an_analysis_of_covariance():
    import statsmodels.api as sm

    table, sites, c = drawn()
    own, *_ = federated(table, sites, c)
    found = site_effect({str(i): scatter(site[0]) for i, site in enumerate(own)})
    fewer = sm.OLS(table[:, 0], sm.add_constant(c)).fit()
    full = sm.OLS(table[:, 0], np.hstack([np.eye(3)[sites], c])).fit()
    statistic, p, df = full.compare_f_test(fewer)
    assert found["statistic"] == pytest.approx(statistic, rel=1e-9)
    assert found["p"] == pytest.approx(p, rel=1e-9)
    assert found["df"] == [df, full.df_resid]
    assert found["share"] == pytest.approx(1 - full.ssr / fewer.ssr, rel=1e-9)


def test_harmonised_sites_differ_less():
    table, sites, c = drawn()
    own, shared, found = federated(table, sites, c)
    for g in range(table.shape[1]):
        before = {str(i): scatter(site[g]) for i, site in enumerate(own)}
        after = {
            name: scatter_after(each, shared[g], found[i][g].shift, found[i][g].spread)
            for i, (name, each) in enumerate(before.items())
        }
        assert site_effect(after)["share"] < 0.1 * site_effect(before)["share"]
        assert site_effect(after)["variance_ratio"] < site_effect(before)["variance_ratio"]


def test_covariates_that_follow_from_each_other():
    table, sites, c = drawn()
    twice = np.column_stack([c, c[:, 0] - c[:, 1]])
    with pytest.raises(NotEstimated, match=COLLINEAR):
        federated(table, sites, twice)


def test_a_feature_that_its_covariates_explain_wholly():
    table, sites, c = drawn()
    table[:, 0] = 2 * c[:, 0] + sites
    with pytest.raises(NotEstimated, match=COLLINEAR):
        federated(table, sites, c)


def batch(*, rows=(20, 20), shifts=(0.1, -0.3), spreads=(0.9, 1.2)):
    return Batch(*(np.array(of, dtype=float) for of in (rows, shifts, spreads)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": [20], "shifts": [0.1], "spreads": [1.0]}, "fewer than two features"),
        ({"spreads": [1.0, 1.0]}, "are equal"),
        ({"spreads": [np.inf, 1.0]}, "beyond the range"),
        ({"spreads": [1e300, 1.0]}, "beyond the range"),
    ],
)
def test_features_without_priors(changes, words):
    with pytest.raises(NoPriors, match=words):
        posterior(batch(**changes))


def test_priors_are_the_moments_of_the_features():
    """A normal and an inverse gamma of these parameters have the features' mean and variance."""
    found = priors(batch(shifts=[0.2, 0.4], spreads=[0.8, 1.4]))
    assert (found.mean, found.variance) == pytest.approx((0.3, 0.02))
    law = stats.invgamma(found.shape, scale=found.scale)
    assert law.stats("mv") == pytest.approx((1.1, 0.18))


def test_what_is_drawn_lies_between_the_site_and_its_prior():
    shifts, spreads = posterior(batch(shifts=[0.2, 0.9], spreads=[0.7, 1.6]))
    assert 0.2 < shifts[0] < shifts[1] < 0.9
    assert 0.7 < spreads[0] < spreads[1] < 1.6


def test_shared_numbers_of_no_honest_hub_give_no_number():
    rng = np.random.default_rng(1)
    columns = rng.normal(0, 1, (20, 1))
    for variance in (1e-300, 5e-324):
        shared = Common(90, 1e99, 0.0, np.zeros(0), np.zeros(0), variance)
        with pytest.raises(NoPriors):
            harmonise([(columns, shared), (columns * 2, shared)])
