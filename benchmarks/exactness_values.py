"""Kinds that describe and compare values, and what their peers find for all rows in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.oneway import anova_oneway

from exactness_cases import (
    SEX,
    SEXES,
    STAGE,
    Case,
    Entry,
    Found,
    Of,
    Pooled,
    columns_of,
    entry_of,
    moments_by_site,
    moments_of,
    rows_of,
)
from exactness_patients import MEAN, STAGES, Patients

QUANTILES, BINS, ROUNDS = [0.25, 0.5, 0.75], 10, 3


def _summary(patients: Patients, found: Found) -> dict[str, Any]:
    (cell,) = found["cells"]
    rows, offset = rows_of(patients, cell, MEAN), patients.offsets.get(MEAN, 0.0)
    whole = moments_of(rows[MEAN], offset)
    return {"cells": [whole | {"by_site": moments_by_site(rows[MEAN], rows["site"], offset)}]}


def _histogram(patients: Patients, found: Found) -> dict[str, Any]:
    """Bins that a site withholds are null, and so are those of all sites together then."""
    (cell,) = found["cells"]
    rows = rows_of(patients, cell, MEAN)
    edges = [-np.inf, *(np.array(found["edges"]) - patients.offsets.get(MEAN, 0.0)), np.inf]

    def shown(values: pd.Series, part: Found) -> dict[str, Any]:
        counts = np.histogram(values, edges)[0].tolist()
        silent = [part["under"], *part["counts"], part["over"]]
        counts = [None if n is None else count for n, count in zip(silent, counts, strict=True)]
        return {
            **{"n": len(values), "under": counts[0]},
            **{"counts": counts[1:-1], "over": counts[-1]},
        }

    parts = [
        shown(values, part)
        for (_, values), part in zip(rows[MEAN].groupby(rows["site"]), cell["by_site"], strict=True)
    ]
    return {"cells": [shown(rows[MEAN], cell) | {"by_site": parts}]}


def _range(patients: Patients) -> tuple[float, float]:
    """Return the range that quantiles are looked for in."""
    offset = patients.offsets.get(MEAN, 0.0)
    values = patients.near[MEAN].dropna()
    low, high = np.floor(values.min()), np.ceil(values.max())
    return float(low + offset), float(high + offset)


def _quantiles_entry(patients: Patients) -> dict[str, Any]:
    low, high = _range(patients)
    asked = {"quantiles": QUANTILES, "low": low, "high": high, "bins": BINS, "rounds": ROUNDS}
    return entry_of("quantiles", **asked)(patients)


def _quantiles(patients: Patients, found: Found) -> dict[str, Any]:
    """Counts between the edges that each site shows, and what lies between these of all rows.

    The estimate is the quantile of all rows if those of each site lie evenly between its edges.

    Raises:
        ValueError: the quantile of all rows does not lie between the two edges.
    """
    (cell,) = found["cells"]
    rows, offset = rows_of(patients, cell, MEAN), patients.offsets.get(MEAN, 0.0)
    low, high = (end - offset for end in _range(patients))
    knots = np.unique(
        [low, high, *(edge - offset for part in cell["by_site"] for edge in part["edges"])]
    )
    total, parts = np.zeros(knots.size), []
    for (_, values), part in zip(rows[MEAN].groupby(rows["site"]), cell["by_site"], strict=True):
        edges = np.array(part["edges"]) - offset
        # The upper end of the range is in the last bin.
        cuts = np.where(edges == high, np.nextafter(high, np.inf), edges)
        below = [(values < cut).sum() for cut in cuts]
        inner = [low, *edges, high]
        counted = [0, *below, len(values)]
        total += np.interp(knots, inner, counted)
        counts = np.diff(counted).tolist()
        parts.append(
            {"n": len(values), "rows": len(values), "edges": part["edges"], "counts": counts}
        )
    quantiles = []
    for each in cell["quantiles"]:
        truth = np.quantile(rows[MEAN], each["quantile"], method="inverted_cdf") + offset
        if not each["lower"] <= truth < each["upper"]:
            raise ValueError(f"{truth} is not between {each['lower']} and {each['upper']}")
        estimate = np.interp(each["quantile"] * len(rows), total, knots) + offset
        ends = {"lower": each["lower"], "upper": each["upper"]}
        quantiles.append({"quantile": each["quantile"], "estimate": estimate, **ends})
    whole = {"n": len(rows), "rows": len(rows), "minimum": 5}
    return {"cells": [whole | {"quantiles": quantiles, "by_site": parts}]}


def _levene_test(groups: list[pd.Series], center: str) -> dict[str, Any]:
    test = stats.levene(*groups, center=center)
    rows = sum(map(len, groups))
    return {
        **{"rows": rows, "statistic": test.statistic, "p": test.pvalue},
        "df": [len(groups) - 1, rows - len(groups)],
    }


def _spread(center: str) -> Pooled:
    """Return distances from each site's mean or median, and the test of the sites."""

    def pooled(patients: Patients, found: Found) -> dict[str, Any]:
        (cell,) = found["cells"]
        rows = rows_of(patients, cell, MEAN)
        of_sites = rows[MEAN].groupby(rows["site"])
        away = (rows[MEAN] - of_sites.transform(center)).abs()
        test = _levene_test([values for _, values in of_sites], center)
        whole = moments_of(away) | {"by_site": moments_by_site(away, rows["site"]), "test": test}
        return {"cells": [whole]}

    return pooled


