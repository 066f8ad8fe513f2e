"""Models and harmonisation, and what their peers find for all rows in one place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from lifelines import CoxPHFitter
from scipy import stats
from statsmodels.duration.hazard_regression import PHReg

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))

from combat_reference import combat
from exactness_cases import (
    SEX,
    STAGE,
    YEARS,
    Case,
    Entry,
    Found,
    Pooled,
    age_of,
    columns_of,
    entry_of,
    moments_of,
    rows_of,
)
from exactness_patients import MEAN, TEXTURES, Patients
from exactness_sites import ROLE

MIDDLE, SCALE = 50, 5
"""Center and unit of the feature; where 10⁸ was added, this is the center."""
LIFELINES = 1e-7
"""To which lifelines agrees, whose iterations stop by a rule of its own."""
REFINED = 5
"""Steps of Newton's method after a peer has converged by its own rule."""


def _terms(estimates: Any, errors: Any, df: float | None, *, ratios: bool) -> list[dict[str, Any]]:
    """Return what is shown of coefficients, by t or by the normal distribution."""
    law = stats.norm if df is None else stats.t(df)
    width, found = law.ppf(0.975), []
    for estimate, se in zip(np.asarray(estimates), np.asarray(errors), strict=True):
        low, high, statistic = estimate - width * se, estimate + width * se, estimate / se
        term = {"estimate": estimate, "se": se, "low": low, "high": high}
        term |= {"statistic": statistic, "p": 2 * law.sf(abs(statistic))}
        if ratios:
            names = ("ratio", "ratio_low", "ratio_high")
            term |= dict(zip(names, np.exp([estimate, low, high]), strict=True))
        found.append(term)
    return found


def _sizes(rows: pd.DataFrame, *, events: bool = False) -> list[dict[str, Any]]:
    return [
        {"n": len(part), **({"events": part["dead"].sum()} if events else {})}
        for _, part in rows.groupby("site")
    ]


def _linear_entry(patients: Patients) -> dict[str, Any]:
    return entry_of("linear", covariates=[age_of(patients), SEX, STAGE])(patients)


def _linear(patients: Patients, found: Found) -> dict[str, Any]:
    (cell,) = found["cells"]
    rows = rows_of(patients, cell, MEAN, "age", "sex", "stage")
    fit = sm.OLS(
        rows[MEAN], sm.add_constant(columns_of(patients, rows, "age", "sex", "stage"))
    ).fit()
    estimates = fit.params.to_numpy() + np.eye(5)[0] * patients.offsets.get(MEAN, 0.0)
    terms = _terms(estimates, fit.bse, fit.df_resid, ratios=False)
    own = {"n": len(rows), "by_site": _sizes(rows), "terms": terms, "df": fit.df_resid}
    own |= {"r_squared": fit.rsquared, "residual_sd": np.sqrt(fit.mse_resid)}
    return {"cells": [own], "estimates": terms}


def _predictor(patients: Patients) -> dict[str, Any]:
    """Return center and scale of the feature in models."""
    return {"center": patients.offsets.get(MEAN, float(MIDDLE)), "scale": SCALE}


def _generalised_entry(kind: str, outcome: str) -> Entry:
    return lambda patients: entry_of(
        kind,
        outcome={"variable": f"clinical.{outcome}"},
        covariates=[age_of(patients), SEX],
        **_predictor(patients),
    )(patients)


def _generalised(outcome: str, family: sm.families.Family) -> Pooled:
    def pooled(patients: Patients, found: Found) -> dict[str, Any]:
        (cell,) = found["cells"]
        rows = rows_of(patients, cell, MEAN, "age", "sex", outcome)
        center = _predictor(patients)["center"] - patients.offsets.get(MEAN, 0.0)
        design = columns_of(patients, rows, "age", "sex")
        design.insert(0, MEAN, (rows[MEAN] - center) / SCALE)
        model = sm.GLM(rows[outcome], sm.add_constant(design), family)
        beta = model.fit(tol=1e-14, maxiter=100).params.to_numpy()
        for _ in range(REFINED):
            beta = beta - np.linalg.solve(model.hessian(beta), model.score(beta))
        errors = np.sqrt(np.diag(np.linalg.inv(-model.hessian(beta))))
        terms = _terms(beta, errors, None, ratios=True)
        own = {"n": len(rows), "events": rows[outcome].sum(), "by_site": _sizes(rows)}
        return {"cells": [own | {"terms": terms}], "estimates": terms}

    return pooled


def _cox_entry(patients: Patients) -> dict[str, Any]:
    about = {"time": "clinical.days", "event": "clinical.dead", "scale": SCALE}
    return entry_of("cox", covariates=[age_of(patients), SEX], **about)(patients)


