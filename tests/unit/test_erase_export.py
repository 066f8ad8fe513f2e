"""An erasure and an export of the same results keep each other off, and a line says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pandas as pd
import pytest

from jipflow.cli import main
from jipflow.erasure.erase import erase
from jipflow.files import read_json, write_json
from jipflow.privacy.erased import add_erased
from jipflow.reasons import StageError
from jipflow.settings.run import read_settings
from test_omop import FIRST, world

__all__ = ["world"]


def typed(world, kind):
    """The words of an export of the world's results."""
    demo = str(world / "results" / "demo")
    if kind == "export":
        return [kind, "--results", demo, "--out", str(world / "given")]
    words = [*kind.split(), demo, str(world / "given"), "--persons", str(world / "persons.csv")]
    return [*words, "--first-id", str(FIRST)]


@contextmanager
def in_midst(world, kind):
    """Run an export that goes no further than the cohort, which does not come."""
    shard = world / "results" / "demo" / "cohort" / "shards" / "s00001.parquet"
    whole = shard.rename(world / "s00001.parquet")
    os.mkfifo(shard)
    with subprocess.Popen([sys.executable, "-m", "jipflow", *typed(world, kind)]) as process:
        try:
            deadline = time.monotonic() + 120
            lock = world / "results" / ".lock"
            while not (lock.is_file() and lock.read_bytes()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            process.kill()
            shard.unlink()
            whole.rename(shard)


@pytest.mark.parametrize("kind", ["export", "omop export"])
def test_an_erasure_waits_for_no_export_and_says_so(world, kind):
    site = read_settings(world / "results" / "demo" / "settings.json").site
    ledger = {"ledger_folder": str(world / "secrets" / "ledger")}
    site = site.model_copy(update={"identity": site.identity.model_copy(update=ledger)})
    features = world / "results" / "demo" / "features" / "features.parquet"
    before = features.read_bytes()
    with in_midst(world, kind), pytest.raises(StageError) as caught:
        erase(site=site, results=world / "results", patients=["P1"])
    assert f"is in use by jipflow {kind} of process" in str(caught.value)
    assert "wait until it is over, or end it there" in str(caught.value)
    assert features.read_bytes() == before
    assert erase(site=site, results=world / "results", patients=["P1"]).found.hits == []
    assert features.read_bytes() != before


@pytest.mark.parametrize("kind", ["export", "omop export"])
def test_no_export_begins_during_an_erasure(world, kind, capsys):
    code = (
        "import sys; from pathlib import Path; from jipflow.lock import alone\n"
        "with alone(Path(sys.argv[1]), 'jipflow erase'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(world / "results")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as erasure:
        assert erasure.stdout.readline() == "held\n"
        assert main(typed(world, kind)) == 1
        assert "is in use by jipflow erase of process" in capsys.readouterr().err
        assert not (world / "given").exists()
        erasure.stdin.close()
    if kind == "omop export":
        assert main(typed(world, kind)) == 0


def test_no_table_has_an_erased_patient_whose_results_came_back(world):
    file = world / "results" / "demo" / "settings.json"
    content = read_json(file)
    content["site"]["identity"]["ledger_folder"] = str(world / "secrets" / "ledger")
    write_json(file, content)
    assert main(typed(world, "omop export")) == 0
    persons = [*pd.read_csv(world / "given" / "image_occurrence.csv")["person_id"]]
    add_erased(read_settings(file).site.identity, world / "results", ["P1"])
    assert main(typed(world, "omop export")) == 0
    left = [*pd.read_csv(world / "given" / "image_occurrence.csv")["person_id"]]
    assert (set(persons), set(left)) == ({1, 2}, {2})
    assert {*pd.read_csv(world / "given" / "measurement.csv")["person_id"]} == {2}


def test_results_that_are_not_there_get_no_lock(tmp_path, capsys):
    assert main(["export", "--results", str(tmp_path / "x"), "--out", str(tmp_path / "out")]) == 1
    assert not list(tmp_path.iterdir())