def _levene_groups(patients: Patients, found: Found) -> dict[str, Any]:
    cells, groups = [], []
    for cell in found["cells"]:
        rows = rows_of(patients, cell, MEAN)
        values, middle = rows[MEAN], rows[MEAN].mean()
        away = (values - middle).abs()
        groups.append(values)
        centre = middle + patients.offsets.get(MEAN, 0.0)
        parts = moments_by_site(away, rows["site"])
        own = {"by_site": parts, "centre": centre, "centre_rows": len(rows)}
        cells.append(moments_of(away) | own)
    return {"cells": cells, "tests": [_levene_test(groups, "mean")]}


def _anova_test(groups: list[pd.Series]) -> dict[str, Any]:
    fisher = stats.f_oneway(*groups)
    welch = anova_oneway(groups, use_var="unequal", welch_correction=True)
    every = np.concatenate(groups)
    of = np.repeat(np.arange(len(groups)), [len(each) for each in groups])
    fit = sm.OLS(every, sm.add_constant(np.eye(len(groups))[of][:, 1:])).fit()
    return {
        **{"rows": every.size, "statistic": fisher.statistic, "p": fisher.pvalue},
        "df": [len(groups) - 1, every.size - len(groups)],
        **{"between": fit.ess, "within": fit.ssr, "eta_squared": fit.rsquared},
        "welch": {"statistic": welch.statistic, "df": list(welch.df), "p": welch.pvalue},
    }


def _anova(patients: Patients, found: Found) -> dict[str, Any]:
    (cell,) = found["cells"]
    rows, offset = rows_of(patients, cell, MEAN), patients.offsets.get(MEAN, 0.0)
    parts = moments_by_site(rows[MEAN], rows["site"], offset)
    test = _anova_test([values for _, values in rows[MEAN].groupby(rows["site"])])
    return {"cells": [moments_of(rows[MEAN], offset) | {"by_site": parts, "test": test}]}


def _anova_groups(patients: Patients, found: Found) -> dict[str, Any]:
    cells, groups, offset = [], [], patients.offsets.get(MEAN, 0.0)
    for cell in found["cells"]:
        rows = rows_of(patients, cell, MEAN)
        groups.append(rows[MEAN])
        parts = moments_by_site(rows[MEAN], rows["site"], offset)
        cells.append(moments_of(rows[MEAN], offset) | {"by_site": parts})
    return {"cells": cells, "tests": [_anova_test(groups)]}


def _covariance_entry(patients: Patients) -> dict[str, Any]:
    return entry_of("covariance", others=[{"variable": "clinical.age"}, SEX, STAGE])(patients)


def _covariance(patients: Patients, found: Found) -> dict[str, Any]:
    (cell,) = found["cells"]
    rows = rows_of(patients, cell, MEAN, "age", "sex", "stage")
    columns = columns_of(patients, rows, "sex", "stage")
    columns.insert(0, MEAN, rows[MEAN])
    columns.insert(1, "age", rows["age"])
    size, offsets = columns.shape[1], patients.offsets
    pairs = [(i, j) for i in range(size) for j in range(i + 1, size)]
    covariances = np.cov(columns.to_numpy().T)
    upper = np.triu_indices(size, 1)
    expected = []
    for i, j in pairs:
        peer = stats.pearsonr(columns.iloc[:, i], columns.iloc[:, j])
        low, high = peer.confidence_interval(0.95)
        expected.append(
            {
                "covariance": Of(covariances[i, j], np.sqrt(covariances[i, i] * covariances[j, j])),
                **{"correlation": Of(peer.statistic, 1), "p": peer.pvalue},
                **{"low": Of(low, 1), "high": Of(high, 1)},
            }
        )
    variables = []
    for name in columns:
        described = moments_of(columns[name], offsets.get(name, 0.0))
        variables.append({key: described[key] for key in ("mean", "variance", "sd")})
    n = {"n": len(rows)}
    parts = [
        {"n": len(part), "correlations": [Of(r, 1) for r in np.corrcoef(part.to_numpy().T)[upper]]}
        for _, part in columns.groupby(rows["site"])
    ]
    own = {**n, "variables": variables, "pairs": expected, "by_site": parts}
    named = {"variables": [each | n for each in variables], "pairs": [e | n for e in expected]}
    return {"cells": [own], **named}


