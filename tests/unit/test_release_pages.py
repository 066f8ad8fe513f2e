"""The releaser's pages: what they say of the release, of those before it, and of what it is of."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fake_results as fake
from federation_world import show
from jipflow.analyses.cells import CellKey
from jipflow.cli import main
from jipflow.exchange.keys import new_key
from jipflow.exchange.message import bundle_name
from jipflow.files import read_json, sha256_file
from jipflow.release import sent
from jipflow.release.approval import Statement, approve
from jipflow.release.behind import read_behind
from jipflow.release.contents import Disclosure, formats, read_release, record_built
from jipflow.release.history import EARLIER
from jipflow.release.limits import NOT_PROTECTED_FROM
from jipflow.release.sent import Change, changes, sent_before
from jipflow.release.since import read_review
from jipflow.release.terms import Terms
from jipflow.report.disclosure import statement_rows, write_disclosure_page
from jipflow.report.release import State, standing_of, write_release_page
from jipflow.report.withheld import withheld_parts
from jipflow.settings.run import Settings
from packed_release import packed

ROOT = Path(__file__).resolve().parents[2]


CASES = 40
"""Of which one is excluded, and one has failed in each role."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = fake.build(tmp_path / "results" / "demo", cases=CASES, pictures=False)
    fake.add_release(folder, fake.settings())
    show(folder / "release" / "r01", folder / "behind")
    return folder


