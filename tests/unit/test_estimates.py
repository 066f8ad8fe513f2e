"""Terms of models equal those of a reference library; pages show each or why there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from jipflow.analyses.estimates import (
    INTERCEPT,
    REASONS,
    Wording,
    draw_estimates,
    estimates,
    inverse,
    rows_of,
)
from jipflow.plots import Effect, forest_plot

NAMES = (INTERCEPT, "age", "sex=F")
ODDS = Wording("Log odds ratio", "z", "Odds ratio", "events")
SLOPES = Wording("Coefficient", "t")


@pytest.fixture
def columns():
    rng = np.random.default_rng(3)
    return np.column_stack([np.ones(60), rng.normal(size=60), rng.integers(0, 2, 60)])


def test_terms_equal_those_of_an_ordinary_regression(columns):
    outcome = columns @ [1.0, 2.0, -0.5] + np.random.default_rng(4).normal(size=60)
    fit = sm.OLS(outcome, columns).fit()
    found = estimates(NAMES, fit.params, fit.cov_params(), df=fit.df_resid)
    for name, expected in (
        ("estimate", fit.params),
        ("se", fit.bse),
        ("low", fit.conf_int()[:, 0]),
        ("high", fit.conf_int()[:, 1]),
        ("statistic", fit.tvalues),
        ("p", fit.pvalues),
    ):
        assert [term[name] for term in found] == pytest.approx(list(expected), rel=1e-9)


def test_terms_of_a_logarithm_have_ratios_and_are_normal(columns):
    outcome = np.random.default_rng(5).integers(0, 2, 60)
    fit = sm.GLM(outcome, columns, sm.families.Binomial()).fit()
    found = estimates(NAMES, fit.params, fit.cov_params(), ratio=True)
    assert [term["p"] for term in found] == pytest.approx(list(fit.pvalues), rel=1e-9)
    ends = np.exp(fit.conf_int())
    assert [term["ratio_low"] for term in found] == pytest.approx(list(ends[:, 0]), rel=1e-9)
    assert [term["ratio_high"] for term in found] == pytest.approx(list(ends[:, 1]), rel=1e-9)


def test_terms_are_plain_numbers_whatever_they_are():
    found = estimates(["a", "b"], np.array([800.0, 1.0]), np.diag([1.0, 0.0]), ratio=True)
    assert found[0]["ratio"] is None
    assert found[1]["statistic"] is found[1]["p"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("coefficients", "variances"), [([np.nan], [1.0]), ([1.0], [np.inf]), ([1.0], [-1e-9])]
)
def test_what_is_no_estimate_is_refused(coefficients, variances):
    with pytest.raises(ValueError, match="must"):
        estimates(["a"], np.array(coefficients), np.diag(variances))


def test_an_inverse_does_not_depend_on_units(columns):
    units = np.diag([1.0, 1e-12, 1e12])
    information = columns.T @ columns
    found = inverse(units @ information @ units)
    expected = np.linalg.inv(units) @ np.linalg.inv(information) @ np.linalg.inv(units)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "columns_of",
    [
        lambda x: np.column_stack([x, x[:, 1]]),
        lambda x: np.column_stack([x, x[:, 0] - x[:, 2]]),
        lambda x: np.column_stack([x, x[:, 1] + 3e-4 * np.sin(np.arange(60))]),
        lambda x: np.column_stack([x, np.zeros(60)]),
        lambda x: np.column_stack([x, np.full(60, np.nan)]),
    ],
)
def test_collinear_columns_have_no_inverse(columns, columns_of):
    found = columns_of(columns)
    assert inverse(found.T @ found) is None


def test_columns_that_are_nearly_collinear_have_an_inverse(columns):
    found = np.column_stack([columns, columns[:, 1] + 1e-2 * np.sin(np.arange(60))])
    expected = np.linalg.inv(found.T @ found)
    assert inverse(found.T @ found) == pytest.approx(expected, rel=1e-6)


def cell(**changes):
    terms = estimates(NAMES, np.array([0.1, 0.7, -0.4]), np.diag([0.1, 0.04, 0.09]), ratio=True)
    about = {"role": "CT", "segmentation": "organs", "segment": "liver", "group": ""}
    more = {"feature": "volume_ml", "n": 93, "events": 41, "sites": ["a", "b", "c"]}
    return {**about, **more, "terms": terms, "reason": None, **changes}


def test_terms_are_rows_of_a_table():
    rows = rows_of([cell(), cell(feature="voxels", terms=[])])
    assert [(row["feature"], row["term"]) for row in rows] == [("volume_ml", n) for n in NAMES]
    assert list(rows[0])[:6] == ["role", "segmentation", "segment", "feature", "group", "term"]


def test_a_page_shows_each_term_and_plots_all_but_the_intercept():
    (group,) = draw_estimates("Odds.", [cell()], ["a", "b", "c", "d"], ODDS).groups
    assert [len(row) for row in group.table.rows] == [len(group.table.head)] * 3
    first = [str(each.text) for each in group.table.rows[0]]
    assert first[1:5] == ["3 of 4", "93", "41", INTERCEPT]
    plot = str(group.panels[0].plot)
    assert ">age<" in plot
    assert INTERCEPT not in plot
    assert "2.01 (1.36, 2.98)" in plot


def test_a_page_says_why_there_are_no_estimates():
    cells = [cell(terms=[], reason=reason) for reason in REASONS] + [cell(terms=[])]
    (group,) = draw_estimates("Odds.", cells, ["a", "b", "c"], ODDS).groups
    assert group.panels is None
    shown = [str(row[4].text) for row in group.table.rows]
    assert [REASONS[reason] in text for reason, text in zip(REASONS, shown, strict=False)] == [
        True
    ] * len(REASONS)
    assert "another round" in shown[-1]


def test_a_page_of_slopes_has_no_ratio():
    (group,) = draw_estimates("Slopes.", [cell()], ["a", "b", "c"], SLOPES).groups
    titles = [str(each.text) for each in group.table.head]
    assert titles[3:] == ["Term", "Coefficient", "SE", "95 % CI", "t", "p"]
    half = 0.2 * stats.norm.ppf(0.975)
    assert str(group.table.rows[1][6].text) == f"{0.7 - half:.4f} to {0.7 + half:.3f}"


def test_a_forest_plot_draws_ratios_that_are_beyond_all_numbers():
    rows = [Effect("huge", 1e300, 1e-300, None), Effect("tiny", 0.0, 0.0, 2.0)]
    plot = str(forest_plot("Ratios", rows, logarithmic=True))
    assert "nan" not in plot.replace("dominant", "")
    assert plot.count("<circle") == 2
    assert forest_plot("None", [Effect("x", None, None, None)]) is None
