"""The patients behind each number: a table of the page and a file, by what was released alone."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from federation_world import MEAN
from jipflow.hub.merge import carried, merge
from jipflow.hub.patients import patients_behind
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import TABLES, write_tables
from jipflow.report.behind import tables_behind
from jipflow.report.hub import write_hub_report
from models_world import accepted, entry, three

AGE = {"variable": "clinical.age"}
BY = {"of": "clinical.sex", "groups": {"women": "F", "men": "M"}}
SITES = ["site0", "site1", "site2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Sites of 60, 75 and 97 patients, of which the first has no ages of six."""
    analyses = [
        entry("summary", "uptake", variables=[f"CT.{MEAN}", "clinical.age"]),
        entry("linear", "model", covariates=[AGE]),
        entry("summary", "sexes", variables=["clinical.visits"], by=BY),
    ]
    made, settings = three(tmp_path_factory.mktemp("patients"), *analyses)
    made[1].table.loc[made[1].table["segment"] == "liver", MEAN] = np.nan
    made[1].write()
    return merge(accepted=accepted(made, settings), settings=settings), made, settings


def found(result):
    return {
        (each.analysis, each.key.feature, each.key.group, each.site): (each.n, each.fewer)
        for each in patients_behind(result)
    }


def test_each_site_has_the_patients_of_each_cell(world):
    numbers = found(world[0])
    assert numbers["uptake", MEAN, "", "site0"] == (60, 0)
    assert numbers["uptake", "age", "", "site0"] == (54, 6)
    assert numbers["model", MEAN, "", "site0"] == (54, 6)
    assert numbers["model", MEAN, "", "site2"] == (97, 0)


def test_a_site_that_withheld_a_cell_has_no_number(world):
    numbers = found(world[0])
    assert numbers["uptake", MEAN, "", "site1"] == (None, None)
    assert numbers["uptake", "age", "", "site1"] == (75, 0)


def test_a_group_is_no_smaller_for_those_who_are_in_others(world):
    numbers = found(world[0])
    women, men = (numbers["sexes", "visits", name, "site2"] for name in ("women", "men"))
    assert women[0] + men[0] == 97
    assert women[1] is men[1] is None


def test_numbers_with_noise_are_not_counted(world):
    result = {
        "sites": [{"id": "a"}],
        "analyses": [{"id": "private", "kind": "noisy_mean", "cells": [{"n": 3.2}]}],
    }
    assert patients_behind(result) == []
    assert tables_behind([], ["a"]) == []


@pytest.mark.parametrize("more", [{}, {"by_site": []}, {"by_site": [{"site": "a", "rows": 3}]}])
def test_a_kind_without_numbers_by_site_is_not_there(world, more):
    cell = dict.fromkeys(("role", "segmentation", "segment", "feature", "group"), "x") | more
    analysis = {"id": "other", "kind": "summary", "cells": [cell]}
    assert patients_behind({"sites": [{"id": "a"}], "analyses": [analysis]}) == []


def test_an_analysis_of_an_earlier_round_is_there_as_well(world):
    result, _, settings = world
    later = {**result, "round": 2, "analyses": result["analyses"][:1]}
    assert found(carried(later, [result], settings)) == found(result)


def test_features_of_as_many_patients_share_a_row(world):
    result = world[0]
    cell = result["analyses"][0]["cells"][0]
    many = [cell | {"feature": f"original_glcm_{name}"} for name in "ABCDE"]
    few = [cell | {"feature": "volume_ml", "by_site": cell["by_site"][:1]}]
    analysis = {"id": "textures", "kind": "summary", "cells": [*many, *few]}
    (group,) = tables_behind(patients_behind({**result, "analyses": [analysis]}), SITES)
    first, second = [
        [re.sub("<[^>]+>", "", str(cell.text)) for cell in row] for row in group.table.rows
    ]
    assert (first[0], second[0]) == ("original_glcm_A and 4 more", "volume_ml")
    assert second[1:] == [str(cell["by_site"][0]["n"]), "withheld", "withheld", "textures"]


def test_the_page_and_a_file_have_them(world, tmp_path):
    result, made, settings = world
    write_hub_report(
        result=result,
        accepted=accepted(made, settings),
        rejected=[],
        settings=settings,
        outlook=Outlook(1, [], [], further=False),
        path=tmp_path / "report.html",
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '54<span class="muted small"> 6 fewer</span>' in page
    assert f'href="{TABLES}/patients_behind.csv"' in page
    with (tmp_path / TABLES / "patients_behind.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * sum(len(each["cells"]) for each in result["analyses"])
    row = next(r for r in rows if (r["feature"], r["site"]) == ("age", "site0"))
    assert (row["analysis"], row["n"], row["fewer"]) == ("uptake", "54", "6")
    row = next(r for r in rows if (r["analysis"], r["site"]) == ("model", "site1"))
    assert (row["n"], row["fewer"]) == ("", "")


def test_a_round_without_a_release_has_a_file_without_rows(tmp_path):
    write_tables({"sites": [], "analyses": []}, tmp_path / TABLES)
    (head,) = (tmp_path / TABLES / "patients_behind.csv").read_text().splitlines()
    assert head.startswith("role,")