def words(text: str) -> str:
    """What a reader sees of a page."""
    body = text.split("</header>")[0].split("<header")[1] + text.split("<main")[1]
    body = re.sub(r"<script.*?</script>|<wbr>|</?code[^>]*>", "", body, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def send(results: Path, settings: Settings) -> Path:
    """Approve and pack the release of a results folder."""
    key = results.parent / "person.key"
    if not key.is_file():
        new_key(key)
    folder = results / "release" / "r01"
    show(folder, results / "behind")
    approve(release_dir=folder, name="Ada Roe", key_file=key)
    site = settings.site.model_copy(
        update={
            "identity": settings.site.identity.model_copy(
                update={
                    "signing_key_file": str(results.parent / "site.key"),
                    "audit_file": str(results.parent / "audit.jsonl"),
                }
            )
        }
    )
    known = settings.model_copy(update={"site": site})
    return packed(
        known,
        release=folder,
        behind=results / "behind",
        ledger=fake.ledger_of(results),
        bundles=results / "bundles",
    )


def before(results: Path) -> list[Any]:
    return sent_before(results / "bundles", "demo", "heidelberg", 1)


def lose(results: Path, cases: int, segments: Sequence[str] = fake.ORGANS) -> None:
    """Take segments of some cases out of the features, and build the release again."""
    path = results / "features" / "features.parquet"
    table = pd.read_parquet(path)
    some = sorted(table.loc[table["role"] == "CT", "case_id"].unique())[-cases:]
    gone = table["case_id"].isin(some) & table["segment"].isin(segments)
    table[~gone].to_parquet(path)
    fake.add_release(results, fake.settings())
    show(results / "release" / "r01", results / "behind")


def page_of(results: Path, tmp_path: Path) -> str:
    return fake.write_disclosure(results, fake.settings(), tmp_path / "d.html", before(results))


def test_the_page_shows_the_whole_statement_as_it_is_signed(results: Path, tmp_path: Path) -> None:
    folder = results / "release" / "r01"
    rows = dict(statement_rows(read_release(folder), Terms.of(fake.settings())))
    assert {name.split(":")[0] for name in rows} == set(Statement.model_fields)
    text = words(page_of(results, tmp_path))
    for name in ("aggregates.json", "disclosure.json"):
        assert f"SHA-256 {sha256_file(folder / name)}" in text
        assert f"{(folder / name).stat().st_size} bytes" in text
    send(results, fake.settings())
    (signed,) = read_json(folder / "approval.json")
    statement = signed["statement"]
    for name in ("version", "site", "hub", "format", "round"):
        assert rows[name] == str(statement[name])
    for name in ("id", "version", "sha256"):
        assert rows[f"protocol: {name}"] == statement["protocol"][name]
    for name, analysis in statement["analyses"].items():
        assert analysis["sha256"] in rows[f"analyses: {name}"]
        assert analysis["sha256"] in text


def test_what_the_gate_does_not_protect_from_is_the_list_of_the_guide(
    results: Path, tmp_path: Path
) -> None:
    guide = (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    section = guide.split("## What the gate does not protect from\n")[1].split("\n## ")[0]
    assert re.findall(r"^\* (.*)$", section, re.M) == list(NOT_PROTECTED_FROM)
    page = page_of(results, tmp_path)
    for sentence in NOT_PROTECTED_FROM:
        assert sentence.replace("`", "").replace("'", "&#39;") in words(page)
    assert "single patient is among them" not in page


def test_withheld_bins_are_listed_with_their_rule_and_its_meaning(
    results: Path, tmp_path: Path
) -> None:
    release = read_release(results / "release" / "r01")
    found = list(withheld_parts(release.disclosure, release.aggregates.analyses))
    assert found
    text = words(page_of(results, tmp_path))
    assert "No rule kept anything back" not in text
    for one in found:
        assert one.rules == ["small_bins"]
        assert f"bins {'; '.join(one.names)}" in text
    assert release.disclosure.rules["small_bins"] in text
    record = read_json(results / "release" / "r01" / "disclosure.json")
    bins = sum(len(cell.get("withheld_bins", ())) for cell in record["cells"])
    assert sum(len(one.names) for one in found) == bins > 0


def test_the_page_says_whom_the_numbers_are_of(results: Path, tmp_path: Path) -> None:
    lose(results, 3, ["lesion"])
    text = words(page_of(results, tmp_path))
    assert "39 patients in 39 cases" in text
    assert "1 case was excluded before" in text
    for step in fake.settings().protocol.cohort.where:
        assert step.replace("'", "&#39;") in text
    found = {(p.segmentation, p.segment): p for p in fake.basis_of(results, fake.settings()).places}
    lesion = found["organs", "lesion"]
    assert (lesion.cases, lesion.measured, lesion.present, lesion.patients) == (39, 38, 35, 35)
    assert found["organs", "spleen"].gaps == 0
    assert sum(place.gaps for place in found.values()) == 1
    assert "stays at the site" in text


def test_nothing_was_sent_before(results: Path, tmp_path: Path) -> None:
    assert before(results) == []
    page = page_of(results, tmp_path)
    assert "has packed no bundle" in words(page)


@pytest.mark.parametrize(
    ("earlier", "now", "patients"),
    [(13, 12, 1), (12, 13, 1), (13, 9, 4), (13, 8, 0), (13, 13, 0), (3, None, 0), (None, 3, 0)],
)
def test_a_difference_of_fewer_than_the_minimum_tells_of_patients(
    earlier: int | None, now: int | None, patients: int
) -> None:
    change = Change("describe", CellKey("CT", "organs", "liver", "x"), earlier, now)
    assert change.tells_of(5) == patients


def test_a_release_is_compared_with_the_one_that_left(results: Path, tmp_path: Path) -> None:
    send(results, fake.settings())
    same = page_of(results, tmp_path)
    assert "Every number is the same as it was." in words(same)
    assert "another text of the protocol" not in words(same)
    lose(results, 1)
    text = words(page_of(results, tmp_path))
    assert "attempt 1, which Ada Roe approved" in text
    assert "No longer released; it was of 38 patients." in text
    assert EARLIER.meaning in text
    now = read_release(results / "release" / "r01").aggregates
    found = changes(before(results)[-1].aggregates, now)
    assert {change.key.segment for change in found} == set(fake.ORGANS)
    assert all(change.now is None for change in found)
    lose(results, 6)
    text = words(page_of(results, tmp_path))
    assert "From 38 to 31 patients." in text
    lose(results, 1, ["spleen"])
    text = words(page_of(results, tmp_path))
    assert "No longer released; it was of 38 patients." in text


def test_other_numbers_of_the_same_patients_are_a_change(results: Path, tmp_path: Path) -> None:
    send(results, fake.settings())
    path = results / "features" / "features.parquet"
    table = pd.read_parquet(path)
    chosen = table["segment"] == "spleen"
    table.loc[chosen, "original_firstorder_Mean"] += 1.0
    table.to_parquet(path)
    fake.add_release(results, fake.settings())
    text = words(page_of(results, tmp_path))
    assert "1 cell differs" in text
    assert "Of 38 patients as before, with other numbers (mean" in text
    assert "the difference tells" not in text


@pytest.mark.parametrize("content", [b"no zip", b""])
def test_a_bundle_that_cannot_be_read_is_named(
    results: Path, tmp_path: Path, content: bytes
) -> None:
    path = results / "bundles" / bundle_name("demo", "heidelberg", 1, 3)
    path.parent.mkdir()
    path.write_bytes(content)
    (path.parent / bundle_name("demo-two", "heidelberg", 1, 1)).write_bytes(b"of another protocol")
    text = words(page_of(results, tmp_path))
    assert f"{path.name} was packed before, but this version cannot read it" in text
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", "{}")
    assert "this version cannot read it" in words(page_of(results, tmp_path))
    (path.parent / bundle_name("demo", "heidelberg", 1, 4)).mkdir()
    assert [sent.file for sent in before(results)] == [path.name]


@pytest.mark.parametrize("lacks", ["files", "issued", "version", "protocol"])
def test_a_bundle_of_another_format_costs_no_page(
    results: Path, tmp_path: Path, lacks: str
) -> None:
    packed = send(results, fake.settings())
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    manifest.pop(lacks)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        archive.writestr("approvals.json", members["approvals.json"])
        archive.writestr("aggregates.json", members["aggregates.json"])
    assert "this version cannot read it" in words(page_of(results, tmp_path))
    write_release_page(results / "release" / "r01", results / "bundles")
    whole = packed.read_bytes()
    for cut in (whole[: len(whole) // 2], whole[: len(whole) // 2] + bytes(len(whole) // 2)):
        packed.write_bytes(cut)
        assert "this version cannot read it" in words(page_of(results, tmp_path))


def test_attempts_are_counted_as_numbers(results: Path) -> None:
    folder = results / "bundles"
    packed = send(results, fake.settings())
    for attempt in (2, 10):
        with zipfile.ZipFile(packed) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = {**json.loads(members["manifest.json"]), "attempt": attempt}
        name = folder / bundle_name("demo", "heidelberg", 1, attempt)
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("manifest.json", json.dumps(manifest))
            archive.writestr("approvals.json", members["approvals.json"])
            archive.writestr("aggregates.json", members["aggregates.json"])
    assert [sent.attempt for sent in before(results)] == [1, 2, 10]


def test_the_state_of_a_release_follows_what_was_done(results: Path) -> None:
    folder, bundles = results / "release" / "r01", results / "bundles"

    def now() -> tuple[State, str]:
        write_release_page(folder, bundles)
        state = standing_of(folder, bundles).progress.state
        return state, words((folder / "index.html").read_text(encoding="utf-8"))

    state, text = now()
    assert state is State.BUILT
    assert "The release waits for approval" in text
    assert "jipflow release approve RESULTS/demo/release/r01 --name" in text
    packed = send(results, fake.settings())
    shutil.move(packed, results / "aside.zip")
    state, text = now()
    assert state is State.APPROVED
    assert "Ada Roe approved them at" in text
    assert "snakemake bundle" in text
    shutil.move(results / "aside.zip", packed)
    state, text = now()
    assert state is State.PACKED
    assert sha256_file(packed) in text
    assert packed.name in text
    assert "Bring the message from the outbox to hub" in text
    lose(results, 1)
    state, text = now()
    assert state is State.OUTDATED
    assert "approve again" in text
    assert packed.name in text
    assert str(folder) not in text


def test_an_approval_is_on_the_page_at_once(results: Path, tmp_path: Path) -> None:
    folder = results / "release" / "r01"
    fake.write_disclosure(results, fake.settings(), folder / "disclosure.html")
    record_built(folder, read_behind(results / "behind"), [])
    new_key(tmp_path / "my.key")
    words_of = ["release", "approve", str(folder), "--name", "Ada Roe"]
    assert main([*words_of, "--key", str(tmp_path / "my.key")]) == 0
    text = words((folder / "index.html").read_text(encoding="utf-8"))
    assert "The release is approved, not packed" in text
    assert "Ada Roe approved them at" in text


def test_the_state_page_holds_no_pseudonym(results: Path) -> None:
    folder = results / "release" / "r01"
    write_release_page(folder, results / "bundles")
    text = (folder / "index.html").read_text(encoding="utf-8")
    for line in (results / "cohort" / "cases.tsv").read_text().splitlines()[1:]:
        assert not any(name in text for name in line.split("\t")[:2])


def test_the_same_release_has_the_same_pages_wherever_it_lies(
    results: Path, tmp_path: Path
) -> None:
    """A browser fills in the folder; the pages hold none, and are what was approved anywhere."""
    pages = []
    for place in ("one", "another place"):
        copy = tmp_path / place / "demo"
        shutil.copytree(results, copy)
        folder = copy / "release" / "r01"
        fake.write_disclosure(copy, fake.settings(), folder / "disclosure.html")
        write_release_page(folder, copy / "bundles")
        pages.append([(folder / name).read_bytes() for name in ("disclosure.html", "index.html")])
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in b"".join(pages[0])


def test_numbers_that_only_the_hub_needs_wait_behind_a_switch(
    results: Path, tmp_path: Path
) -> None:
    page = page_of(results, tmp_path)
    heads = re.findall(r'<th scope="col" class="(num[^"]*)">([^<]+)</th>', page)
    assert {name for css, name in heads if "exact" in css} == {"M2", "Rest"}
    assert '<input type="checkbox" id="exact">' in page
    assert "#exact:not(:checked)~* .exact{display:none}" in page
    contents = page.split('<nav class="toc"')[1].split("</nav>")[0]
    for analysis in fake.settings().protocol.analyses:
        assert f'href="#leaves-{analysis.id}"' in contents


def test_a_hub_says_where_its_numbers_are_not_of_all(tmp_path: Path) -> None:
    from jipflow.report.hub import write_hub_report

    result, accepted, rejected = fake.round_of(tmp_path / "hub")
    path = tmp_path / "hub.html"
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=fake.OUTLOOK,
        settings=fake.hub(tmp_path),
        path=path,
    )
    text = words(path.read_text(encoding="utf-8"))
    assert "It equals what all patients in one place would give" not in text
    lacking = sum(len(c["sites"]) < 3 for a in result["analyses"] for c in a["cells"])
    cells = sum(len(a["cells"]) for a in result["analyses"])
    if lacking:
        assert f"{lacking} of {cells} cells lack" in text
    hidden = sum(len(c.get("withheld", ())) for a in result["analyses"] for c in a["cells"])
    assert hidden > 0
    assert f"{hidden} bins without a total" in text
    assert "kept nothing back" not in text
    for entry in accepted:
        for one in withheld_parts(entry.disclosure, entry.aggregates.analyses):
            assert f"bins {'; '.join(one.names)}" in text


def nothing_withheld(record: Disclosure) -> Disclosure:
    """A record of a gate that kept nothing back."""
    content = record.plain()
    content["summary"]["withheld"] = dict.fromkeys(content["summary"]["withheld"], 0)
    for cell in content["cells"]:
        cell.pop("withheld_bins", None)
    return formats().disclosure.model_validate(content)


def test_a_hub_whose_sites_kept_nothing_back_says_so(tmp_path: Path) -> None:
    from jipflow.report.hub import write_hub_report

    result, sent, _ = fake.round_of(tmp_path / "hub")
    accepted = [replace(entry, disclosure=nothing_withheld(entry.disclosure)) for entry in sent]
    for analysis in result["analyses"]:
        for cell in analysis["cells"]:
            cell["sites"] = [site["id"] for site in result["sites"]]
    path = tmp_path / "hub.html"
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=[],
        outlook=fake.OUTLOOK,
        settings=fake.hub(tmp_path),
        path=path,
    )
    text = words(path.read_text(encoding="utf-8"))
    assert "The sites kept nothing back." in text
    assert "withheld" not in text.split("Whose releases")[0].split("What the sites")[1][:200]


def test_an_earlier_bundle_beyond_all_sizes_is_not_read(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(results, fake.settings())
    assert before(results)[0].aggregates is not None
    monkeypatch.setitem(sent.LIMITS, "aggregates.json", 100)
    assert before(results)[0].aggregates is None


def test_both_pages_begin_with_the_same_sentences(results: Path) -> None:
    folder = results / "release" / "r01"
    text = words(fake.write_disclosure(results, fake.settings(), folder / "disclosure.html"))
    found = write_release_page(folder, results / "bundles").sentences()
    review = words((folder / "index.html").read_text(encoding="utf-8"))
    assert 5 < len(found) <= 10
    for sentence in found:
        plain = sentence.replace("`", "").replace("'", "&#39;")
        assert plain in review
        assert plain in text or plain.startswith("Nobody has approved it")


def test_the_page_says_how_many_persons_and_which_rounds(results: Path) -> None:
    folder = results / "release" / "r01"
    page = folder / "disclosure.html"
    text = words(fake.write_disclosure(results, fake.settings(), page))
    assert "two persons" not in text
    assert "--rounds" not in text.split("Approve")[-1]
    release, review = read_release(folder), read_review(folder)
    terms = Terms.of(fake.settings()).model_copy(update={"approvers": 2})
    write_disclosure_page(
        release=release,
        terms=terms,
        review=review.model_copy(update={"rounds": {"describe": 1, "volumes": 4}}),
        path=page,
        basis=fake.basis_of(results, fake.settings()),
        secret=bytes(32),
    )
    text = words(page.read_text(encoding="utf-8"))
    assert "This site wants two persons, each with a key of their own" in text
    assert "With --rounds 4 --until YEAR-MONTH-DAY you approve the analyses up to round 4" in text
    assert "volumes takes 4; with --rounds 4 --until DAY an approval covers them" in text
