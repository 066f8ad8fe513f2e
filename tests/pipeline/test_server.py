"""The jobs of a run load no library: they are copies of the server that the run starts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from harness import ONE_CORE

WATCH = """
import atexit, os, sys

def note():
    with open(os.environ["NOTES"], "a") as notes:
        loaded = "loaded" if "pyarrow" in sys.modules else "light"
        print(os.path.basename(sys.argv[0]), *sys.argv[1:2], loaded, file=notes)

atexit.register(note)
"""


def test_jobs_are_copies_of_the_server(contours_run, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    shutil.copytree(contours_run.results, tmp_path / "results")
    site = replace(contours_run, results=tmp_path / "results")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    Path(tmp_path, "temporary").mkdir()
    site.run(*ONE_CORE, "--forcerun", "measure")
    notes = (tmp_path / "notes").read_text().splitlines()
    # A command says that it loaded nothing, its copy what the server has loaded.
    for stage in ("measure", "document", "collect", "report"):
        assert sum(line == f"jipflow {stage} light" for line in notes) >= 1, notes
        assert sum(line == f"jipflow {stage} loaded" for line in notes) >= 1, notes
    assert not list(Path(tmp_path, "temporary").glob("jipflow-*"))
    cost = (site.out / "shards" / "s00001" / "measure" / "cost.tsv").read_text()
    assert float(cost.split()[-1]) > 50