def _cox(patients: Patients, found: Found) -> dict[str, Any]:
    """By statsmodels, iterated to the last digits; lifelines, which stops earlier, is to agree."""
    (cell,) = found["cells"]
    rows = rows_of(patients, cell, MEAN, "age", "sex", "days", "dead")
    x = columns_of(patients, rows, "age", "sex")
    x.insert(0, MEAN, rows[MEAN] / SCALE)
    x -= x.mean()
    peer = PHReg(rows["days"], x, rows["dead"], strata=rows["site"], ties="efron")
    beta = peer.fit(disp=0).params
    for _ in range(REFINED):
        beta = beta - np.linalg.solve(peer.hessian(beta), peer.score(beta))
    fitter = CoxPHFitter().fit(
        x.join(rows[["days", "dead", "site"]]),
        "days",
        "dead",
        strata="site",
        fit_options={"precision": 1e-14, "r_precision": 1e-14, "step_size": 1.0},
    )
    np.testing.assert_allclose(fitter.params_, beta, rtol=LIFELINES)
    information = -peer.hessian(beta)
    terms = _terms(beta, np.sqrt(np.diag(np.linalg.inv(information))), None, ratios=True)
    wald = beta @ information @ beta
    own = {"n": len(rows), "events": rows["dead"].sum(), "by_site": _sizes(rows, events=True)}
    own |= {"wald": {"statistic": wald, "df": 3, "p": stats.chi2.sf(wald, 3)}}
    return {"cells": [own | {"terms": terms}], "estimates": terms}


def _combat_entry(patients: Patients) -> dict[str, Any]:
    variables = [f"{ROLE}.{name}" for name in TEXTURES[1:]]
    return {
        **entry_of("combat", covariates=[age_of(patients), SEX])(patients),
        "variables": variables,
    }


def _spread_of(values: pd.Series | np.ndarray, offset: float) -> dict[str, Any]:
    described = moments_of(values, offset)
    return {name: described[name] for name in ("mean", "variance", "sd")}


def _sites_beyond(y: np.ndarray, columns: np.ndarray, sites: pd.Series) -> dict[str, Any]:
    """Return how much sites differ beyond what columns explain: the analysis of covariance."""
    of = pd.get_dummies(sites).to_numpy(float)
    whole = sm.OLS(y, np.hstack([of, columns])).fit()
    without = sm.OLS(y, sm.add_constant(columns)).fit()
    statistic, p, df = whole.compare_f_test(without)
    variances = pd.Series(y).groupby(sites.to_numpy()).var()
    return {
        **{"statistic": statistic, "df": [df, whole.df_resid], "p": p},
        "share": (without.ssr - whole.ssr) / without.ssr,
        "variance_ratio": variances.max() / variances.min(),
    }


def _combat(patients: Patients, found: Found) -> dict[str, Any]:
    """By ComBat in float64 on the pooled table, and what follows of its features."""
    names = [cell["feature"] for cell in found["cells"]]
    rows = rows_of(patients, found["cells"][0], "age", "sex").reset_index(drop=True)
    columns = columns_of(patients, rows, "age", "sex").to_numpy()
    peer = combat(rows[names].to_numpy(), rows["site"].to_numpy(), columns)
    cells = []
    for g, cell in enumerate(found["cells"]):
        offset, there = patients.offsets.get(names[g], 0.0), rows[names[g]].notna()
        sites, before = rows["site"][there], rows[names[g]][there]
        after = pd.Series(peer.relative[there, g], before.index)
        moved = offset + peer.origins[g]
        parts = [
            {
                "n": len(before[sites == site]),
                "before": _spread_of(before[sites == site], offset),
                "after": _spread_of(after[sites == site], moved),
                **{"shift": peer.gamma[i, g], "spread": peer.delta[i, g]},
            }
            for i, site in enumerate(sorted(set(sites)))
        ]
        effect = {
            name: _sites_beyond(values.to_numpy(), columns[there], sites)
            for name, values in (("before", before), ("after", after))
        }
        slopes = dict(zip(cell["slopes"], peer.beta[g] / [YEARS, 1], strict=True))
        own = {"n": len(before), "effect": effect, "slopes": slopes, "by_site": parts}
        own |= {"before": _spread_of(before, offset), "after": _spread_of(after, moved)}
        cells.append(own)
    return {"cells": cells}


CASES = (
    Case(
        "linear",
        "age, sex and stage",
        "statsmodels",
        _linear_entry,
        _linear,
        frozenset({"covariates"}),
    ),
    Case(
        "logistic",
        "death by feature, age and sex, in rounds",
        "statsmodels",
        _generalised_entry("logistic", "dead"),
        _generalised("dead", sm.families.Binomial()),
        frozenset({"outcome", "covariates", "center", "scale", "rounds"}),
    ),
    Case(
        "poisson",
        "visits by feature, age and sex, in rounds",
        "statsmodels",
        _generalised_entry("poisson", "visits"),
        _generalised("visits", sm.families.Poisson()),
        frozenset({"outcome", "covariates", "center", "scale", "rounds"}),
    ),
    Case(
        "cox",
        "death by feature, age and sex, in rounds",
        "statsmodels, lifelines",
        _cox_entry,
        _cox,
        frozenset({"covariates", "scale", "rounds"}),
    ),
    Case(
        "combat",
        "five features beside age and sex, in two rounds",
        "ComBat in float64, statsmodels",
        _combat_entry,
        _combat,
        frozenset({"covariates"}),
    ),
)
