"""What pooling the patients of a rehearsal would give, beside what the hub has."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import multivariate_logrank_test
from scipy import stats

from jipflow.files import read_json
from survival_sites import LOG_HAZARD

PROTOCOL = "sarcoma-survival"
Number = tuple[str, float, float]
"""What it is, what the hub has, and what pooling gives."""


def pooled(out: Path) -> pd.DataFrame:
    """Return a row a patient of all sites of a rehearsal, with the features of PET and of T1."""
    rows = []
    for results in sorted((out / "results").iterdir()):
        folder = results / PROTOCOL
        features = pd.read_parquet(folder / "features" / "features.parquet")
        clinical = pd.read_parquet(folder / "clinical" / "clinical.parquet")
        for role in ("PT", "T1"):
            of_role = features[features["role"] == role].set_index("case_id")
            named = of_role[["volume_ml", "original_firstorder_Mean"]].add_prefix(f"{role}.")
            clinical = clinical.join(named, on="case_id")
        rows.append(clinical.assign(maker=results.name))
    return pd.concat(rows, ignore_index=True)


def latest(out: Path) -> dict[str, Any]:
    """Return the hub's result of the last round."""
    rounds = sorted((out / "hub" / "results" / PROTOCOL / "rounds").glob("r*/result.json"))
    return {each["id"]: each for each in read_json(rounds[-1])["analyses"]}


def compared(out: Path) -> Iterator[Number]:
    """Yield the numbers of each analysis of the protocol."""
    found, rows = latest(out), pooled(out)
    for cell in found["describe"]["cells"]:
        name = (
            cell["feature"] if cell["role"] == "clinical" else f"{cell['role']}.{cell['feature']}"
        )
        values = rows[name].dropna()
        yield f"describe: mean of {name}", cell["mean"], values.mean()
        yield f"describe: SD of {name}", cell["sd"], values.std()
    of_makers = [of["T1.original_firstorder_Mean"].dropna() for _, of in rows.groupby("maker")]
    (test,) = [cell["test"] for cell in found["makers"]["cells"]]
    yield "makers: F", test["statistic"], stats.f_oneway(*of_makers).statistic
    yield from _linear(found["uptake-by-age"], rows)
    yield from _lived(found["lived"], rows)
    yield from _hazard(found["hazard"], rows)


def _linear(analysis: dict[str, Any], rows: pd.DataFrame) -> Iterator[Number]:
    design = np.column_stack([(rows["age"] - 60) / 10, rows["PT.volume_ml"] / 100])
    fit = sm.OLS(rows["PT.original_firstorder_Mean"], sm.add_constant(design)).fit()
    for term, estimate, se in zip(analysis["estimates"], fit.params, fit.bse, strict=True):
        yield f"uptake-by-age: {term['term']}", term["estimate"], estimate
        yield f"uptake-by-age: SE of {term['term']}", term["se"], se


def _lived(analysis: dict[str, Any], rows: pd.DataFrame) -> Iterator[Number]:
    """Compare the curve at the edges that all sites show: times are counted as these edges."""
    curve = [each for each in analysis["curves"] if not each["site"]]
    edges = np.array([each["edge"] for each in curve])
    later = edges[np.minimum(np.searchsorted(edges, rows["followed"]), edges.size - 1)]
    # Who is observed beyond the last edge has had no event by then.
    event = (rows["dead"] == 1) & (rows["followed"] <= edges[-1])
    fitted = KaplanMeierFitter().fit(later, event)
    for each in curve:
        expected = float(fitted.predict(each["edge"]))
        yield f"lived: at {each['edge']:g} days", each["survival"], expected
    (tests,) = [each for each in analysis["tests"] if each["over"] == "sites"]
    found = multivariate_logrank_test(later, rows["maker"], event)
    yield "lived: log-rank of the sites", tests["statistic"], found.test_statistic


def _hazard(analysis: dict[str, Any], rows: pd.DataFrame) -> Iterator[Number]:
    columns = ["age", "PT.volume_ml", "followed", "dead", "maker"]
    table = rows[columns].dropna().assign(age=lambda of: of["age"] / 10)
    table["PT.volume_ml"] /= 100
    fit = CoxPHFitter().fit(
        table, "followed", "dead", strata=["maker"], fit_options={"precision": 1e-12}
    )
    names = {"volume_ml": "PT.volume_ml", "age": "age"}
    for term in analysis["estimates"]:
        expected = fit.params_[names[term["term"]]]
        yield f"hazard: {term['term']}", term["estimate"], expected
        yield f"hazard: SE of {term['term']}", term["se"], fit.standard_errors_[names[term["term"]]]


def main() -> None:
    """Print a line a number."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the rehearsal")
    for name, here, there in compared(parser.parse_args().out):
        apart = abs(here - there) / abs(there)
        print(f"{name:52} {here:22.15g} {there:22.15g} {apart:8.1e}")
    print(f"the simulation's logarithm of the hazard for ten years of age: {LOG_HAZARD['decades']}")


if __name__ == "__main__":
    main()
