"""A first try on some cases: no other is processed, and a later run goes on from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace

import pandas as pd
import pytest
import yaml

from harness import ANEW, JOINED, ONE_CORE, Site, planned, planned_jobs

STAGES = ("prepare", "segment", "encode", "measure", "document", "overlay")


@dataclass(frozen=True)
class Tried(Site):
    """A site of which some cases are run."""

    chosen: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        return [*super().arguments, *self.chosen]


def of(site: Site, *chosen: str) -> Tried:
    return Tried(**asdict(site), chosen=chosen)


@pytest.fixture(scope="module")
def reference(contours_run, tmp_path_factory):
    """A finished run of two cases in one shard, which never had a subset."""
    folder = tmp_path_factory.mktemp("reference")
    content = yaml.safe_load(contours_run.configfile.read_text())
    content["processing"] = {"shard_size": 2}
    (folder / "site.yaml").write_text(yaml.safe_dump(content))
    site = replace(contours_run, folder=folder, results=folder / "results")
    shutil.copytree(contours_run.results / "catalog", site.results / "catalog")
    site.run(*ONE_CORE)
    return site


@pytest.fixture(scope="module")
def tried(reference, tmp_path_factory):
    """The same site after a try on one of the two cases."""
    site = replace(reference, results=tmp_path_factory.mktemp("tried") / "results")
    shutil.copytree(reference.results / "catalog", site.results / "catalog")
    cases = pd.read_csv(reference.out / "cohort" / "cases.tsv", sep="\t")["case_id"]
    tried = of(site, f"case={max(cases)}")
    (site.results / "printed.txt").write_text(tried.run(*ONE_CORE).stdout)
    return tried


@pytest.fixture(scope="module")
def whole(tried):
    """The site as it was then run without the subset, and what was planned and there before."""
    site = Site(*(getattr(tried, name) for name in Site.__dataclass_fields__))
    jobs = planned(site)
    (name,) = (path.name for path in (site.out / "shards").iterdir())
    stamps = {path: path.stat().st_mtime_ns for path in (site.out / "shards" / name).rglob("*")}
    site.run(*ONE_CORE)
    return site, jobs, stamps


def test_one_case_of_a_shard_is_processed_and_nothing_says_that_it_is_all(tried):
    (case,) = (word.removeprefix("case=") for word in tried.chosen)
    assert [path.name for path in (tried.out / "shards").iterdir()] == [f"s00001-{case}"]
    assert [path.name for path in (tried.out / "seg").iterdir()] == [case]
    joined = ("outcomes.parquet", "features", "verdict.json", "report", "crate", "accepted")
    for name in (*joined, "release"):
        assert not (tried.out / name).exists()
    assert set(tried.table("subset/outcomes.parquet")["case_id"]) == {case}
    assert set(tried.table("subset/features/features.parquet")["case_id"]) == {case}
    verdict = json.loads((tried.out / "subset" / "verdict.json").read_text())
    assert verdict["subset"] == {"cases": 1, "of": 2}
    page = (tried.out / "subset" / "report" / "index.html").read_text()
    assert "subset: 1 of 2 cases" in page
    printed = (tried.results / "printed.txt").read_text()
    assert "  subset:    1 of 2 cases\n" in printed
    assert "no release is built of a subset" in printed
    assert planned(tried) == {}


def test_a_subset_makes_no_release_and_no_model(tried):
    for target in ("release", "bundle", "send", "train"):
        made = tried.run(target, "--dry-run", check=False)
        assert made.returncode == 1
        assert made.stdout.splitlines()[-1].startswith("case and shards: a release or a model is")


def test_names_that_the_cohort_does_not_have_are_refused_at_once(tried):
    (case,) = (word.removeprefix("case=") for word in tried.chosen)
    other = case[:-1] + ("x" if case[-1] != "x" else "y")
    for wrong, message in (
        (f"case={other}", f"the cohort has no case '{other}'; did you mean '{case}'?"),
        ("shards=0007", "the cohort has no shard 's00007'; did you mean 's00001'?"),
        ("shards=first", "shards: 'first' is no shard"),
    ):
        made = of(tried_site(tried), wrong).run("--dry-run", check=False)
        assert made.returncode == 1
        assert message in made.stdout.splitlines()[-1]
        assert "Building DAG" not in made.stdout


def tried_site(tried: Tried) -> Site:
    return Site(*(getattr(tried, name) for name in Site.__dataclass_fields__))


def test_a_later_run_computes_what_is_left_and_nothing_again(reference, whole):
    site, jobs, stamps = whole
    once = {"apart": 1, **dict.fromkeys(STAGES, 1), **ANEW}
    assert jobs == once
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert planned(site) == {}


def test_its_tables_are_those_of_a_run_that_never_had_a_subset(reference, whole):
    site, _, _ = whole
    names = {
        str(path.relative_to(reference.out))
        for folder in ("seg", "sr", "overlays", "features", "cohort", "release/r01")
        for path in (reference.out / folder).rglob("*")
        # Records lead back to outcomes, whose seconds differ as costs do; pages name their folder.
        if path.is_file()
        and path.suffix != ".html"
        and path.name not in {"provenance.json", "cost.tsv", "built.json"}
    }
    assert len(names) > 15
    different = [
        name
        for name in sorted(names)
        if (site.out / name).read_bytes() != (reference.out / name).read_bytes()
    ]
    assert different == []
    timings = ["seconds", "max_rss_mb"]
    pd.testing.assert_frame_equal(
        site.table("outcomes.parquet").drop(columns=timings),
        reference.table("outcomes.parquet").drop(columns=timings),
        check_exact=True,
    )


def test_a_case_whose_part_is_gone_is_computed_with_its_shard(whole, tmp_path):
    shutil.copytree(whole[0].results, tmp_path / "results")
    site = replace(whole[0], results=tmp_path / "results")
    (part,) = (site.out / "cohort" / "apart").glob("s*-*.parquet")
    part.unlink()
    jobs, output = planned_jobs(site)
    assert jobs == {**dict.fromkeys(STAGES, 1), **JOINED}
    assert "prepare of s00001 runs again: a part of it is gone." in output


def test_a_shard_that_was_computed_is_not_split(reference, tmp_path):
    """Its rows of the case are taken; the release that is there stays as it is."""
    shutil.copytree(reference.results, tmp_path / "results")
    site = replace(reference, results=tmp_path / "results")
    case = min(pd.read_csv(site.out / "cohort" / "cases.tsv", sep="\t")["case_id"])
    for chosen, joined in ((f"case={case}", 1), ("shards=1", 1)):
        jobs, _ = planned_jobs(of(site, chosen))
        assert jobs == {"collect": joined, "report": 1, "crate": 1}
    assert planned(site) == {}
