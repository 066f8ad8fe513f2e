"""The pages of site, releaser and hub: what they say, and what they must not hold."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fake_results as fake
from jipflow import plots
from jipflow.files import read_json, sha256_file, write_json, write_parquet
from jipflow.hub.decisions import Accepted, RejectedBundle
from jipflow.outcomes import Outcome, Status, read_outcomes, write_outcomes
from jipflow.privacy.redaction import Redactor
from jipflow.reasons import Decision, Reason, StageError
from jipflow.release.contents import formats, read_release
from jipflow.release.sent import Sent
from jipflow.release.since import read_review
from jipflow.release.terms import Terms
from jipflow.report import pages
from jipflow.report.disclosure import write_disclosure_page
from jipflow.report.hub import write_hub_report
from jipflow.report.site import provenance
from jipflow.report.site.cases import CaseRow, StageCount, stage_counts
from jipflow.report.site.cohort import cohort_flow, measured
from jipflow.report.site.features import feature_summaries
from jipflow.report.site.overlays import shrink
from jipflow.report.site.page import write_report
from jipflow.report.site.provenance import model_files
from jipflow.report.site.readers import reader_groups
from jipflow.report.site.reasons import decision_tally
from jipflow.report.site.run import read_run
from jipflow.report.site.stability import stability_groups
from jipflow.report.withheld import disclosure_summary
from jipflow.settings.protocol import Protocol
from jipflow.settings.resources import MODELS, read_yaml
from jipflow.settings.run import load_settings
from jipflow.settings.schema import load
from jipflow.tables import AGREEMENT_VALUES
from jipflow.version import commit, full_version

VOID = {"meta", "link", "img", "br", "wbr", "input", "path", "circle", "rect"}


class Page(HTMLParser):
    """Reads a page, checks that its tags close in order, and keeps what tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.goes_on = False
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.goes_on = tag == "wbr"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append((self.words.pop() if self.goes_on else "") + data)
            self.goes_on = False

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fake.build(tmp_path_factory.mktemp("site") / "results" / "demo")
    fake.add_release(folder, fake.settings())
    return folder


@pytest.fixture(scope="module")
def report(results: Path) -> str:
    path = results / "report" / "index.html"
    write_report(results=results, settings=fake.settings(), path=path)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def a_round(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], list[Accepted], list[RejectedBundle]]:
    return fake.round_of(tmp_path_factory.mktemp("hub"))


def assert_self_contained(text: str, beside: Sequence[str] = ()) -> None:
    """Check that a page loads nothing, and links to nothing but pages beside it."""
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = attributes.get(name, "")
            linked = tag == "a" and value.partition("#")[0] in beside
            inside = value == "" or value.startswith(("data:", "#"))
            assert inside or linked, (tag, name, value[:80])
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!data:|#)", text)
    assert "http:" not in text
    assert "https:" not in text
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_report_is_one_file_that_loads_nothing(report: str) -> None:
    assert_self_contained(report)


def test_the_policy_allows_the_very_script_of_the_page(report: str) -> None:
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", report, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in report


def test_report_holds_pseudonyms_only(report: str) -> None:
    visible = re.sub(r"base64,[A-Za-z0-9+/=]+", "", report)
    for secret in (fake.PATIENT_NAME, "Doe", "Jane", *fake.PATIENT_IDS, fake.UID, "/data/dicom"):
        assert secret not in visible


