"""Attacks by several releases: who has all that ever left a site learns of no patient's value.

Each attack is shown to work on a site that remembers nothing of what left.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from federation_world import EDGES, MEAN, features, protocol, site
from jipflow.settings.run import settings_of

MINIMUM = 5


@pytest.fixture
def north(tmp_path, inbox):
    """A site of 20 patients that has released once."""
    world = site(tmp_path, "north", patients=30)
    world.all = world.table
    of(world, range(20))
    world.send(inbox)
    return world


def of(world, patients):
    """Let a site have measured these of its patients."""
    cases = {f"case{world.name}{i:04d}" for i in patients}
    world.table = world.all[world.all["case_id"].isin(cases)].reset_index(drop=True)


def under(world, **changes):
    """Let a site run another protocol, of the same secret and ledger."""
    content = protocol(**changes)
    content["protocol"]["id"] = "other"
    world.settings = settings_of(world.settings.site.plain(), content)


def forget(world):
    """Let a site remember nothing of what left."""
    shutil.rmtree(world.settings.site.identity.ledger_folder, ignore_errors=True)
    (world.root / "results" / "ledger.json").unlink(missing_ok=True)
    for bundles in (world.root / "results").glob("*/bundles"):
        shutil.rmtree(bundles)


def leaving(world):
    """Return what would leave: the numbers of each cell, and how many the ledger keeps back."""
    world.write()
    aggregates, record = world.build()
    cells = {
        (a["id"], cell["segment"], cell["feature"]): cell
        for a in aggregates["analyses"]
        for cell in a["cells"]
    }
    return cells, record["summary"]["withheld"]["earlier"]


def total(cell):
    return cell["rows"] * cell["mean"]


LIVER = ("describe", "liver", MEAN)


@pytest.mark.parametrize("patients", [range(21), range(19), [*range(19), 20], range(24)])
def test_two_releases_that_differ_by_few_patients(north, patients):
    before, _ = leaving(north)
    of(north, patients)
    cells, withheld = leaving(north)
    assert not cells
    assert withheld == 5
    forget(north)
    attacked, _ = leaving(north)
    if len(patients) == 21:
        value = total(attacked[LIVER]) - total(before[LIVER])
        row = north.all[
            (north.all["case_id"] == "casenorth0020") & (north.all["segment"] == "liver")
        ]
        assert value == pytest.approx(row[MEAN].item())


def test_a_release_of_another_protocol_that_differs_by_one(north):
    of(north, range(21))
    under(north)
    assert leaving(north) == ({}, 5)
    forget(north)
    assert len(leaving(north)[0]) == 5


def test_other_names_and_units_hide_nothing(north):
    """The same region under another segmentation, its mean in other units."""
    content = protocol()["segmentations"][0] | {"id": "again"}
    under(
        north,
        segmentations=[content],
        radiomics=[{"segmentation": "again", "role": "CT", "settings": "pyradiomics_ct"}],
    )
    of(north, range(21))
    north.table["segmentation"] = "again"
    north.table[MEAN] = 1000 - 3 * north.table[MEAN]
    assert leaving(north)[0] == {}


def test_the_same_release_again_tells_nothing_new(north, inbox):
    before, withheld = leaving(north)
    assert withheld == 0
    assert len(before) == 5
    north.send(inbox, attempt=2)
    assert leaving(north) == (before, 0)


def test_another_protocol_on_the_same_patients_leaves(north):
    before, _ = leaving(north)
    under(north)
    assert leaving(north) == (before, 0)


def test_enough_new_patients_leave(north):
    of(north, range(30))
    cells, withheld = leaving(north)
    assert withheld == 0
    assert {cell["n"] for cell in cells.values()} == {30}


def test_new_patients_who_are_all_in_one_bin(north):
    """That each of them is in it would follow from the two counts."""
    of(north, range(26))
    north.table.loc[north.table["case_id"] >= "casenorth0020", "volume_ml"] = 150.0
    cells, withheld = leaving(north)
    assert withheld == 1
    assert ("volumes", "liver", "volume_ml") not in cells


def test_new_patients_of_whom_one_makes_the_difference(north):
    of(north, range(26))
    one = (north.table["case_id"] == "casenorth0023") & (north.table["segment"] == "liver")
    north.table.loc[one, MEAN] = 5000.0
    cells, _ = leaving(north)
    assert LIVER not in cells
    assert ("describe", "spleen", MEAN) in cells


def test_new_patients_of_whom_few_come_into_a_bin(north):
    of(north, range(26))
    new = north.table["case_id"] >= "casenorth0020"
    north.table.loc[new, "volume_ml"] = [150.0] * 10 + [250.0] * 2
    cells, _ = leaving(north)
    assert ("volumes", "liver", "volume_ml") not in cells


@pytest.mark.parametrize("count", [1, 4])
def test_the_same_patients_with_the_values_of_few_changed(north, count):
    before, _ = leaving(north)
    some = north.table["case_id"] < f"casenorth{count:04d}"
    north.table.loc[some & (north.table["segment"] == "liver"), MEAN] *= 1.5
    cells, _ = leaving(north)
    assert LIVER not in cells
    assert cells[("describe", "spleen", MEAN)] == before[("describe", "spleen", MEAN)]
    forget(north)
    assert LIVER in leaving(north)[0]


def test_edges_that_are_shifted_from_release_to_release(north):
    def shifted(by):
        analyses = protocol()["analyses"]
        analyses[1]["edges"] = [edge + by for edge in EDGES]
        under(north, analyses=analyses)
        return ("volumes", "liver", "volume_ml") in leaving(north)[0]

    assert shifted(0)
    assert not any(shifted(by) for by in (0.5, 2, -1))
    forget(north)
    assert shifted(2)


def test_more_functions_of_one_region_than_patients(tmp_path, inbox):
    """Each release stays within the equations of a family, and all of them together do not."""
    shapes = ["SurfaceArea", "Sphericity", "MajorAxisLength", "MinorAxisLength", "LeastAxisLength"]
    named = [f"original_shape_{shape}" for shape in shapes]
    north = site(tmp_path, "north", patients=8)
    rng = np.random.default_rng(3)
    for name in named:
        north.table[name] = rng.uniform(0.3, 0.9, len(north.table))

    def asked(*names):
        analyses = [
            {
                "id": "shape",
                "kind": "summary",
                "variables": [f"CT.{name}" for name in names],
                "segments": ["liver"],
            }
        ]
        under(north, analyses=analyses)

    asked(*named[:2])
    assert len(leaving(north)[0]) == 2
    north.send(inbox)
    asked(*named[2:4])
    cells, withheld = leaving(north)
    assert (len(cells), withheld) == (1, 1)
    north.send(inbox, attempt=2)
    asked(named[4])
    assert leaving(north) == ({}, 1)
    forget(north)
    assert len(leaving(north)[0]) == 1


def test_a_patient_who_lost_one_of_two_cases(tmp_path, inbox):
    north = site(tmp_path, "north", patients=12)
    second = features("north", 12, 5).assign(case_id=lambda t: t["case_id"] + "b")
    north.table = pd.concat([north.table, second], ignore_index=True)
    north.send(inbox)
    north.table = north.table[north.table["case_id"] != "casenorth0003b"]
    cells, _ = leaving(north)
    assert LIVER not in cells
    forget(north)
    assert LIVER in leaving(north)[0]


def test_a_ledger_of_a_site_is_for_all_its_results(north, tmp_path):
    """The folder of results does not matter: what left once has left."""
    of(north, range(21))
    north.root = tmp_path / "elsewhere"
    Path(north.root).mkdir()
    assert leaving(north)[0] == {}
