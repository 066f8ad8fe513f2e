"""A patient of a release is erased, and the next one does not tell by difference who is missing."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from federation_world import MEAN, site
from jipflow.erasure.erase import erase
from jipflow.privacy.pseudonyms import known_secret, pseudonym
from test_history import LIVER, forget, leaving, total

PATIENTS = 40
GONE = 7
"""A patient who has a liver, and no spleen that was measured."""
SPLEENS = range(10, PATIENTS)


def patient_id(number: int) -> str:
    return f"MRN-{number:05d}"


@pytest.fixture
def north(tmp_path):
    """A site that has packed a release of all its patients, who have a secret's pseudonyms."""
    world = site(tmp_path, "north", patients=PATIENTS)
    secret = known_secret(tmp_path / "north" / "keys" / "identity.key")
    world.number = {
        pseudonym(secret, "case", patient_id(number)): number for number in range(PATIENTS)
    }
    cases = {number: case for case, number in world.number.items()}
    numbers = [int(case[-4:]) for case in world.table["case_id"]]
    world.table["patient"] = [pseudonym(secret, "patient", patient_id(n)) for n in numbers]
    world.table["case_id"] = [cases[number] for number in numbers]
    measured = pd.Series(numbers).isin(SPLEENS) | (world.table["segment"] == "liver")
    world.table = world.table[measured].reset_index(drop=True)
    world.send(tmp_path / "outbox", 1)
    return world


def erased(world, numbers):
    """Erase patients from a results folder, and let the site go on with what is left there."""
    out = world.root / "results" / "demo"
    for folder, name in (("features", "features.parquet"), ("cohort", "cases.tsv")):
        (out / folder).mkdir(exist_ok=True)
        shutil.copy(world.root / name, out / folder / name)
    made = erase(
        site=world.settings.site,
        results=world.root / "results",
        patients=[patient_id(number) for number in numbers],
    )
    before = len(world.table)
    world.table = pd.read_parquet(out / "features" / "features.parquet")
    left = {world.number[case] for case in world.table["case_id"]}
    assert left == set(range(PATIENTS)) - set(numbers)
    assert len(world.table) < before
    return made


def test_an_erasure_between_two_releases_reveals_nobody_and_names_the_first(north):
    before, _ = leaving(north)
    values = north.table.set_index(["case_id", "segment"])[MEAN]
    case = next(case for case, number in north.number.items() if number == GONE)
    made = erased(north, [GONE])
    assert made.found.hits == []
    (line,) = made.released
    assert "round 1, attempt 1, 5 cells" in line
    behind = sum(cell[1] == "liver" for cell in before)
    assert line.endswith(f"of these cells {behind} have the patients behind them")
    assert patient_id(GONE) not in line
    assert case not in line

    after, withheld = leaving(north)
    assert withheld == behind
    # Cells that the patient was never in leave as they did.
    assert after == {key: cell for key, cell in before.items() if key[1] == "spleen"}
    assert len(after) == 2

    # Without the ledger two releases would tell the patient's value.
    forget(north)
    attacked, _ = leaving(north)
    assert total(before[LIVER]) - total(attacked[LIVER]) == pytest.approx(values[case, "liver"])


def test_enough_patients_who_are_erased_at_once_leave_a_release_to_the_others(north):
    made = erased(north, range(10))
    assert len(made.released) == 1
    after, withheld = leaving(north)
    assert withheld == 0
    assert {key: cell["n"] for key, cell in after.items()} == dict.fromkeys(after, 30)
    assert LIVER in after
