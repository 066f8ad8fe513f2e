"""What a steward reads first: a release in a few sentences, and what a person must do."""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import timedelta

import pytest

from federation_world import MEAN, NOW, protocol, show, site
from jipflow.analyses.contract import analyses_of
from jipflow.analyses.rules import Finding
from jipflow.cli import main
from jipflow.exchange import keys, message
from jipflow.files import read_json
from jipflow.release import approval
from jipflow.release.behind import read_behind
from jipflow.release.contents import REVIEW, ReleaseError, formats, protocol_text, read_release
from jipflow.release.gate import all_rules
from jipflow.release.since import (
    Before,
    Covered,
    Review,
    Seen,
    differences,
    read_review,
    review_of,
    write_review,
)
from jipflow.report.release import State, standing_of, write_release_page
from jipflow.report.review import content_sentences, later_rounds, reach_sentence

LAST_DAY = "2027-01-31"
PLAIN = Before(releases=0, last=None, cells={}, examples={})


def settled(world, approvers):
    """Let a site want so many persons."""
    limits = world.settings.site.disclosure.model_copy(update={"approvers": approvers})
    here = world.settings.site.model_copy(update={"disclosure": limits})
    world.settings = world.settings.model_copy(update={"site": here})
    return world


@pytest.fixture
def north(tmp_path):
    world = site(tmp_path, "north")
    world.write()
    world.build()
    return world


@pytest.fixture
def second(tmp_path):
    keys.new_key(tmp_path / "second.key")
    return {"name": "Bea Coe", "key_file": tmp_path / "second.key"}


def approve(world, **options):
    given = {"name": "Ada Roe", "key_file": world.approver_key, "now": NOW} | options
    return approval.approve(release_dir=world.release, **given)


def stands(world, now=NOW):
    return standing_of(world.release, world.bundles, now)


def as_round(world, round_):
    """Let a candidate be one of a later round, as a build of that round makes it."""
    aggregates, record = (json.loads((world.release / n).read_text()) for n in message.CONTENT)
    aggregates["round"] = record["round"] = round_
    text = json.dumps(aggregates)
    record["aggregates_sha256"] = message.describe(text.encode()).sha256
    (world.release / "aggregates.json").write_text(text)
    (world.release / "disclosure.json").write_text(json.dumps(record))
    entries = world.ledger.entries()
    header = read_release(world.release).disclosure
    behind = read_behind(world.behind).past()
    write_review(world.release, review_of(world.settings, header, behind, entries))
    show(world.release, world.behind, [kept.sha256 for kept in entries])


def packed(world):
    """Pack what was approved, and begin the next round."""
    world.pack(world.root / "outbox")
    (world.release / "approval.json").unlink()


def test_a_first_release_in_short(north):
    found = stands(north)
    assert found.progress.state is State.BUILT
    # Of a summary n, rows, mean, its rest and m2; of the histogram n, four bins, under and over.
    assert found.sentences() == [
        "27 numbers in 5 cells would leave north for the hub `hub` in round 1: 4 of "
        "`describe` (summary) and 1 of `volumes` (histogram).",
        "Each cell is of 12 patients; the minimum is 5.",
        "No cell stays at the site.",
        "Nothing has left the site before, by its ledger.",
        "Nobody has approved it, and a person must.",
        "No analysis takes a round after this one.",
    ]


def test_why_cells_stay_is_in_plain_words(tmp_path):
    world = site(tmp_path, "north", content=protocol(minimum=13))
    world.write()
    world.build()
    sentences = stands(world).sentences()
    assert sentences[0] == "No number would leave: the rules keep all 5 cells back."
    assert (
        "5 of 5 cells stay at the site: 5 because fewer patients than the minimum have a value "
        "(`min_patients`)." in sentences
    )


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_says_why_in_a_few_words(rule):
    assert 10 < len(rule.because) <= 90
    assert not rule.because.endswith(".")
    assert rule.because[0].islower()


