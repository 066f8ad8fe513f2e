"""The ledger of what left a site: whole, or nothing leaves until a person decides in writing."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from federation_world import NOW, site
from jipflow.cli import main
from jipflow.exchange import keys
from jipflow.privacy.pseudonyms import site_secret
from jipflow.reasons import StageError
from jipflow.release import approval, packing
from jipflow.release.contents import ReleaseError
from jipflow.release.ledger import LAST, Ledger, LedgerFault
from jipflow.settings.resources import ConfigError

SAYS = {number: f"{number}" * 64 for number in range(1, 5)}
"""Hash of what the hub has said before each attempt, which makes it another one."""

REASON = "The disk of the ledger was lost, and its backup with it."


@pytest.fixture
def north(tmp_path):
    """A site that has packed two attempts of a release."""
    world = site(tmp_path, "north", patients=20)
    world.outbox = tmp_path / "outbox"
    for attempt in (1, 2):
        world.send(world.outbox, attempt, previous=SAYS[attempt])
    return world


def folder_of(world):
    return Path(world.settings.site.identity.ledger_folder)


def entry(world, number):
    return folder_of(world) / f"{number:06d}.json"


def options(world):
    identity = world.settings.site.identity
    results = str(world.root / "results")
    return [identity.ledger_folder, "--results", results, "--secret", identity.secret_file]


def resume(world, reason=REASON):
    return world.ledger.resume(name="Ada Roe", key_file=world.approver_key, reason=reason)


def test_each_release_that_was_packed_has_an_entry(north, capsys):
    first, second = north.ledger.entries()
    assert (first.entry.number, second.entry.number) == (1, 2)
    assert second.entry.previous == first.sha256
    assert [p.manifest.attempt for p in north.ledger.packed()] == [1, 2]
    assert main(["ledger", "show", *options(north)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("Z ")[2] for line in lines] == [
        f"demo 1.0.0 to hub, round 1, attempt {n}, 5 cells, approved by Ada Roe" for n in (1, 2)
    ]


def test_only_the_owner_can_read_it(north):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder_of(north).iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder_of(north).stat().st_mode) == 0o700


def test_nothing_of_it_lies_in_a_release_or_a_bundle(north):
    named = {path.name for path in north.release.rglob("*")}
    assert not named & {"cells.json", "values.parquet"}
    assert b"pseudonorth" in (folder_of(north) / "000001.values.parquet").read_bytes()
    for path in [*north.release.iterdir(), *north.bundles.iterdir()]:
        assert b"pseudonorth" not in path.read_bytes()


def test_packing_the_same_again_adds_nothing(north):
    (north.bundles / "demo-north-r01-a2.zip").unlink()
    north.pack(north.outbox, previous=SAYS[2])
    assert len(north.ledger.entries()) == 2


def test_a_run_that_was_killed_before_the_bundle_goes_on(north, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(packing, "atomic_path", killed)
        with pytest.raises(KeyboardInterrupt):
            north.send(north.outbox, 3, previous=SAYS[3])
    assert not (north.bundles / "demo-north-r01-a3.zip").exists()
    assert len(north.ledger.entries()) == 3
    path = north.pack(north.outbox, previous=SAYS[3])
    assert path.is_file()
    assert (north.bundles / "demo-north-r01-a3.zip").exists()
    assert len(north.ledger.entries()) == 3


def changed_entry(world):
    content = json.loads(entry(world, 1).read_text())
    content["entry"]["written"] = "2020-01-01T00:00:00Z"
    entry(world, 1).write_text(json.dumps(content))


def changed_values(world):
    path = folder_of(world) / "000002.values.parquet"
    path.write_bytes((folder_of(world) / "000001.values.parquet").read_bytes() + b" ")


DAMAGE = {
    "an entry was changed": (changed_entry, "000001.json was changed"),
    "an entry is no JSON": (lambda w: entry(w, 2).write_text("{"), "not as it was written"),
    "values were changed": (changed_values, "stands behind"),
    "values are gone": (
        lambda w: (folder_of(w) / "000001.values.parquet").unlink(),
        "000001.values.parquet is missing",
    ),
    "the first is gone": (lambda w: entry(w, 1).unlink(), "before .*000002.json is missing"),
    "the last is gone": (lambda w: entry(w, 2).unlink(), "000002.json is missing"),
    "all is gone": (lambda w: shutil.rmtree(folder_of(w)), "000002.json is missing"),
    "an older backup": (
        lambda w: (entry(w, 2).unlink(), (w.root / "results" / LAST).unlink()),
        "no entry of .*demo-north-r01-a2.zip",
    ),
    "what results keep is damaged": (
        lambda w: (w.root / "results" / LAST).write_text("[]"),
        "ledger.json is damaged",
    ),
    "two were exchanged": (
        lambda w: (entry(w, 1).rename(entry(w, 3)), entry(w, 2).rename(entry(w, 1))),
        "missing|another one|follow",
    ),
}


@pytest.mark.parametrize(("damage", "what"), DAMAGE.values(), ids=DAMAGE)
def test_nothing_is_released_of_a_ledger_that_is_not_whole(north, damage, what):
    damage(north)
    with pytest.raises(LedgerFault, match=what) as caught:
        north.build()
    assert "jipflow ledger resume" in str(caught.value)
    with pytest.raises(LedgerFault):
        north.pack(north.outbox)


@pytest.mark.parametrize(("damage", "what"), DAMAGE.values(), ids=DAMAGE)
def test_a_person_lets_it_go_on_in_writing(north, damage, what, capsys):
    damage(north)
    person = ["--name", "Ada Roe", "--key", str(north.approver_key), "--because", REASON]
    assert main(["ledger", "resume", *options(north), *person]) == 0
    assert "goes on by the word of Ada Roe" in capsys.readouterr().out
    last = north.ledger.entries()[-1].entry
    assert last.resumed.resumption.reason == REASON
    assert "not whole" in last.resumed.resumption.found
    north.send(north.outbox, 3, previous=SAYS[3])
    assert north.ledger.packed()[-1].manifest.attempt == 3
    with pytest.raises(StageError, match="Nothing is wrong"):
        resume(north)


def test_what_was_damaged_may_not_change_once_more(north):
    changed_entry(north)
    resume(north)
    entry(north, 1).write_text("{}")
    with pytest.raises(LedgerFault):
        north.build()


def test_a_resumption_that_nobody_signed_counts_for_nothing(north):
    changed_entry(north)
    resume(north)
    path = entry(north, 3)
    content = json.loads(path.read_text())
    content["entry"]["resumed"]["resumption"]["person"]["name"] = "Somebody Else"
    path.write_text(json.dumps(content))
    with pytest.raises(LedgerFault):
        north.build()


def test_a_ledger_of_another_secret_is_refused(north, tmp_path):
    secret = site_secret(tmp_path / "other.key", tmp_path / "other")
    ledger = Ledger(folder_of(north), secret, north.root / "results")
    with pytest.raises(LedgerFault, match="another secret"):
        ledger.entries()


def test_a_resumption_needs_words(north):
    changed_entry(north)
    with pytest.raises(ConfigError, match="reason"):
        resume(north, "lost")
    assert len(list(folder_of(north).glob("*.json"))) == 4


def test_a_ledger_moves_with_its_site(north, tmp_path):
    shutil.copytree(folder_of(north), tmp_path / "moved")
    secret = bytes.fromhex(Path(north.settings.site.identity.secret_file).read_text())
    moved = Ledger(tmp_path / "moved", secret, tmp_path / "new results")
    assert len(moved.entries()) == 2


def test_a_release_that_was_built_before_another_was_packed_is_built_again(north, tmp_path):
    of_two = north.table
    keys.new_key(tmp_path / "second.key")
    release, behind = north.release, north.behind
    north.write()
    north.build()
    approval.approve(release_dir=release, name="Ada Roe", key_file=north.approver_key, now=NOW)
    shutil.copytree(release, tmp_path / "release")
    shutil.copytree(behind, tmp_path / "behind")
    north.table = of_two[of_two["case_id"] < "casenorth0014"]
    north.send(north.outbox, 3, previous=SAYS[4])
    with pytest.raises(ReleaseError, match="and the two were not compared"):
        packing.bundle(
            settings=north.settings,
            standing=north.standing(),
            ledger=north.ledger,
            folders=packing.Folders(
                tmp_path / "release", tmp_path / "behind", north.bundles, north.outbox
            ),
        )


def test_what_stands_behind_another_release_is_refused(north):
    (north.behind / "values.parquet").write_bytes(b"other")
    with pytest.raises(ReleaseError, match="not what stands behind"):
        north.pack(north.outbox)
    shutil.rmtree(north.behind)
    with pytest.raises(ReleaseError, match="is missing"):
        north.pack(north.outbox)
