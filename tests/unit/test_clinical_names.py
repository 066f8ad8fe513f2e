"""A clinical variable asked for under two names that differ in one patient gives nothing of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from federation_world import protocol, site
from models_world import CLINICAL, build_after, clinical_of, entry, lost, past_of

STAGES = ["I", "II", "III"]
VARIABLES = [
    *CLINICAL,
    {"name": "weight", "type": "number", "range": [0, 300]},
    {"name": "weight_last", "type": "number", "range": [0, 300]},
    {"name": "grade", "type": "category", "values": STAGES},
    {"name": "alive", "type": "event"},
]


def summary(id, variable):
    return {"id": id, "kind": "summary", "variables": [f"clinical.{variable}"]}


def linear(id, variable):
    return entry("linear", id, covariates=[{"variable": f"clinical.{variable}"}])


def counts(id, variable):
    return {"id": id, "kind": "crosstab", "variables": [f"clinical.{variable}"], "values": STAGES}


PAIRS = [
    (summary, "weight", "weight_last"),
    (summary, "dead", "alive"),
    (linear, "weight", "weight_last"),
    (counts, "stage", "grade"),
]


def followed(folder, *analyses, changed):
    """Return a site whose variables of two names differ in so many patients."""
    text = protocol(analyses=list(analyses), clinical=VARIABLES)
    made = site(folder, "site0", 60, 0, content=text)
    made.clinical = clinical_of(made, 0)
    last = np.arange(60) < changed
    weight = np.round(np.random.default_rng(0).normal(80, 12, 60), 1)
    made.clinical["weight"], made.clinical["weight_last"] = weight, weight + 7 * last
    stage = made.clinical["stage"].map(STAGES.index).to_numpy()
    made.clinical["grade"] = np.array(STAGES, dtype=object)[(stage + last) % 3]
    dead = made.clinical["dead"].to_numpy()
    made.clinical["alive"] = np.where(last, dead, 1 - dead)
    made.write()
    return made


@pytest.mark.parametrize(("asked", "one", "other"), PAIRS)
def test_two_names_of_a_variable_that_differs_in_one_patient(tmp_path, asked, one, other):
    made = followed(tmp_path, asked("a", one), asked("b", other), changed=1)
    made.build()
    assert lost(json.loads((made.release / "disclosure.json").read_text())) == {"b": ["difference"]}


@pytest.mark.parametrize(("asked", "one", "other"), PAIRS)
def test_another_name_in_a_later_release(tmp_path, asked, one, other):
    made = followed(tmp_path / "first", asked("a", one), changed=1)
    made.build()
    later = followed(tmp_path / "second", asked("a", other), changed=1)
    assert lost(build_after(later, [past_of(made)])[1]) == {"a": ["earlier"]}


@pytest.mark.parametrize(("asked", "one", "other"), PAIRS)
def test_names_of_variables_that_differ_in_many_both_leave(tmp_path, asked, one, other):
    made = followed(tmp_path, asked("a", one), asked("b", other), changed=25)
    made.build()
    assert lost(json.loads((made.release / "disclosure.json").read_text())) == {}