def test_bins_that_stay_are_counted_with_their_rule(north):
    liver = north.table.index[north.table["segment"] == "liver"]
    north.table.loc[liver[:2], "volume_ml"] = 350.0
    north.write()
    north.build()
    record = read_json(north.release / "disclosure.json")
    (cell,) = [cell for cell in record["cells"] if cell["kind"] == "histogram"]
    bins = cell["withheld_bins"]
    assert len(bins) > 1
    assert (
        f"Of the cells that leave, {len(bins)} bins stay as well, because too few patients are in "
        "a bin, or would be in a difference of bins (`small_bins`)." in stands(north).sentences()
    )


def test_at_most_ten_sentences(north):
    """Whatever happens: a later round, rules of all kinds, an approval that does not cover."""
    release = read_release(north.release)
    record = release.disclosure.plain()
    record["round"] = 3
    for number, cell in enumerate(record["cells"]):
        rules = list(cell["rules"])
        cell["released"] = number == 4
        cell["rules"][rules[number]] = str(Finding.WITHHELD)
        record["summary"]["withheld"][rules[number]] = 1
    record["summary"]["released"] = 1
    changed = type(release.disclosure).model_validate(record)
    release = type(release)(release.files, release.aggregates, changed)
    signed = approve(north)
    review = Review(
        asked={"describe": 4, "volumes": 1},
        before=Before(
            releases=7,
            last="2026-10-01T10:00:00Z",
            cells=dict.fromkeys(Seen, 2),
            examples={seen: ["describe: CT organs liver x"] for seen in Seen},
        ),
        covered=Covered(signed=signed, why=["One.", "Two."]),
        rounds={"describe": 4, "volumes": 1},
    )
    sentences = [*content_sentences(release, review), "approved", reach_sentence(review, 3, ())]
    assert len(sentences) <= 10
    assert (
        "The hub asks in this round for 5 cells: 4 of `describe` and 1 of `volumes`." in sentences
    )
    (before,) = [each for each in sentences if "left the site before" in each]
    assert before.startswith(
        "7 releases left the site before, the last on 2026-10-01: of the cells that would leave, 2 "
        "left with the very same numbers, 2 are of the very same patients with other numbers "
        "(such as `describe: CT organs liver x`), 2 left of other patients (such as"
    )
    (covered,) = [each for each in sentences if "does not cover" in each]
    assert covered == (
        "Ada Roe approved round 1 up to round 1, which does not cover this round: One. Two."
    )
    assert sentences[-1] == (
        "Of the rounds to come, `describe` takes 4; with `--rounds 4 --until DAY` an approval "
        "covers them, for the same cells of the same patients."
    )


def test_many_analyses_are_named_by_their_largest(north):
    review = Review(
        asked={f"a{number:02d}": number for number in range(1, 21)},
        before=PLAIN,
        covered=None,
        rounds={},
    )
    sentences = content_sentences(read_release(north.release), review)
    assert (
        "The hub asks in this round for 210 cells: 20 of `a20`, 19 of `a19`, 18 of `a18` and 153 "
        "of other analyses." in sentences
    )


def test_what_left_before_is_compared_by_the_ledger(north):
    approve(north)
    packed(north)
    north.build()
    sentence = stands(north).sentences()[3]
    assert sentence == (
        "1 release left the site before, the last on 2026-11-03: every cell that would leave left "
        "with the very same numbers, so nothing new shows."
    )
    entries = north.ledger.entries()
    now = read_behind(north.behind).past()
    assert {each.seen for each in differences(now, [entries[0].past])} == {Seen.SAME}
    assert {each.seen for each in differences(now, [])} == {Seen.NEW}

    shifted = site(north.root.parent / "x", "north", seed=0)
    shifted.table[MEAN] += 1.0
    shifted.write()
    shifted.build()
    others = read_behind(shifted.behind).past()
    seen = {each.key.feature: each.seen for each in differences(others, [entries[0].past])}
    assert seen[MEAN] is Seen.PATIENTS
    assert set(seen.values()) == {Seen.PATIENTS, Seen.SAME}