def _crosstab_entry(**more: Any) -> Entry:
    about = {"variables": ["clinical.stage"], "values": STAGES, **more}
    return lambda patients: {**entry_of("crosstab")(patients), **about}


def _chi_square(table: np.ndarray) -> dict[str, Any]:
    found = stats.chi2_contingency(table, correction=False)
    return {
        **{"statistic": found.statistic, "df": found.dof, "p": found.pvalue},
        "v": stats.contingency.association(table, method="cramer", correction=False),
        "least_expected": found.expected_freq.min(),
    }


def _counts(rows: pd.DataFrame, columns: list[str] | None, part: Found) -> dict[str, Any]:
    """Return counts of stages, alone or across sexes; null where a site shows none."""
    of = rows["sex"] if columns else pd.Series("", rows.index)
    table = pd.crosstab(rows["stage"], of).reindex(index=STAGES, columns=columns or [""])
    counts = [
        [None if shown is None else int(n) for n, shown in zip(line, lines, strict=True)]
        for line, lines in zip(table.fillna(0).to_numpy(), part["counts"], strict=True)
    ]
    return {"n": len(rows), "counts": counts}


def _crosstab(columns: list[str] | None) -> Pooled:
    def pooled(patients: Patients, found: Found) -> dict[str, Any]:
        (cell,) = found["cells"]
        rows = rows_of(patients, cell, "stage", *(["sex"] if columns else []))
        whole = _counts(rows, columns, cell)
        parts = [
            _counts(rows[rows["site"] == part["site"]], columns, part) for part in cell["by_site"]
        ]
        if columns:
            test = _chi_square(np.array(whole["counts"]))
        else:
            test = _chi_square(np.array([np.ravel(part["counts"]) for part in parts]))
        every = [n for part in (whole, *parts) for line in part["counts"] for n in line]
        table = [{"count": n} for n in every]
        return {"cells": [whole | {"test": test, "by_site": parts}], "table": table}

    return pooled


CASES = (
    Case("summary", "mean and variance", "scipy", entry_of("summary"), _summary),
    Case(
        "histogram",
        "counts between edges",
        "numpy",
        lambda patients: entry_of(
            "histogram",
            edges=[
                float(np.round(q, 1) + patients.offsets.get(MEAN, 0.0))
                for q in np.nanquantile(patients.near[MEAN], [0.1, 0.3, 0.5, 0.7, 0.9])
            ],
        )(patients),
        _histogram,
        frozenset({"edges", "withheld"}),
    ),
    Case(
        "quantiles",
        "three quantiles, in rounds",
        "numpy",
        _quantiles_entry,
        _quantiles,
        frozenset({"quantiles", "low", "high", "bins", "rounds"}),
    ),
    Case("levene", "between sites", "scipy", entry_of("levene"), _spread("mean")),
    Case(
        "levene",
        "between the sexes, in two rounds",
        "scipy",
        entry_of("levene", by=SEXES),
        _levene_groups,
    ),
    Case("brown_forsythe", "between sites", "scipy", entry_of("brown_forsythe"), _spread("median")),
    Case(
        "anova",
        "between sites",
        "scipy, statsmodels",
        entry_of("anova"),
        _anova,
        frozenset({"mean_rest"}),
    ),
    Case(
        "anova",
        "between the sexes",
        "scipy, statsmodels",
        entry_of("anova", by=SEXES),
        _anova_groups,
        frozenset({"mean_rest"}),
    ),
    Case(
        "covariance",
        "five columns",
        "numpy, scipy",
        _covariance_entry,
        _covariance,
        frozenset({"others"}),
    ),
    Case(
        "crosstab",
        "stage between sites",
        "pandas, scipy",
        _crosstab_entry(),
        _crosstab(None),
        moves=False,
    ),
    Case(
        "crosstab",
        "stage across sex",
        "pandas, scipy",
        _crosstab_entry(across={"variable": "clinical.sex", "values": ["F", "M"]}),
        _crosstab(["F", "M"]),
        moves=False,
    ),
)
