"""Numbers with noise: what may leave, how often it is drawn, and what a patient spends."""

from __future__ import annotations

import json
import math
import re
import stat
import sys
from collections import Counter

import numpy as np
import pytest

from federation_world import VOLUME, accept, hub_settings, protocol, site
from jipflow.analyses import noise
from jipflow.analyses.cells import CellKey, Values
from jipflow.analyses.contract import ImpossibleCell, Proposed, kinds
from jipflow.analyses.facts import Limits
from jipflow.analyses.noisy_mean import HALF, Cell, NoisyMean, Settings
from jipflow.cli import main
from jipflow.hub.merge import merge
from jipflow.hub.rounds import Outlook
from jipflow.hub.tables import write_tables
from jipflow.release.contents import read_release
from jipflow.release.draws import DrawFault
from jipflow.release.gate import decide
from jipflow.release.noise import spent_by
from jipflow.release.saturation import Regions
from jipflow.release.sent import sent_before
from jipflow.release.since import read_review
from jipflow.release.terms import Terms
from jipflow.report.basis import Basis
from jipflow.report.disclosure import write_disclosure_page
from jipflow.report.hub import write_hub_report
from jipflow.report.review import content_sentences
from jipflow.settings.protocol import Disclosure
from jipflow.settings.resources import ConfigError
from jipflow.settings.run import settings_of

ENTRY = {
    "id": "private",
    "kind": "noisy_mean",
    "variables": ["CT.volume_ml"],
    "segments": ["liver"],
    "bounds": [0, 400],
    "epsilon": 1.0,
}
LIVER = CellKey("CT", "organs", "liver", VOLUME)


def noisy_site(root, name="north", *, budget=4.0, patients=12, seed=0, **changes):
    """Return a site that is asked for one noisy mean, beside what other tests ask for."""
    base = protocol()
    content = protocol(analyses=[*base["analyses"], ENTRY | changes])
    world = site(root, name, patients=patients, seed=seed, content=content)
    own = world.settings.site.plain()
    if budget is not None:
        own["disclosure"] = own["disclosure"] | {"noise": {"budget": budget}}
    world.settings = settings_of(own, content)
    world.write()
    return world


def noisy_cells(built):
    return [c for a in built[0]["analyses"] if a["kind"] == "noisy_mean" for c in a["cells"]]


def draws(world):
    return sorted((world.ledger.folder / "noise").glob("*.json"))