def test_other_patients_are_counted(north, tmp_path):
    more = site(tmp_path / "more", "north", patients=20)
    more.write()
    more.build()
    then, now = (read_behind(world.behind).past() for world in (north, more))
    found = differences(now, [then])
    assert {(each.seen, each.joined, each.gone) for each in found} == {(Seen.OTHERS, 8, 0)}
    found = differences(then, [now])
    assert {(each.seen, each.joined, each.gone) for each in found} == {(Seen.OTHERS, 0, 8)}
    # What left long ago with these very patients counts, too.
    found = differences(then, [then, now])
    assert {each.seen for each in found} == {Seen.SAME}


def test_what_earlier_keeps_back_is_counted(north):
    approve(north)
    packed(north)
    north.table = north.table[north.table["case_id"] != "casenorth0011"]
    north.write()
    north.build()
    sentences = stands(north).sentences()
    assert "; 5 cells stay because of what left (`earlier`)." in sentences[2]
    assert "no cell would leave" in sentences[2]


def test_two_persons_one_after_the_other(north, second):
    settled(north, 2)
    north.build()
    assert "Nobody has approved it, and two persons must, each with a key of their own." in (
        stands(north).sentences()
    )
    approve(north, rounds=2, until=LAST_DAY)
    found = stands(north)
    assert found.progress.state is State.HALF
    assert not found.progress.lets_leave
    assert (
        "Ada Roe approved it on 2026-11-03; a second person must approve it with the same terms."
        in found.sentences()
    )
    write_release_page(north.release, north.bundles, NOW)
    text = (north.release / "index.html").read_text()
    assert "waits for a second person" in text
    assert f"YOUR-KEY-FILE --rounds 2 --until {LAST_DAY}</code>" in text
    approve(north, rounds=2, until=LAST_DAY, now=NOW + timedelta(days=1), **second)
    found = stands(north, NOW + timedelta(days=2))
    assert found.progress.state is State.APPROVED
    assert found.sentences()[-2:] == [
        "Ada Roe and Bea Coe approved it, lastly on 2026-11-04.",
        f"The approval covers round 2 as well, until {LAST_DAY} (UTC), for the same cells of the "
        "same patients.",
    ]


def test_an_approval_that_does_not_hold_has_its_reason(north):
    approve(north, until="2026-11-03")
    found = stands(north, NOW + timedelta(days=1))
    assert found.progress.state is State.OUTDATED
    (sentence,) = [each for each in found.sentences() if "does not hold" in each]
    assert sentence.startswith("Its approval does not hold, and a person must: The approval of ")
    assert "ended on 2026-11-03" in sentence


def test_a_round_that_an_earlier_approval_covers_needs_nobody(north):
    approve(north, rounds=3, until=LAST_DAY)
    packed(north)
    as_round(north, 2)
    found = stands(north)
    assert found.progress.state is State.COVERED
    assert found.sentences()[-3:] == [
        f"Ada Roe approved round 1 up to round 3 until {LAST_DAY} (UTC), which covers this round: "
        "its cells left before, of the same patients.",
        "Nobody needs to approve it.",
        f"The approval covers round 3 as well, until {LAST_DAY} (UTC), for the same cells of the "
        "same patients.",
    ]
    write_release_page(north.release, north.bundles, NOW)
    text = (north.release / "index.html").read_text()
    assert "release approve" not in re.sub(r"<header.*?</header>", "", text, flags=re.DOTALL)
    assert "Of an earlier round; it reaches this one." in text
    north.pack(north.root / "outbox", round=2)
    assert stands(north).progress.state is State.PACKED
    # On another day the same build needs a person.
    late = stands(north, NOW + timedelta(days=90))
    assert late.progress.state is State.BUILT
    assert (
        f"That approval ended on {LAST_DAY}. Nobody has approved it, and a person must."
        in late.sentences()
    )