def test_report_says_what_the_pacs_was_asked(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(results, folder)
    patient = fake.PATIENT_IDS[0]
    asked = {
        "queries": [
            {"keys": {"Modality": "CT", "StudyDate": "20200101-20201231"}, "series": 31},
            {"keys": {"PatientID": patient}, "series": 2},
        ],
        "annotations": {"keys": {"Modality": ["RTSTRUCT"]}, "queries": 9, "series": 17},
    }
    write_json(folder / "pacs" / "queries.json", {"sources": {"archive": asked}})
    write_parquet(folder / "pacs" / "series.parquet", pd.DataFrame({"PatientID": [patient]}))
    write_report(results=folder, settings=fake.settings(), path=tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Modality = CT, StudyDate = 20200101-20201231" in page
    assert "RTSTRUCT of the patients of the cohort" in page
    assert patient not in page


def test_same_files_give_the_same_bytes(results: Path, report: str, tmp_path: Path) -> None:
    write_report(results=results, settings=fake.settings(), path=tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == report


def test_report_says_what_happened(results: Path, report: str) -> None:
    page = Page(report)
    text = page.text
    assert "Enough cases succeeded; a release may be built" in text
    assert "2 of 13 cases failed" in text
    assert "Beside them 1 was excluded before the first stage, 7\u202f% of 14" in text
    for sentence in (
        "Series found 33 series · 15 patients",
        "Left: 4 series · 1 patient",
        "missing_role",
        "missing_slices",
        Reason.MISSING_SLICES.meaning.rstrip("."),
        "Cases with every outcome ok 11 cases",
        "4\u202f213",
        "not_finite",
        "ab" * 32,
        "SIEMENS Biograph 64",
        "liver (organs) implausible_volume 312.5 ml 1000 to 2000 ml",
        "liver (organs) implausible_intensity −7.500 HU 40 to 180 HU",
        "liver (organs) touches_border at the border away from it",
        "spleen (organs) many_components 11 pieces at most 2",
        "spleen (organs) folds_disagree 0.31 at most 0.2",
        "Of 24 segments that were checked",
    ):
        assert sentence in text, sentence
    assert len(page.all("figure")) > sum("flagged" in word for word in page.words) > 0
    rows = [a for a in page.all("tbody") if a.get("class") == "case"]
    assert [a["data-status"] for a in rows] == ["failed"] * 2 + ["excluded"] + ["ok"] * 11
    assert len(page.all("figure")) == len(list(results.glob("overlays/*/*.png")))


def test_pages_say_which_code_wrote_them(
    report: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"Made by jipflow {full_version()}." in Page(report).text
    assert ("Commit at the report" in report) == (commit() is not None)
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab+dirty")
    write_report(results=results, settings=fake.settings(), path=tmp_path / "x.html")
    text = Page((tmp_path / "x.html").read_text(encoding="utf-8")).text
    assert "Commit at the report 0123456789ab+dirty" in text


def test_a_protocol_that_expects_nothing_flags_nothing(results: Path, tmp_path: Path) -> None:
    made = fake.settings()
    content = made.protocol.plain()
    for spec in content["segmentations"]:
        for segment in spec["segments"]:
            segment.pop("expect", None)
    plain = made.model_copy(update={"protocol": load(Protocol, content, "test")})
    write_report(results=results, settings=plain, path=tmp_path / "plain.html")
    text = Page((tmp_path / "plain.html").read_text(encoding="utf-8")).text
    assert "The protocol says of no segment what it expects of it" in text
    assert "implausible_volume" not in text


def test_every_picture_and_plot_speaks(report: str) -> None:
    page = Page(report)
    shown = [a for a in page.all("img") if a["src"] != "data:,"]
    assert all(len(a["alt"]) > 20 for a in shown)
    assert all(a["aria-label"] for a in page.all("svg"))
    assert len(page.all("h1")) == 1
    names = {a["id"] for _, a in page.tags if "id" in a}
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in names


def test_pictures_keep_to_the_budget(
    tmp_path: Path, report: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(report) < 2_000_000
    rng = np.random.default_rng(1)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (454, 1232, 3), dtype=np.uint8)).save(stream, "PNG")
    data, (width, height) = shrink(stream.getvalue(), 10_000)
    assert width < 1232
    assert width / height == pytest.approx(1232 / 454, rel=0.01)
    large, size = shrink(stream.getvalue(), 10_000_000)
    assert size == (1232, 454)
    assert len(data) < len(large)


def test_a_picture_that_is_made_fast_looks_like_its_file_and_takes_hardly_more_room(
    results: Path,
) -> None:
    file = next((results / "overlays").rglob("*.png"))
    picture, slow = Image.open(file), io.BytesIO()
    picture.save(slow, "WEBP", quality=82, method=4)
    data, _ = shrink(file.read_bytes(), 1_000_000)
    assert len(data) < 1.1 * slow.tell()
    apart = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) - np.asarray(picture)
    assert np.sqrt(np.mean(apart**2)) < 4


def test_text_from_files_is_escaped(results: Path, tmp_path: Path) -> None:
    changed = tmp_path / "results" / "demo"
    fake.build(changed, pictures=False)
    outcomes = read_outcomes(changed / "outcomes.parquet")
    bad = next(o for o in outcomes if o.status is Status.FAILED)
    bad.message = "<script>alert(1)</script>"
    write_outcomes(changed / "outcomes.parquet", outcomes)
    write_report(results=changed, settings=fake.settings(), path=tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_report_without_the_optional_files(results: Path, tmp_path: Path) -> None:
    bare = tmp_path / "results" / "demo"
    fake.build(bare, pictures=False)
    for path in ("features", "failures", "quality"):
        (bare / "features" / f"{path}.parquet").unlink()
    for path in (bare.parent / "catalog").iterdir():
        path.unlink()
    write_report(results=bare, settings=fake.settings(), path=tmp_path / "bare.html")
    text = Page((tmp_path / "bare.html").read_text(encoding="utf-8")).text
    for sentence in (
        "There are no overlays",
        "No features were measured",
        "There is no segment that the protocol expects something of",
        "The catalog's summary is not there",
        "The candidate is built after this report",
    ):
        assert sentence in text


def test_errors_that_nobody_expected_are_the_verdict(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "demo"
    fake.build(folder, pictures=False)
    verdict = json.loads((folder / "verdict.json").read_text())
    write_json(folder / "verdict.json", {**verdict, "unexpected": 1, "acceptable": False})
    write_report(results=folder, settings=fake.settings(), path=tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Cases met errors that jipflow does not know; nothing is released" in text
    assert "1 of them met an error that jipflow does not know" in text


def test_an_empty_cohort(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "demo"
    fake.build(folder, pictures=False)
    write_outcomes(folder / "outcomes.parquet", [])
    header = (folder / "cohort" / "cases.tsv").read_text().splitlines()[0]
    (folder / "cohort" / "cases.tsv").write_text(header + "\n")
    for name in ("features", "failures", "quality"):
        path = folder / "features" / f"{name}.parquet"
        pd.read_parquet(path).iloc[:0].to_parquet(path)
    verdict = {"cases": 0, "ok": 0, "failed": 0, "excluded": 0, "failed_fraction": 0.0}
    write_json(
        folder / "verdict.json", {**verdict, "max_failed_fraction": 0.1, "acceptable": False}
    )
    write_report(results=folder, settings=fake.settings(), path=tmp_path / "empty.html")
    text = Page((tmp_path / "empty.html").read_text(encoding="utf-8")).text
    assert "There is no case; nothing is released" in text
    assert "No case entered the first stage" in text
    assert "✓" not in text
    assert "There was no case that could fail" in text


def verdict_of(folder: Path, tmp_path: Path, **counts: Any) -> Page:
    """The page of a results folder whose verdict has other counts."""
    changed = tmp_path / "results" / "demo"
    shutil.copytree(folder, changed, ignore=shutil.ignore_patterns("overlays"))
    shutil.copytree(folder.parent / "catalog", changed.parent / "catalog")
    write_json(changed / "verdict.json", {**read_json(changed / "verdict.json"), **counts})
    write_report(results=changed, settings=fake.settings(), path=tmp_path / "x.html")
    return Page((tmp_path / "x.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("counts", "mark", "title"),
    [
        ({"excluded": 9}, "good", "Enough cases succeeded; a release may be built"),
        ({"excluded": 10}, "care", "but many did not enter"),
        ({"excluded": 95, "cases": 5, "failed": 0}, "care", "but many did not enter"),
        ({"acceptable": False}, "bad", "Too many cases failed; nothing is released"),
    ],
)
def test_excluded_cases_cost_the_green_mark(
    results: Path, tmp_path: Path, counts: dict[str, Any], mark: str, title: str
) -> None:
    page = verdict_of(results, tmp_path, **counts)
    assert f"verdict {mark}" in {a.get("class") for a in page.all("section")}
    assert title in page.text
    assert f"{counts.get('excluded', 1)} w" in page.text


def test_sources_without_dicom_are_named(results: Path, tmp_path: Path) -> None:
    changed = tmp_path / "results" / "demo"
    shutil.copytree(results, changed, ignore=shutil.ignore_patterns("overlays"))
    shutil.copytree(results.parent / "catalog", changed.parent / "catalog")
    path = changed.parent / "catalog" / "summary.json"
    none = dict.fromkeys(read_json(path), 0) | {"files": 12, "not_dicom": 12}
    by_source = {name: {"files": n, "dicom_files": 0} for name, n in (("empty", 0), ("notes", 12))}
    write_json(path, {**none, "sources": by_source})
    write_outcomes(changed / "outcomes.parquet", [])
    empty = {"cases": 0, "ok": 0, "failed": 0, "excluded": 0, "acceptable": False}
    page = verdict_of(changed, tmp_path / "again", **empty)
    for words in ("No DICOM file was found in the sources:", "empty (no file)", "notes (12 files)"):
        assert words in page.text
    assert "✓" not in page.text
    assert "tile ok" not in {a.get("class", "").strip() for a in page.all("div")}


def test_tiles_of_the_catalog_add_up(report: str) -> None:
    tiles = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", report))
    number = {name: int(re.sub(r"\D", "", text)) for name, text in tiles.items()}
    parts = ("DICOM, read", "DICOM, unreadable", "Not DICOM")
    assert number["Files"] == sum(number[name] for name in parts) + 3
    assert [number[name] for name in parts] == [4196, 2, 12]


def test_the_report_counts_whom_the_release_is_of(results: Path, report: str) -> None:
    """The numbers of patients of a release are those that the site's report gives."""
    made = fake.settings()
    rows = {row.segmentation: row for row in measured(read_run(results, made))}
    aggregates = read_json(results / "release" / "r01" / "aggregates.json")
    released = {(c["segmentation"], c["n"]) for a in aggregates["analyses"] for c in a["cells"]}
    assert {("organs", rows["organs"].patients), ("gtv", rows["gtv"].patients)} <= released
    assert (rows["organs"].cases, rows["organs"].incomplete) == (12, 1)
    assert (rows["gtv"].cases, rows["gtv"].incomplete) == (12, 1)
    assert rows["organs"].segments == [(name, 12) for name in fake.ORGANS]
    assert "liver 12, spleen 12, kidney-left 12, lesion 12" in Page(report).text


def test_every_page_is_for_research_only(
    report: str, results: Path, a_round: Any, tmp_path: Path
) -> None:
    disclosure = _disclosure_page(results, tmp_path)
    for text in (report, disclosure, _hub_report(*a_round, tmp_path)):
        foot = text.split("<footer>")[1]
        assert "Research only: jipflow is no medical device" in foot
    for path in pages.TEMPLATES.glob("*.html.j2"):
        whole = "<html" in path.read_text() or "{% block content %}" in path.read_text()
        assert not whole or path.name == "base.html.j2" or "base.html.j2" in path.read_text()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("/data/Doe^Jane/CT 2/IM 0004.dcm ends early.", "‹path› ends early."),
        ("cannot read 'C:\\img\\Doe Jane\\x.dcm'; try again", "cannot read '‹path›'; try again"),
        ("in archive/Doe/IM1 there", "in ‹path› there"),
        ("Doe_Jane.dcm is short", "‹path› is short"),
        (f"series {fake.UID} has gaps", "series ‹UID› has gaps"),
        ("series 2.25.5614609482327035251690841144734418993: tilted", "series ‹UID›: tilted"),
        (
            "highdicom 0.28.2 at 1.25 mm, version 1.2.3.4",
            "highdicom 0.28.2 at 1.25 mm, version 1.2.3.4",
        ),
        ("patient MRN-77812.", "patient ‹patient›"),
        ("SUV in g/mL and/or 3 of 5 slices, 1.5 mm", "SUV in g/mL and/or 3 of 5 slices, 1.5 mm"),
    ],
)
def test_redaction(message: str, expected: str) -> None:
    assert Redactor([*fake.PATIENT_IDS, "5"])(message) == expected


def outcome(case: str, stage: str, item: str = "", reason: str = "") -> Outcome:
    status = Status.FAILED if reason else Status.OK
    if reason == "missing_role":
        status = Status.EXCLUDED
    return Outcome(case, stage, item, status, reason)


def test_decisions_are_counted_by_item_and_case() -> None:
    outcomes = [
        Outcome("a", "prepare", "PT", decisions=["unusual_uptake", "unusual_body"]),
        Outcome("a", "prepare", "PT2", decisions=["unusual_uptake"]),
        Outcome("b", "prepare", "PT", decisions=["unusual_body"]),
        Outcome("c", "prepare", "PT", decisions=["of_a_later_version"]),
        Outcome("c", "prepare", "CT"),
    ]
    counts = decision_tally(outcomes)
    assert [(c.decision, c.items, c.cases) for c in counts] == [
        ("unusual_body", 2, 2),
        ("of_a_later_version", 1, 1),
        ("unusual_uptake", 2, 1),
    ]
    assert counts[2].meaning == Decision.UNUSUAL_UPTAKE.meaning
    assert counts[1].meaning == ""


def test_cohort_flow_counts_a_case_once_where_it_left() -> None:
    flow = {
        "steps": [
            {"step": "found", "label": "Series found", "series": 10, "patients": 5},
            {"step": "where-1", "label": "x", "series": 8, "patients": 5},
            {"step": "cases", "label": "Cases", "series": 6, "patients": 3, "cases": 3},
        ]
    }
    outcomes = [
        outcome("e", "cohort", reason="missing_role"),
        outcome("a", "prepare", "CT", "missing_slices"),
        outcome("a", "segment", "organs", "depends_on_failed"),
        outcome("b", "prepare", "CT"),
        outcome("b", "segment", "organs", "empty_segment"),
        outcome("b", "segment", "gtv", "no_contours"),
        outcome("c", "prepare", "CT"),
        outcome("c", "segment", "organs"),
    ]
    boxes = cohort_flow(flow, outcomes, ["prepare", "segment"])
    assert [box.left for box in boxes] == [
        [],
        [("series", 2)],
        [("series", 2), ("patients", 2)],
        [("cases", 1)],
        [("cases", 1)],
        [],
    ]
    assert boxes[2].reasons == [("missing_role", 1)]
    assert boxes[3].reasons == [("missing_slices", 1)]
    assert boxes[4].reasons == [("empty_segment", 1), ("no_contours", 1)]
    assert [box.counts[-1] for box in boxes[2:]] == [
        ("cases", 3),
        ("cases", 2),
        ("cases", 1),
        ("cases", 1),
    ]


def test_cells_of_the_table() -> None:
    row = CaseRow(
        "a",
        outcomes=[
            outcome("a", "prepare", "CT", "missing_slices"),
            outcome("a", "prepare", "PT"),
            outcome("a", "segment", "organs", "depends_on_failed"),
            outcome("a", "segment", "gtv"),
            outcome("a", "encode", "organs", "depends_on_failed"),
        ],
    )
    assert row.cell("prepare") == ("failed", "1 of 2 ok")
    assert row.cell("segment") == ("partial", "1 of 2 ok")
    assert row.cell("encode") == ("none", "not reached")
    assert row.cell("measure") == ("none", "not reached")
    assert row.status is Status.FAILED
    assert row.problems[0].reason == "missing_slices"
    counts = {c.stage: c for c in stage_counts([row], ["prepare", "segment", "encode"])}
    assert counts["Prepare"] == StageCount("Prepare", 1, 2, 1, 1, 0, 0, 0)
    assert counts["Segment"] == StageCount("Segment", 1, 2, 1, 0, 0, 0, 1)
    assert counts["Encode"] == StageCount("Encode", 0, 1, 0, 0, 0, 0, 1)
    assert counts["Cohort"] == StageCount("Cohort", 1, 1, 1, 0, 0, 0, 0)


def test_a_picture_that_was_not_drawn_is_missing_in_the_table() -> None:
    outcomes = [
        outcome("a", "segment", "organs", "empty_segment"),
        outcome("a", "segment", "gtv"),
        outcome("a", "overlay", "gtv"),
    ]
    row = CaseRow("a", outcomes=outcomes)
    assert row.cell("overlay") == ("partial", "1 of 2 ok")
    gone = CaseRow("b", outcomes=[outcome("b", "cohort", reason="missing_role")])
    cohort, overlay = stage_counts([row, gone], ["overlay"])
    assert overlay == StageCount("Overlay", 1, 2, 1, 0, 0, 0, 1)
    assert cohort == StageCount("Cohort", 1, 2, 1, 0, 0, 1, 0)


def test_summaries_match_pandas(results: Path) -> None:
    features = pd.read_parquet(results / "features" / "features.parquet")
    groups = feature_summaries(features)
    liver = next(g for g in groups if g.title == "liver · CT · organs")
    values = features.query("segment == 'liver'")["original_firstorder_Mean"]
    row = next(r for r in liver.rows if r[0] == "original_firstorder_Mean")
    assert row[1:] == (12, 0, values.mean(), values.std(), values.median())
    kidney = next(g for g in groups if g.title.startswith("kidney"))
    assert next(r for r in kidney.rows if r[0] == "original_glcm_Contrast")[1:3] == (11, 1)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 4, "0"),
        (None, 4, "–"),
        (math.nan, 4, "–"),
        (1234.567, 4, "1\u202f235"),
        (-0.012345, 3, "−0.0123"),
        (1.5e-9, 2, "1.5e−9"),
        (2.5e8, 3, "2.50e8"),
    ],
)
def test_numbers(value: float | None, digits: int, text: str) -> None:
    assert pages.number(value, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.12 s"),
        (9.4, "9.4 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert plots.duration(seconds) == text


def test_axes_hold_their_values() -> None:
    for values in ([1, 2, 3], [5, 5], [0.001, 900], [-3, 4], [0], [1e-12, 2e-12]):
        axis = plots.axis_for(values)
        pixels = [axis(value) for value in values]
        assert all(axis.left <= pixel <= axis.right for pixel in pixels)
        assert pixels == sorted(pixels)
    assert plots.axis_for([1, 100]).logarithmic
    assert not plots.axis_for([0, 100]).logarithmic


def test_quantiles_are_numpys() -> None:
    values = sorted(np.random.default_rng(3).normal(size=11).tolist())
    for q in (0, 0.25, 0.5, 0.75, 1):
        assert plots.quantile(values, q) == pytest.approx(np.quantile(values, q), rel=1e-12)


def test_a_strip_of_many_cases_stays_light() -> None:
    points = [(f"c{n}", float(n)) for n in range(5000)]
    drawn = plots.strip_plot("x", [plots.Strip("liver", "#ffffff", points)])
    assert drawn.count("<circle") == plots.MAX_POINTS
    assert "n = 5000" in drawn


def _disclosure_page(results: Path, folder: Path, sent: Sequence[Sent] = ()) -> str:
    return fake.write_disclosure(results, fake.settings(), folder / "d.html", sent)


def test_disclosure_page_shows_every_value(results: Path, tmp_path: Path) -> None:
    folder = results / "release" / "r01"
    aggregates, disclosure = (read_json(folder / f"{n}.json") for n in ("aggregates", "disclosure"))
    text = _disclosure_page(results, tmp_path)
    assert_self_contained(text, ["index.html"])
    shown = Page(text).text
    cells = 0
    for analysis in aggregates["analyses"]:
        for cell in analysis["cells"]:
            cells += 1
            assert cell["feature"] in shown
            if analysis["kind"] == "summary":
                assert pages.number(cell["mean"], 7) in shown
                assert pages.number(cell["m2"], 7) in shown
    assert cells == disclosure["summary"]["released"] > 0
    assert disclosure["summary"]["withheld"]["difference"] > 0
    for cell in disclosure["cells"]:
        if not cell["released"]:
            assert cell["feature"] in shown
    assert "jipflow release approve" in shown
    for name in ("aggregates.json", "disclosure.json"):
        assert sha256_file(folder / name) in shown


def test_disclosure_page_holds_nothing_else(results: Path, tmp_path: Path) -> None:
    text = _disclosure_page(results, tmp_path)
    cases = (results / "cohort" / "cases.tsv").read_text().splitlines()[1:]
    for line in cases:
        case, patient = line.split("\t")[:2]
        assert case not in text
        assert patient not in text
    assert fake.settings().site.site.name not in text


def test_hash_and_size_of_the_page_say_nothing_of_its_counts(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both leave with the approval; without the secret nobody can try which counts they are of."""

    def page(secret: bytes, counted: int | None = None) -> str:
        if counted is not None:
            found = replace(fake.basis_of(results, fake.settings()), patients=counted)
            monkeypatch.setattr(fake, "basis_of", lambda *_: found)
        return fake.write_disclosure(results, fake.settings(), tmp_path / "d.html", secret=secret)

    first = page(b"1" * 32)
    assert page(b"1" * 32) == first
    assert page(b"2" * 32) != first
    other = page(b"1" * 32, 123_456)
    assert other != first
    assert len(other.encode()) == len(first.encode())


def test_disclosure_page_refuses_files_that_differ(results: Path, tmp_path: Path) -> None:
    release = read_release(results / "release" / "r01")
    fewer, more = release.aggregates.plain(), release.disclosure.plain()
    fewer["analyses"][0]["cells"].pop()
    next(c for c in more["cells"] if c["released"])["released"] = False
    for changed in (
        {"aggregates": formats().aggregates.model_validate(fewer)},
        {"disclosure": formats().disclosure.model_validate(more)},
    ):
        with pytest.raises(StageError, match="build the release again"):
            write_disclosure_page(
                release=replace(release, **changed),
                terms=Terms.of(fake.settings()),
                review=read_review(results / "release" / "r01", built=False),
                path=tmp_path / "d.html",
                basis=fake.basis_of(results, fake.settings()),
                secret=bytes(32),
            )
    assert not (tmp_path / "d.html").exists()


def test_disclosure_summary(results: Path) -> None:
    record = read_release(results / "release" / "r01").disclosure
    summary = disclosure_summary(record)
    assert summary["kept"] + summary["withheld"] == len(record.cells)
    assert {r["rule"]: r["cells"] for r in summary["rules"]} == {
        rule: cells for rule, cells in record.summary.withheld.items() if cells
    }


def _hub_report(result: Any, accepted: Any, rejected: Any, folder: Path) -> str:
    path = folder / "hub.html"
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=fake.OUTLOOK,
        settings=fake.hub(folder),
        path=path,
    )
    return path.read_text(encoding="utf-8")


def test_hub_report(a_round: Any, tmp_path: Path) -> None:
    result, accepted, rejected = a_round
    text = _hub_report(result, accepted, rejected, tmp_path)
    tables = [f"tables/{path.name}" for path in (tmp_path / "tables").iterdir()]
    assert_self_contained(text, ["result.json", "tables/", *tables])
    shown = Page(text).text
    for words in ("aachen", "berlin", "heidelberg", "demo-berlin-copy.age", "sender_signature"):
        assert words in shown
    summary = next(a for a in result["analyses"] if a["kind"] == "summary")
    for cell in summary["cells"]:
        assert pages.number(cell["mean"], 5) in shown
    histogram = next(a for a in result["analyses"] if a["kind"] == "histogram")
    assert any(None in cell["counts"] for cell in histogram["cells"])
    assert "withheld" in shown
    assert _hub_report(result, accepted, rejected, tmp_path) == text


def test_hub_report_of_a_cell_that_one_site_withheld(a_round: Any, tmp_path: Path) -> None:
    result, accepted, rejected = copy.deepcopy(a_round)
    cell = next(a for a in result["analyses"] if a["kind"] == "summary")["cells"][0]
    before = _withheld(result, accepted, rejected, tmp_path)
    cell["by_site"] = cell["by_site"][1:]
    cell["sites"] = cell["sites"][1:]
    assert _withheld(result, accepted, rejected, tmp_path) > before


def _withheld(result: Any, accepted: Any, rejected: Any, folder: Path) -> int:
    return _hub_report(result, accepted, rejected, folder).count(">withheld<")


def test_hub_report_without_any_site(a_round: Any, tmp_path: Path) -> None:
    result = json.loads(json.dumps(a_round[0]))
    result["sites"] = []
    for analysis in result["analyses"]:
        analysis["cells"] = []
    shown = Page(_hub_report(result, [], a_round[2], tmp_path)).text
    assert "No release was accepted" in shown
    assert "No cell of this analysis was released" in shown


def test_histogram_marks_what_is_withheld() -> None:
    drawn = plots.histogram_plot("x", [0, 1, 2, 5], [3, None, 7], under=0, over=None)
    assert drawn.count('class="hatched"') == 2
    assert drawn.count('class="bar"') == 2
    assert "above" in drawn
    assert "below" not in drawn


def test_stability_is_sorted_into_bands(tmp_path: Path) -> None:
    key = {"role": "PT", "segmentation": "gtv", "segment": "gtv", "measurements": 4}
    values = {"firstorder_Mean": 0.95, "firstorder_Energy": 0.9, "glcm_Contrast": 0.74}
    values |= {"glcm_Imc1": -0.2, "glcm_MCC": math.nan}
    table = pd.DataFrame(
        [
            {**key, "feature": f"original_{name}", "cases": 9, "icc": icc, "lower": icc, "upper": 1}
            for name, icc in values.items()
        ]
    )
    (group,) = stability_groups(table)
    assert group.title == "gtv · PT · gtv"
    assert (group.cases, group.measurements) == (9, 4)
    assert group.classes == [("firstorder", 2, [2, 0, 0, 0]), ("glcm", 3, [0, 0, 1, 1])]
    assert [row[0] for row in group.rows] == [
        f"original_{name}"
        for name in ("glcm_Imc1", "glcm_Contrast", "firstorder_Energy", "firstorder_Mean")
    ] + ["original_glcm_MCC"]
    assert stability_groups(None) == stability_groups(table[:0]) == []
    results = tmp_path / "results" / "demo"
    fake.build(results, pictures=False)
    table.to_parquet(results / "features" / "stability.parquet")
    write_report(results=results, settings=fake.settings(), path=tmp_path / "x.html")
    page = Page((tmp_path / "x.html").read_text(encoding="utf-8"))
    assert "Stability" in page.text
    assert "4 outlines of 9 cases" in page.text


def test_the_files_of_models_are_those_of_the_registry(tmp_path: Path) -> None:
    assert model_files(fake.settings()) == []
    site = {"site": {"id": "north", "name": "North"}, "protocol": "demo"}
    sources = [{"name": "archive", "kind": "folder", "path": str(tmp_path)}]
    pinned = read_yaml(MODELS)["models"]["phantom-ct"]["files"]
    settings = load_settings({**site, "sources": sources})
    assert model_files(settings) == [("phantom-ct", *pair) for pair in pinned.items()]


def test_readings_are_summed_up() -> None:
    sent = [("a", "ann", True, None), ("a", "bob", True, True), ("b", "bob", False, False)]
    columns = ["case_id", "reader", "used", "unchanged"]
    readings = pd.DataFrame(sent, columns=columns).assign(segmentation="gtv")
    compared = [("a", "ann", "bob", 0.8, 1.0, 4.0), ("b", "ann", "bob", 0.6, 3.0, math.nan)]
    agreement = pd.DataFrame(
        compared, columns=["case_id", "reader", "other", *AGREEMENT_VALUES]
    ).assign(segmentation="gtv", segment="lesion")
    (group,) = reader_groups(readings, agreement)
    assert group.title == "gtv"
    assert group.readers == [("ann", 1, 1, 0, 0), ("bob", 2, 1, 1, 2)]
    assert group.pairs == [("lesion", "ann", "bob", 2, pytest.approx(0.7), 0.6, 2.0, 4.0)]
    assert [row[0] for row in group.rows] == ["b", "a"]
    assert group.all == 2
    assert reader_groups(None, None) == reader_groups(readings[:0], agreement) == []
