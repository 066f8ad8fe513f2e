"""Who has not consented, or has withdrawn, is not of the cohort, and is counted without a name."""

from __future__ import annotations

import shutil
import unicodedata
from datetime import date
from pathlib import Path

import pytest

from config_files import site_of
from jipflow.catalog import cohort
from jipflow.catalog.consented import check_unchanged, cohort_state
from jipflow.catalog.nothing import why_no_case
from jipflow.cli import main
from jipflow.cli.audited import note_consent
from jipflow.cli.rights import alone_with
from jipflow.privacy.audit.trail import site_trail
from jipflow.privacy.consent import Days, allows, consent_state, read_consents
from jipflow.provenance import Making
from jipflow.reasons import StageError
from jipflow.settings.consent import ConsentRule
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import load_settings, write_settings
from jipflow.settings.schema import load
from jipflow.settings.site import Site
from test_cohort import World, row

HEAD = "PatientID,scope,from,until\n"
SCOPE = "research-imaging"
RULE = ConsentRule(scope=SCOPE)
TODAY = date(2026, 3, 1)


@pytest.fixture
def written(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "consent.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


class Asking(World):
    """A site whose protocol asks for consent."""

    def freeze(self, rows, text, **rule):
        path = self.folder / "consent.csv"
        path.write_text(text)
        content = {**self.settings.site.plain(), "consent": {"file": str(path)}}
        keys = {"signing_key_file": "site.key", "audit_file": "audit.jsonl"}
        secret = self.folder / "secret"
        content["identity"] |= {key: str(secret / name) for key, name in keys.items()}
        site = load(Site, content, "site")
        chosen = {
            "where": "true",
            "case": {"by": "study", "roles": {"CT": {"where": "Modality = 'CT'"}}},
            "consent": {"scope": SCOPE, **rule},
        }
        asked = load(type(self.settings.protocol.cohort), chosen, "cohort")
        protocol = self.settings.protocol.model_copy(update={"cohort": asked})
        self.asked = self.settings.model_copy(update={"protocol": protocol, "site": site})
        self.write_catalog("catalog", rows)
        cohort.run(
            settings=self.asked,
            catalog_dirs=[self.folder / "catalog"],
            out_dir=self.folder / "cohort",
            results=self.folder,
        )


@pytest.fixture
def asking(tmp_path):
    return Asking(tmp_path)


def scans(*patients, **values):
    return [row(name, f"s-{name}", "CT", n, **values) for n, name in enumerate(patients)]


def consent(patient, first="2020-01-01", last="", scope=SCOPE):
    return f"{patient},{scope},{first},{last}\n"


def test_who_has_not_consented_is_counted_and_not_named(asking):
    text = HEAD + consent("ANNA") + consent("CARL", scope="teaching") + consent("ELSEWHERE")
    asking.freeze(scans("ANNA", "BERT", "CARL", ""), text)
    assert len(asking.cases) == 1
    counts = [(s["step"], s["series"], s["patients"]) for s in asking.flow[:3]]
    assert counts == [("found", 4, 3), ("consent", 1, 1), ("images", 1, 1)]
    assert [o.status.value for o in asking.outcomes] == ["ok"]
    written = b"".join(
        path.read_bytes() for path in (asking.folder / "cohort").rglob("*") if path.is_file()
    )
    assert b"BERT" not in written
    assert b"CARL" not in written


def test_the_audit_trail_has_how_many_were_left_out(asking):
    asking.freeze(scans("ANNA", "BERT"), HEAD + consent("ANNA") + consent("ELSEWHERE"))
    out = asking.folder / "sarcoma-ct" / "cohort"
    shutil.copytree(asking.folder / "cohort", out)
    note_consent(asking.asked, out)
    (line,) = site_trail(asking.asked, asking.folder).lines()
    sentence = "consents of 2 patients read for sarcoma-ct: 1 patients left out"
    assert line.facts.sentence() == sentence


def test_a_withdrawal_takes_the_case_out_and_leaves_the_others_where_they_are(asking):
    names = ("A", "B", "C", "D")
    everyone = [consent(name) for name in names]
    asking.freeze(scans(*names), HEAD + "".join(everyone))
    before = dict(zip(asking.cases["case_id"], asking.cases["shard"], strict=True))
    state = cohort_state(asking.asked)
    everyone[1] = consent("B", last="2024-05-31")
    asking.freeze(scans(*names), HEAD + "".join(everyone))
    after = dict(zip(asking.cases["case_id"], asking.cases["shard"], strict=True))
    assert len(before) == len(after) + 1
    assert after.items() < before.items()
    assert cohort_state(asking.asked) != state
    check_unchanged(asking.asked, cohort_state(asking.asked))
    with pytest.raises(StageError, match="was changed while it was read"):
        check_unchanged(asking.asked, state)


def test_nothing_leaves_where_others_consent_than_when_the_cohort_was_chosen(asking, capsys):
    asking.freeze(scans("A", "B"), HEAD + consent("A") + consent("B"))
    results = asking.folder
    write_settings(results / "settings.json", asking.asked)
    record = results / "cohort" / "provenance.json"
    Making("cohort", {}, [], cohort_state(asking.asked)).finish(record, [])
    with alone_with(results, "an export"):
        pass
    Path(asking.asked.site.consent.file).write_text(HEAD + consent("A"))
    line = ["export", "--results", str(results), "--out", str(results.parent / "given")]
    assert main(line) == 1
    assert "Others consent today than when the cohort was chosen" in capsys.readouterr().err
    assert not (results.parent / "given").exists()
    Path(asking.asked.site.consent.file).write_text(
        HEAD + consent("A") + consent("B", "31.12.2026")
    )
    assert main(line) == 1
    assert "row 3" in capsys.readouterr().err
    Path(asking.asked.site.consent.file).unlink()
    assert main(line) == 1
    assert "No such file" in capsys.readouterr().err
    Path(asking.asked.site.consent.file).write_text(HEAD + consent("A") + consent("B"))
    with alone_with(results, "an export"):
        pass
    record.unlink()
    with pytest.raises(StageError, match="Others consent"), alone_with(results, "an export"):
        pass


def test_of_a_study_outside_the_days_only_the_rule_during_asks(asking):
    rows = [row("A", "old", "CT", 1, StudyDate="20190101"), row("A", "new", "CT", 2)]
    rows[1]["StudyDate"] = "20210101"
    rows.append(row("A", "undated", "CT", 3))
    asking.freeze(rows, HEAD + consent("A"))
    assert len(set(asking.cases["case_id"])) == 3
    asking.freeze(rows, HEAD + consent("A"), studies="during")
    assert list(asking.cases["series_uid"]) == ["1.2.2"]


def test_a_cohort_without_consent_says_so(asking):
    asking.freeze(scans("A", "B"), HEAD + consent("elsewhere"))
    assert "none of the 2 patients consents" in why_no_case(asking.folder)


def test_an_umlaut_is_the_same_in_the_list_and_in_the_images(written):
    name = {form: unicodedata.normalize(form, "M\u00fc-7") for form in ("NFC", "NFD")}
    ended = consent(name["NFD"], "2026-01-01", "2026-03-31")
    consents = read_consents(written(HEAD + ended), SCOPE)
    assert all(allows(consents, each, None, RULE, TODAY) for each in name.values())
    with pytest.raises(StageError, match="rows 2 and 3 are of one patient"):
        read_consents(written(HEAD + ended + consent(name["NFC"], "2026-01-01")), SCOPE)


def test_days_count_from_the_first_to_the_last(written):
    path = written(
        HEAD + consent(" 007 ", "2026-03-01", "2026-03-31") + consent("007", "2027-01-01")
    )
    consents = read_consents(path, SCOPE)
    assert consents == {"007": [Days(date(2026, 3, 1), date(2026, 3, 31)), Days(date(2027, 1, 1))]}
    for day, held in (("2026-02-28", False), ("2026-03-01", True), ("2026-03-31", True),
                      ("2026-04-01", False), ("2030-01-01", True)):  # fmt: skip
        assert allows(consents, "007 ", None, RULE, date.fromisoformat(day)) is held
    assert not allows(consents, "7", None, RULE, TODAY)
    assert not allows(consents, "", None, RULE, TODAY)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "has no column 'PatientID'"),
        (HEAD, "has no row"),
        ("PatientID,scope,from\nA,x,2020-01-01\n", "has no column 'until'"),
        (HEAD + consent("A", "01.02.2020"), "row 2: from is no date"),
        (HEAD + consent("A", "20200102"), "row 2: from is no date"),
        (HEAD + consent("A", ""), "row 2: from is no date"),
        (HEAD + consent("A", last="2021-02-30"), "row 2: until is no date"),
        (HEAD + consent("A", last="2019-01-01"), "row 2 ends before it begins"),
        (HEAD + consent(""), "row 2 has no PatientID"),
        (HEAD + "A,,2020-01-01,\n", "row 2 has no scope"),
        (HEAD + "A,x,2020-01-01\n", "row 2 has another number of cells"),
        (HEAD + consent("A") + consent("A", last="2024-01-01"), "rows 2 and 3 are of one patient"),
        (HEAD + consent("SECRET", "x", scope="teaching"), "row 2: from is no date"),
    ],
)
def test_a_list_that_cannot_be_trusted_stops_the_job_and_leaves_nobody_out(written, text, what):
    path = written(text)
    with pytest.raises(StageError, match=what) as caught:
        read_consents(path, SCOPE)
    assert "SECRET" not in str(caught.value)
    assert consent_state(path, RULE, TODAY) == ""