def test_a_round_that_is_not_covered_says_why(north):
    approve(north)
    packed(north)
    as_round(north, 2)
    found = stands(north)
    assert found.progress.state is State.BUILT
    (sentence,) = [each for each in found.sentences() if "does not cover" in each]
    assert sentence.startswith(
        "Ada Roe approved round 1 up to round 1, which does not cover this round: The analysis "
        "describe was approved up to round 1, this is round 2."
    )
    approve(north, rounds=2)
    assert stands(north).progress.state is State.APPROVED
    as_round(north, 3)
    (sentence,) = [each for each in stands(north).sentences() if "No earlier approval" in each]
    assert sentence == "No earlier approval covers this round: Nothing left in round 2."


def test_rounds_that_are_over_are_none_to_come():
    review = Review(asked=None, before=PLAIN, covered=None, rounds={"a": 1, "b": 2})
    assert (later_rounds(review, 1), later_rounds(review, 2)) == (2, 0)
    assert "`b` takes 2" in reach_sentence(review, 1, ())
    assert reach_sentence(review, 2, ()) == "No analysis takes a round after this one."


def test_a_review_that_was_changed_is_refused(north):
    path = north.release / REVIEW
    assert read_review(north.release).before.releases == 0
    text = path.read_text()
    path.write_text(text.replace('"releases": 0', '"releases": 3'))
    with pytest.raises(ReleaseError, match=r"review\.json was changed after it was built"):
        stands(north)
    path.unlink()
    with pytest.raises(ReleaseError, match=r"review\.json is missing; build the release again"):
        stands(north)


def test_no_pseudonym_is_in_a_review(north):
    approve(north)
    packed(north)
    north.build()
    write_release_page(north.release, north.bundles, NOW)
    for name in (REVIEW, "index.html"):
        text = (north.release / name).read_text()
        for column in ("case_id", "patient"):
            assert not [one for one in north.table[column] if one in text]


def test_the_page_is_its_owner_s_alone_whatever_the_shell_s_umask(north):
    before = os.umask(0o022)
    try:
        assert main(["release", "review", str(north.release)]) == 0
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert stat.S_IMODE((north.release / "index.html").stat().st_mode) == 0o600


