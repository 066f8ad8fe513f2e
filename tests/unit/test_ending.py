"""What a run prints last names counts, paths, the next command, and what went wrong."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest
import yaml

from federation_world import HERE, hub_settings, site
from jipflow.exchange.message import FIRST
from jipflow.files import write_json
from jipflow.release.approval import approve
from jipflow.release.ledger import site_ledger
from jipflow.release.packing import Folders, bundle
from jipflow.report.ending import (
    failed_stages,
    failure_ending,
    hub_ending,
    last_message,
    plain,
    site_ending,
)
from jipflow.report.rounds import next_at_hub
from jipflow.settings.resources import PROTOCOLS
from jipflow.settings.run import settings_of
from jipflow.settings.site import Exchange
from other_account import small_disk

VERDICT = {"cases": 10, "ok": 7, "failed": 2, "waiting": 1, "excluded": 3}
TYPED = ["--configfile", "my site.yaml", "--config", "protocol=demo"]


def finished(tmp_path, patients=12, **verdict):
    """The results of a site that has built its candidate."""
    world = site(tmp_path, "north", patients)
    world.write()
    world.build()
    folders = Folders.of(world.settings, world.root, 1)
    for made, place in ((world.release, folders.release), (world.behind, folders.behind)):
        shutil.move(made, world.root / "made")
        shutil.move(world.root / "made", place)
    write_json(world.root / "verdict.json", VERDICT | verdict)
    stand(world, world.standing())
    return world, folders.release


def stand(world, standing):
    write_json(world.root / "rounds" / "standing.json", standing.plain())


def ending_of(world, targets=(), typed=TYPED):
    return site_ending(world.settings, world.root, targets, typed)


def test_a_run_ends_with_its_counts_its_pages_and_the_next_command(tmp_path):
    world, release = finished(tmp_path)
    text = ending_of(world)
    assert "north, demo 1.0.0" in text
    assert "10: 7 ok, 2 failed, 1 waiting for a person; 3 more excluded" in text
    assert str(world.root / "report" / "index.html") in text
    assert str(world.root / "features" / "features.parquet") in text
    assert str(world.root / "worklist" / "worklist.tsv") in text
    assert f"{release}/disclosure.html, 5 of 5 cells may leave" in text
    assert f"jipflow release review {release}, read both pages" in text
    assert f"jipflow release approve {release} --name NAME --key FILE" in text
    assert "approval:  " in text
    assert "WARNING" not in text
    assert "worklist" not in ending_of(finished(tmp_path / "b", waiting=0)[0])


def test_an_approved_release_is_to_be_packed_and_a_packed_one_to_be_sent(tmp_path):
    world, release = finished(tmp_path)
    approve(release_dir=release, name="Ada Roe", key_file=world.approver_key)
    typed = ["bundle", *TYPED]
    again = "snakemake bundle --configfile 'my site.yaml' --config protocol=demo"
    assert f"next:      {again}" in ending_of(world, ["bundle"], typed)
    assert f"next:      {again}" in ending_of(world)
    stand(world, world.standing(roster=None, previous=FIRST))
    assert "put the hub's message that opens the round into" in ending_of(world)
    stand(world, world.standing())
    folders = replace(Folders.of(world.settings, world.root, 1), outbox=tmp_path / "outbox")
    path = bundle(
        settings=world.settings,
        standing=world.standing(),
        ledger=site_ledger(world.settings, world.root.parent),
        folders=folders,
    )
    text = ending_of(world, ["bundle"], typed)
    _, outbox = world.settings.site.exchange.folders(world.root.parent)
    assert f"message:   {outbox.absolute() / path.with_suffix('.age').name}" in text
    assert "bring the message to the hub 'hub'" in text
    stand(world, world.standing(previous="c" * 64))
    assert f"next:      {again}" in ending_of(world)


def with_site(world, **changes):
    here = world.settings.site.model_copy(update=changes)
    world.settings = world.settings.model_copy(update={"site": here})


def test_a_run_says_why_an_approval_is_not_enough(tmp_path):
    world, release = finished(tmp_path)
    approve(release_dir=release, name="Ada Roe", key_file=world.approver_key)
    assert "approval:" not in ending_of(world)
    two = world.settings.site.disclosure.model_copy(update={"approvers": 2})
    with_site(world, disclosure=two)
    line = next(line for line in ending_of(world).splitlines() if "approval:" in line)
    assert "Ada Roe" in line
    assert "two persons" in line or "second person" in line


def test_a_site_with_an_address_is_not_asked_to_carry_files(tmp_path):
    world, release = finished(tmp_path)
    approve(release_dir=release, name="Ada Roe", key_file=world.approver_key)
    address = "davs://cloud.example.org/federation/hub"
    with_site(world, exchange=Exchange(inbox=address, outbox=address))
    again = "snakemake send --configfile 'my site.yaml' --config protocol=demo"
    assert f"next:      {again}" in ending_of(world)
    stand(world, world.standing(roster=None, previous=FIRST))
    assert f"await the hub's message that opens the round, then: {again}" in ending_of(world)
    stand(world, world.standing())
    folders = Folders.of(world.settings, world.root, 1)
    bundle(
        settings=world.settings,
        standing=world.standing(),
        ledger=site_ledger(world.settings, world.root.parent),
        folders=folders,
    )
    assert f"next:      {again}" in ending_of(world, ["send"])
    for sealed in folders.outbox.iterdir():
        sealed.unlink()
    assert f"the message was sent to {address}" in ending_of(world, ["send"])


def test_a_hub_with_an_address_does_not_carry_files(tmp_path):
    world = site(tmp_path, "north")
    (tmp_path / "inbox").mkdir()
    settings = hub_settings([world], tmp_path / "inbox")
    address = "davs://cloud.example.org/federation"
    changes = {"inbox": f"{address}/hub", "outbox": f"{address}/sites"}
    settings = settings.model_copy(update={"hub": settings.hub.model_copy(update=changes)})
    text = next_at_hub(settings, {"round": 1, "missing": ["a"], "ended": "", "opened": False})
    assert text == (
        f"the sites fetch what a run has sent to {address}/sites, "
        "when they have answered run snakemake hub again"
    )


def test_a_site_whose_hub_has_no_key_or_has_ended_knows(tmp_path):
    world, release = finished(tmp_path)
    approve(release_dir=release, name="Ada Roe", key_file=world.approver_key)
    stand(world, world.standing(ended="The protocol has an error."))
    text = ending_of(world)
    assert "ended by the hub in round 1: The protocol has an error." in text
    assert "next:" not in text
    stand(world, world.standing())
    place = world.settings.site.hub.model_copy(update={"key": None})
    with_site(world, hub=place)
    assert "write the hub's public key into site.yaml as hub.key" in ending_of(world)


def test_a_candidate_of_which_nothing_may_leave_is_a_warning(tmp_path):
    world, _ = finished(tmp_path, patients=3)
    text = ending_of(world)
    assert "0 of 5 cells may leave the site" in text
    assert "WARNING: no number may leave the site: rule min_patients" in text
    assert "release approve" not in text


@pytest.mark.parametrize("target", ["measure", "train", "results/x.parquet"])
def test_a_part_of_a_run_says_nothing_of_the_whole(tmp_path, target):
    assert ending_of(finished(tmp_path)[0], [target]) == ""
    assert ending_of(finished(tmp_path / "b")[0], ["all", target]) == ""


def test_a_training_ends_with_its_model_and_its_page(tmp_path):
    content = yaml.safe_load((PROTOCOLS / "phantom-train.yaml").read_text())
    settings = settings_of(HERE, content)
    assert site_ending(settings, tmp_path, ["train"], TYPED) == ""
    page = tmp_path / "train" / "index.html"
    page.parent.mkdir()
    page.touch()
    text = site_ending(settings, tmp_path, ["train"], TYPED)
    assert f"model {content['training']['model']!r} is trained" in text
    assert str(page) in text
    assert "models/models.yaml" in text


def test_results_without_a_verdict_say_nothing(tmp_path):
    assert ending_of(site(tmp_path, "north")) == ""


def hub(tmp_path, accepted, rejected, **changes):
    sites = [site(tmp_path, name) for name in ("north", "south")]
    inbox = tmp_path / "inbox"
    inbox.mkdir(parents=True)
    for world in sites:
        world.send(inbox)
    settings = hub_settings(sites, inbox)
    folder = tmp_path / "hub" / "rounds" / "r01"
    missing = [one.name for one in sites if one.name not in accepted]
    waits = {"round": 1, "missing": missing, "ended": "", "opened": False} | changes
    write_json(folder / "outlook.json", waits)
    write_json(folder / "accepted.json", [{"site": name} for name in accepted])
    write_json(folder / "rejected.json", rejected)
    (folder / "report.html").touch()
    return hub_ending(settings, tmp_path / "hub", 1), folder


def refused(number, **changes):
    return {
        "file": f"x{number}.age",
        "reason": "wrong_protocol",
        "meaning": "The message belongs to another protocol",
        "detail": "it has\x1b[2J 'other'",
    } | changes


def test_a_hub_ends_with_whom_it_took_and_refused(tmp_path):
    text, folder = hub(tmp_path, ["north"], [refused(1), refused(2, detail="")])
    assert "1 accepted (north), 2 refused" in text
    assert "x1.age: wrong_protocol: it has [2J 'other'" in text
    assert "x2.age: wrong_protocol: The message belongs to another protocol" in text
    assert "WARNING: the result is of one site alone" in text
    assert "missing:   south" in text
    assert str(folder / "report.html") in text
    assert str(folder / "result.json") in text
    assert f"put what comes back into {tmp_path / 'inbox'}" in text


def test_a_hub_that_refused_all_warns(tmp_path):
    text, _ = hub(tmp_path, [], [refused(n) for n in range(12)])
    assert "WARNING: the result is empty: all messages were refused" in text
    assert "2 more, see" in text


def test_a_hub_that_has_just_opened_a_round_does_not_warn(tmp_path):
    text, _ = hub(tmp_path, [], [])
    assert f"no message of this round has come into {tmp_path / 'inbox'} yet" in text
    assert "WARNING" not in text


def test_a_hub_of_all_sites_does_not_warn(tmp_path):
    text, _ = hub(tmp_path, ["north", "south"], [])
    assert "2 accepted (north, south), 0 refused" in text
    assert "nothing: all sites have answered" in text
    assert "WARNING" not in text
    assert "missing" not in text


def test_a_failed_run_ends_with_the_last_message_of_each_job(tmp_path):
    texts = {
        "accept": "jipflow: 5 of 10 cases failed;\nsee the report.\n",
        "segment": "[1/2] ok\njipflow: model 'x' is not there.\n",
        "measure": "Traceback (most recent call last):\n  x\nValueError: odd\n",
        "encode": "",
    }
    for rule, text in texts.items():
        (tmp_path / f"{rule} log.txt").write_text(text)
    page = tmp_path / "index.html"
    page.touch()
    failed = [(rule, str(tmp_path / f"{rule} log.txt")) for rule in [*texts, "accept", "gone"]]
    text = failure_ending([*failed, ("all", None)], page)
    assert text.startswith("jipflow: the run ended with an error.")
    assert text.count("accept: 5 of 10 cases failed; see the report.") == 1
    assert "segment: model 'x' is not there." in text
    assert "measure: ValueError: odd" in text
    assert "encode: its log is empty" in text
    assert "gone: it left no log" in text
    assert f"report: {page}" in text
    assert f"log: {tmp_path}/segment log.txt" in text
    assert "Traceback" not in text


def test_of_a_group_that_failed_the_stage_is_named_that_did(tmp_path):
    stages = ("prepare", "segment", "measure", "document")
    group = [(stage, str(tmp_path / f"{stage}.log")) for stage in stages]

    def wrote(stage: str, text: str, seconds: float) -> None:
        path = tmp_path / f"{stage}.log"
        path.write_text(text)
        os.utime(path, (seconds, seconds))

    assert failed_stages(group, 1000) == group[:1]
    wrote("document", "jipflow: of an earlier run.\n", 900)
    assert failed_stages(group, 1000) == group[:1]
    wrote("prepare", "[1/2] ok\n", 1010)
    wrote("segment", "[1/2] ok\nKilled\n", 1020)
    assert failed_stages(group, 1000) == group[1:2]
    wrote("prepare", "", 1020)
    assert failed_stages(group, 1000) == group[1:2]
    wrote("measure", "[1/2] ok\njipflow: the disk is full.\n", 1015)
    assert failed_stages(group, 1000) == group[2:3]
    assert failed_stages([("all", None)], 1000) == [("all", None)]


def test_the_full_disk_that_a_log_has_no_room_for_is_named(tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, 1):
        (disk / "empty.log").touch()
        (disk / "ballast").write_bytes(bytes(2**20))
        for name in ("empty.log", "gone.log"):
            text = failure_ending([("measure", str(disk / name))])
            assert f"measure: {disk / name}: No space left on device (0 MB free at " in text
            assert "make room, and run the same command again" in text
        (disk / "ballast").unlink()
        assert "measure: its log is empty" in failure_ending([("measure", str(disk / "empty.log"))])


def test_a_failure_without_a_job_is_still_an_end(tmp_path):
    assert failure_ending([], tmp_path / "old.html").count("\n") == 1
    assert failure_ending([], place="The disk is away.").splitlines()[1] == "  The disk is away."
    many = [(f"r{n}", str(tmp_path / f"{n}.log")) for n in range(12)]
    assert "2 more jobs failed" in failure_ending(many)


def test_a_message_is_one_short_line_without_control_characters(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes(b"x" * 70_000 + b"\njipflow: a\x1b[31mb\nc \xff" + b"d" * 1000)
    message = last_message(path)
    assert message.startswith("a [31mb c")
    assert len(message) <= 603
    assert plain("a\u202eb\tc") == "a b c"


def test_a_hub_says_that_a_round_is_open_or_that_all_is_over(tmp_path):
    text, _ = hub(tmp_path / "a", ["north", "south"], [], opened=True)
    assert "round 2 is open: bring each site what lies in" in text
    text, _ = hub(tmp_path / "b", ["north"], [], ended="The protocol has an error.")
    assert "the rounds were ended: The protocol has an error." in text
    assert "missing:" not in text
