"""Of the stages that are one job on a cluster the last lines of a run name the one that failed."""

from __future__ import annotations

from pathlib import Path

from harness import ROOT, make_site, snakemake

FAILED_GROUP = """
include: {workflow!r}
from types import SimpleNamespace
stages = [
    SimpleNamespace(rule=SimpleNamespace(name=name), log=[{logs!r} + f"/{{name}}.log"])
    for name in ("prepare", "segment", "measure")
]
for stage in stages[:2]:
    Path(stage.log[0]).write_text("")
Path(stages[1].log[0]).write_text("jipflow: the disk is full.")
group = SimpleNamespace(is_group=lambda: True, toposorted=[stages[:1], stages[1:]])
single = SimpleNamespace(is_group=lambda: False, rule=SimpleNamespace(name="report"), log=[])
workflow.scheduler = SimpleNamespace(failed=[group, single])
print("FAILED", *[name for name, log in failed_jobs()])
workflow.scheduler = None
"""


def test_of_the_stages_of_a_group_the_one_that_failed_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    site = make_site(tmp_path, "site", "demo", [tmp_path / "images"])
    file = tmp_path / "Snakefile"
    workflow = str(ROOT / "workflow" / "Snakefile")
    file.write_text(FAILED_GROUP.format(workflow=workflow, logs=str(tmp_path)))
    words = ("catalog", "--snakefile", str(file), "--dry-run", *site.arguments)
    output = snakemake(*words, profile="local").stdout
    assert "FAILED segment report\n" in output, output[-3000:]