def test_another_encoding_and_a_file_that_is_gone(written, tmp_path):
    with pytest.raises(StageError, match="not encoded as utf-8"):
        read_consents(written(HEAD + consent("MÜLLER"), "latin-1"), SCOPE)
    assert read_consents(written(HEAD + consent("MÜLLER"), "utf-8-sig"), SCOPE).keys() == {"MÜLLER"}
    with pytest.raises(FileNotFoundError):
        read_consents(tmp_path / "gone.csv", SCOPE)


def test_the_same_row_twice_is_one(written):
    path = written((HEAD + consent("A") * 2).replace(",", ";"))
    assert read_consents(path, SCOPE) == {"A": [Days(date(2020, 1, 1))]}


def test_another_day_is_another_state_only_when_a_consent_begins_or_ends(written):
    path = written(HEAD + consent("A", last="2026-03-31") + consent("B", scope="teaching"))
    days = [consent_state(path, RULE, date(2026, 3, day)) for day in (1, 31)]
    assert days[0] == days[1]
    assert consent_state(path, RULE, date(2026, 4, 1)) != days[0]
    written(HEAD + consent("A", last="2026-03-31"))
    assert consent_state(path, RULE, TODAY) == days[0]


def test_a_site_without_a_list_cannot_run_a_protocol_that_asks(tmp_path):
    from pathlib import Path

    import yaml

    from jipflow.settings.resources import PROTOCOLS

    protocol = yaml.safe_load(Path(PROTOCOLS, "sarcoma-ct.yaml").read_text())
    protocol["cohort"]["consent"] = {"scope": SCOPE}
    path = tmp_path / "asks.yaml"
    path.write_text(yaml.safe_dump(protocol))
    site = {**site_of(tmp_path), "protocol": str(path)}
    with pytest.raises(ConfigError, match=r"consented to 'research-imaging'.*docs/consent\.md"):
        load_settings(site)
    given = load_settings({**site, "consent": {"file": str(tmp_path / "consent.csv")}})
    assert given.site.consent is not None