def test_the_command_writes_the_page_and_prints_it_in_short(north, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or False)
    assert main(["release", "review", str(north.release)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "the release waits for approval"
    assert printed[1:-1] == [f"- {sentence}" for sentence in stands(north).sentences()]
    assert printed[-1] == f"page: {north.release / 'index.html'}"
    assert opened == []
    (north.release / "index.html").unlink()
    assert main(["release", "review", str(north.release), "--open"]) == 0
    assert opened == [(north.release / "index.html").as_uri()]
    assert "open the page yourself" in capsys.readouterr().out
    assert main(["release", "review", str(north.root / "elsewhere")]) == 1
    assert "build the release first" in capsys.readouterr().err


def test_an_approval_prints_its_terms(north, second, capsys):
    settled(north, 2)
    north.build()
    command = ["release", "approve", str(north.release), "--rounds", "4", "--until", "2099-12-31"]
    person = ["--name", "Ada Roe", "--key", str(north.approver_key)]
    assert main([*command, *person]) == 0
    printed = capsys.readouterr().out
    text = north.settings.protocol_sha256
    assert f"protocol: demo 1.0.0, SHA-256 {text}" in printed
    assert f"from north to the hub hub, by jipflow {north.settings.version}" in printed
    assert (
        "round 1, and rounds 2 to 4 of the same cells of the same patients, until 2099-12-31 (UTC)"
        in printed
    )
    statement = read_json(north.release / "approval.json")[0]["statement"]
    for name, analysis in statement["analyses"].items():
        assert f"analysis {name}: SHA-256 of its settings {analysis['sha256']}" in printed
    assert "signed by Ada Roe on " in printed
    assert printed.endswith("a second person must approve it with the same terms\n")
    assert main([*command, "--name", "Bea Coe", "--key", str(second["key_file"])]) == 0
    printed = capsys.readouterr().out
    assert "signed by Bea Coe on " in printed
    assert "pack it with: snakemake bundle" in printed


QUANTILES = {
    "id": "middle",
    "kind": "quantiles",
    "variables": ["CT.volume_ml"],
    "segments": ["liver"],
    "quantiles": [0.5],
    "low": 0,
    "high": 400,
    "bins": 4,
    "rounds": 3,
}


@pytest.fixture
def asking(tmp_path):
    """A site of enough patients for several rounds, and what its hub says before the second."""
    content = protocol(analyses=[*protocol()["analyses"], QUANTILES])
    world = site(tmp_path, "north", patients=60, content=content)
    liver = world.table["segment"] == "liver"
    world.table.loc[liver, "volume_ml"] = [100.0 + 3 * i for i in range(60)]
    world.write()
    aggregates, _ = world.build()
    (sent,) = [each for each in aggregates["analyses"] if each["id"] == "middle"]
    (analysis,) = [
        each for each in analyses_of(world.settings.protocol) if each.settings.id == "middle"
    ]
    (cell,) = [analysis.cell.model_validate(cell) for cell in sent["cells"]]
    asked = analysis.advance(1, dict.fromkeys(("north", "south", "west"), cell), None)
    stated = analysis.stated(id="middle", kind="quantiles", cells=[asked])
    text = protocol_text(world.settings)
    return world, formats().state(protocol=text, round=2, analyses=[stated])


def test_a_second_round_of_quantiles_leaves_by_the_approval_of_the_first(asking):
    world, state = asking
    first = stands(world).sentences()
    assert first[-1] == (
        "Of the rounds to come, `middle` takes 3; with `--rounds 3 --until DAY` an approval covers "
        "them, for the same cells of the same patients."
    )
    approve(world, rounds=3, until=LAST_DAY)
    packed(world)
    aggregates, _ = world.build(round_=2, state=state)
    (sent,) = aggregates["analyses"]
    assert (sent["id"], len(sent["cells"])) == ("middle", 1)
    found = stands(world)
    assert found.progress.state is State.COVERED
    sentences = found.sentences()
    assert (
        "1 cell would leave north for the hub `hub` in round 2: 1 of `middle` (quantiles)"
        in (sentences[0].partition(" in ")[2])
    )
    assert "The hub asks in this round for 1 cell: 1 of `middle`." in sentences
    assert any("1 is of the very same patients with other numbers" in each for each in sentences)
    assert "Nobody needs to approve it." in sentences
    world.pack(world.root / "outbox", round=2)
    assert stands(world).progress.state is State.PACKED
    assert world.ledger.entries()[-1].line().endswith("approved by Ada Roe")


def test_a_second_round_of_other_patients_needs_a_person(asking):
    """The gate keeps the cell back; that nothing leaves, a person states as well."""
    world, state = asking
    approve(world, rounds=3, until=LAST_DAY)
    packed(world)
    world.table = world.table[world.table["case_id"] != "casenorth0007"]
    world.write()
    world.build(round_=2, state=state)
    found = stands(world)
    assert found.progress.state is State.BUILT
    (sentence,) = [each for each in found.sentences() if "does not cover" in each]
    assert sentence.endswith("No cell would leave; a person states so with --empty.")
    with pytest.raises(ReleaseError, match="Round 2 is not covered"):
        world.pack(world.root / "outbox", round=2)
    approve(world, empty=True)
    assert world.pack(world.root / "outbox", round=2).is_file()