def test_noise_is_drawn_once_and_read_again(tmp_path):
    world = noisy_site(tmp_path)
    first = noisy_cells(world.build())
    assert len(first) == 1
    assert first[0].keys() == {*CellKey._fields, "noisy_n", "noisy_sum"}
    before = (world.release / "aggregates.json").read_bytes()
    for _ in range(3):
        world.build()
        assert (world.release / "aggregates.json").read_bytes() == before
    (path,) = draws(world)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_run_that_was_killed_after_a_draw_reads_it(tmp_path, monkeypatch):
    world = noisy_site(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr("jipflow.release.candidate.write_json", _die)
        with pytest.raises(KeyboardInterrupt):
            world.build()
    assert not (world.release / "aggregates.json").exists()
    (path,) = draws(world)
    drawn = json.loads(path.read_text())["draw"]["numbers"]
    (cell,) = noisy_cells(world.build())
    assert {name: cell[name] for name in drawn} == drawn
    assert draws(world) == [path]


def _die(*_):
    raise KeyboardInterrupt


def test_another_cohort_has_another_draw(tmp_path):
    world = noisy_site(tmp_path)
    world.build()
    world.table = world.table[world.table["patient"] != "pseudonorth0003"]
    world.write()
    world.build()
    assert len(draws(world)) == 2


def test_a_draw_that_was_changed_stops_the_release(tmp_path, capsys):
    world = noisy_site(tmp_path)
    world.build()
    (path,) = draws(world)
    content = json.loads(path.read_text())
    content["draw"]["numbers"]["noisy_n"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(DrawFault, match=path.name):
        world.build()
    identity = world.settings.site.identity
    options = ["--results", str(world.root / "results"), "--secret", identity.secret_file]
    assert main(["ledger", "show", identity.ledger_folder, *options]) == 1
    assert "Restore it from the backup of the ledger" in capsys.readouterr().err
    path.unlink()
    assert main(["ledger", "show", identity.ledger_folder, *options]) == 0
    world.build()
    assert main(["ledger", "show", identity.ledger_folder, *options]) == 0
    assert "noise that was drawn: 1 cells" in capsys.readouterr().out


def test_without_a_budget_nothing_with_noise_leaves(tmp_path):
    for name, budget in (("none", None), ("small", 0.5)):
        world = noisy_site(tmp_path, name, budget=budget)
        built = world.build()
        assert noisy_cells(built) == []
        (record,) = [c for c in built[1]["cells"] if c["kind"] == "noisy_mean"]
        found = {code for code, finding in record["rules"].items() if finding != "not applied"}
        assert (record["released"], found) == (False, {"noise_budget"})
        assert draws(world) == []


def test_the_exact_cells_are_those_of_a_release_without_noise(tmp_path):
    plain_site = site(tmp_path / "a", "plain")
    plain_site.write()
    without, _ = plain_site.build()
    world = noisy_site(tmp_path / "b", "plain")
    beside, _ = world.build()
    assert [a for a in beside["analyses"] if a["kind"] != "noisy_mean"] == without["analyses"]
    world.send(tmp_path / "inbox")
    assert world.build()[0]["analyses"] == beside["analyses"]


@pytest.mark.parametrize("patients", [0, 1, 3])
def test_whether_a_cell_leaves_does_not_depend_on_how_many_patients_there_are(tmp_path, patients):
    world = noisy_site(tmp_path)
    names = sorted(set(world.table["patient"]))[:patients]
    liver = world.table["segment"] == "liver"
    world.table = world.table[~liver | world.table["patient"].isin(names)]
    world.write()
    built = world.build()
    assert len(noisy_cells(built)) == 1
    (record,) = [c for c in built[1]["cells"] if c["kind"] == "noisy_mean"]
    assert record["rules"]["min_patients"] == "not applied"


def test_a_patient_spends_what_left_and_is_left_out_when_it_is_spent(tmp_path, monkeypatch):
    """Of 12 patients 11 were in a release that took all they had: the twelfth alone is counted."""
    monkeypatch.setattr("jipflow.release.noise.with_noise", lambda total, scale: total)
    world = noisy_site(tmp_path, budget=1.0)
    everyone = world.table
    gone = "pseudonorth0003"
    world.table = everyone[everyone["patient"] != gone]
    world.write()
    (cell,) = noisy_cells(world.build())
    assert cell["noisy_n"] == 11
    assert spent_by([kept.past for kept in world.ledger.entries()]) == {}
    world.send(tmp_path / "inbox")
    spent = spent_by([kept.past for kept in world.ledger.entries()])
    assert spent == dict.fromkeys(sorted({*everyone["patient"]} - {gone}), 1.0)
    world.table = everyone
    world.write()
    (cell,) = noisy_cells(world.build())
    assert cell["noisy_n"] == 1
    review = read_review(world.release, built=False).noise
    assert (review.takes, review.left, review.left_out) == (1.0, 0.0, 11)


def test_what_left_leaves_again_and_takes_nothing(tmp_path):
    world = noisy_site(tmp_path, budget=1.0)
    world.send(tmp_path / "inbox")
    first = noisy_cells(world.build())
    draws(world)[0].unlink()
    world.send(tmp_path / "inbox", attempt=2)
    assert noisy_cells(world.build()) == first
    assert set(spent_by([k.past for k in world.ledger.entries()]).values()) == {1.0}
    assert read_review(world.release, built=False).noise.takes == 0


def test_equal_numbers_do_not_tell_that_a_moved_filter_lost_nobody(tmp_path):
    """Another protocol has another draw of the same patients, and takes its own of the budget."""
    world = noisy_site(tmp_path, budget=2.0)
    world.send(tmp_path / "inbox")
    before = draws(world)
    content = world.settings.protocol.plain()
    content["cohort"]["where"] = "Modality = 'CT' AND PatientAge < '090Y'"
    world.settings = settings_of(world.settings.site.plain(), content)
    world.build()
    assert len(draws(world)) == len(before) + 1
    assert read_review(world.release, built=False).noise.takes == 1.0


def test_cells_of_one_release_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr("jipflow.release.noise.with_noise", lambda total, scale: total)
    world = noisy_site(tmp_path, segments=["liver", "spleen"], epsilon=0.6, budget=1.0)
    counts = {cell["segment"]: cell["noisy_n"] for cell in noisy_cells(world.build())}
    assert counts == {"liver": 12, "spleen": 0}


def test_the_steward_reads_what_it_takes(tmp_path):
    world = noisy_site(tmp_path, budget=2.5)
    world.build()
    review = read_review(world.release, built=False)
    text = " ".join(content_sentences(read_release(world.release), review))
    assert "take at most 1 of a patient's budget of 2.5" in text
    assert "every patient keeps at least 1.5" in text
    assert "exact cell is of" in text


def test_the_hub_takes_noisy_cells_and_says_how_far_they_are_off(tmp_path):
    content = protocol(analyses=[ENTRY])
    inbox = tmp_path / "inbox"
    worlds = [noisy_site(tmp_path, n, patients=p) for n, p in (("north", 40), ("south", 60))]
    for world in worlds:
        world.settings = settings_of(world.settings.site.plain(), content)
    settings = hub_settings(worlds, inbox, content)
    for world in worlds:
        world.send(inbox)
    accepted, rejected = accept(inbox=inbox, settings=settings)
    assert rejected == []
    result = merge(accepted=accepted, settings=settings)
    (cell,) = result["analyses"][0]["cells"]
    assert cell["noisy_n"] == sum(part["noisy_n"] for part in cell["by_site"])
    assert cell["n_error"] == pytest.approx(math.sqrt(2 * noise.variance(2.0)))
    truth = np.concatenate([w.table[w.table["segment"] == "liver"][VOLUME] for w in worlds]).mean()
    assert abs(cell["noisy_n"] - 100) < 12 * cell["n_error"]
    assert abs(cell["mean"] - truth) < 12 * cell["mean_error"]
    assert [s["patients"] for s in result["sites"]] == [None, None]
    write_tables(result, tmp_path / "tables")
    assert "mean_error" in (tmp_path / "tables" / "private.csv").read_text()
    write_hub_report(
        result=result,
        accepted=accepted,
        rejected=rejected,
        outlook=Outlook(1, ["north", "south"], [], further=False),
        settings=settings,
        path=tmp_path / "hub.html",
    )
    page = words(tmp_path / "hub.html")
    assert "but for those with noise, whose error stands behind ±" in page
    assert f"{cell['noisy_n']} ± 4" in page


def test_the_releasers_page_says_what_noise_means(tmp_path):
    world = noisy_site(tmp_path)
    world.send(tmp_path / "inbox")
    world.table = world.table[world.table["patient"] != "pseudonorth0003"]
    world.write()
    world.build()
    write_disclosure_page(
        release=read_release(world.release),
        terms=Terms.of(world.settings),
        review=read_review(world.release, built=False),
        path=tmp_path / "page.html",
        basis=Basis([], [], "study", 11, 11, 0, [], []),
        secret=bytes(32),
        sent=sent_before(world.bundles, "demo", "north", 1),
    )
    page = words(tmp_path / "page.html")
    assert "No exact cell is of fewer patients than the minimum." in page
    assert "With noise that was drawn anew." in page
    assert "None patients" not in page


def words(path):
    text = re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", text)


def analysis(**changes):
    return NoisyMean(Settings.model_validate(ENTRY | changes))


def values(numbers, patients=None):
    names = np.array(patients or [f"p{i}" for i in range(len(numbers))], dtype=object)
    cases = np.array([f"c{i}" for i in range(len(numbers))], dtype=object)
    return Values(np.array(numbers, dtype=float), names, cases, frozenset(cases))


def test_a_patient_adds_half_the_range_at_most():
    parts = analysis().compute(values([-1e300, 0, 100, 200, 400, 1e300, 0, 400], [*"abcdefgg"]))
    assert parts.patients == [*"abcdefg"]
    assert parts.numbers.tolist() == [
        [1, -HALF],
        [1, -HALF],
        [1, -HALF // 2],
        [1, 0],
        [1, HALF],
        [1, HALF],
        [1, 0],
    ]
    huge = analysis(bounds=[-1.7e308, 1.7e308])
    assert huge.compute(values([-1.7e308, 0, 1.7e308])).numbers[:, 1].tolist() == [-HALF, 0, HALF]
    several = values([-1.7e308] * 3 + [1.7e308] * 9, [*"aaabbb"] * 2)
    assert huge.compute(several).numbers[:, 1].tolist() == [0, HALF]


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1, 10])
def test_the_numbers_of_a_cell_take_its_epsilon_together(epsilon):
    """What OpenDP itself says the noise of these scales guarantees for the most a patient adds."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    space = dp.atom_domain(T="i64"), dp.absolute_distance(T="i64")
    most = {"noisy_n": 1, "noisy_sum": HALF}
    of_each = [
        dp.m.make_laplace(*space, scale=scale).map(most[name])
        for name, scale in analysis(epsilon=epsilon).scales.items()
    ]
    assert epsilon * 0.999 < sum(of_each) <= epsilon * (1 + 1e-12)


DRAWS = 8_000


def test_neighbouring_cohorts_are_as_likely_but_for_epsilon():
    """The audit: of 8,000 draws each with and without one patient, no event tells more.

    Events are number and sum together, for a patient at a bound. Noise that were half as wide has
    events beyond the bound by many standard errors, which the last line shows.
    """
    cohort = values([*np.linspace(100, 300, 9), 400.0])
    without = values(np.linspace(100, 300, 9))
    assert _worst(analysis(), cohort, without, 1.0) < 4.5
    assert _worst(analysis(epsilon=2.0), cohort, without, 1.0) > 10


def _worst(kind, cohort, without, epsilon):
    """Return by how many standard errors an event's probabilities differ more than epsilon lets."""
    found = []
    for each in (cohort, without):
        totals = kind.compute(each).numbers.sum(axis=0).tolist()
        pairs = Counter()
        for _ in range(DRAWS):
            n, total = (
                noise.with_noise(t, s) for t, s in zip(totals, kind.scales.values(), strict=True)
            )
            pairs[min(max(n, 7), 12), total >= HALF // 2] += 1
        found.append(pairs)
    worst = -math.inf
    for event in found[0].keys() | found[1].keys():
        for a, b in (found, found[::-1]):
            p, q = a[event] / DRAWS, b[event] / DRAWS
            error = math.sqrt((p * (1 - p) + math.exp(2 * epsilon) * q * (1 - q)) / DRAWS)
            if error > 0:
                worst = max(worst, (p - math.exp(epsilon) * q) / error)
    return worst


def test_the_variance_is_that_of_the_draws():
    drawn = np.array([noise.with_noise(7, 3.0) for _ in range(5000)])
    assert drawn.mean() == pytest.approx(7, abs=6 * math.sqrt(noise.variance(3.0) / 5000))
    assert drawn.var() == pytest.approx(noise.variance(3.0), rel=0.2)
    assert noise.variance(1e6) == pytest.approx(2e12, rel=1e-6)


def cell(n, total):
    return Cell(**LIVER._asdict(), noisy_n=n, noisy_sum=total)


def test_the_hub_refuses_what_no_noise_makes():
    limits = Limits(5, 1)
    for fine in (cell(20, 3 * HALF), cell(-3, 0), cell(0, HALF)):
        analysis().verify(fine, limits)
    for wrong in (cell(-81, 0), cell(20, 400 * HALF), cell(20, -400 * HALF)):
        with pytest.raises(ImpossibleCell):
            analysis().verify(wrong, limits)


def test_a_mean_that_is_lost_in_the_noise_is_not_given():
    merged = analysis().merge({"north": cell(3, HALF)})
    assert (merged["mean"], merged["mean_error"]) == (None, None)
    assert "lost in the noise" in merged["no_mean"]
    released = NoisyMean.released(
        id="private", kind="noisy_mean", bounds=[0, 400], epsilon=1, cells=[cell(3, HALF)]
    )
    (row,) = NoisyMean.draw_release(released).groups[0].table.rows
    assert "lost in the noise" in str(row[2].text)


def test_the_error_of_a_mean_is_that_of_its_draws():
    kind, truth = analysis(), kinds()["noisy_mean"]
    assert truth is NoisyMean
    parts = kind.compute(values(np.linspace(100, 390, 80)))
    totals = parts.numbers.sum(axis=0).tolist()
    means = []
    for _ in range(3000):
        pair = [noise.with_noise(t, s) for t, s in zip(totals, kind.scales.values(), strict=True)]
        means.append(kind.merge({"north": cell(*pair)})["mean"])
    stated = kind.merge({"north": cell(*totals)})["mean_error"]
    assert np.std(means) == pytest.approx(stated, rel=0.1)


def test_the_gate_of_exact_cells_lets_none_with_noise_through():
    kind = analysis()
    world_values = values(np.linspace(100, 300, 20))
    proposed = Proposed(kind, LIVER, world_values, kind.compute(world_values))
    patients = dict(zip(world_values.case_ids, world_values.patients, strict=True))
    limits = Disclosure(min_patients=5)
    (decision,) = decide([proposed], patients, limits, Regions())
    assert decision.released is None


def test_without_opendp_an_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opendp.prelude", None)
    noise._laplace.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install .*\[noise\]"):
        noise.with_noise(3, 2.0)


def test_bounds_that_are_one_number_are_refused():
    for bounds in ([3, 3], [0, 5e-324]):
        assert any("bounds" in problem for problem in analysis(bounds=bounds).settings.problems())
