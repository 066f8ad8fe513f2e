"""What is secret or leads to patients is its owner's alone, and refused where it is not."""

from __future__ import annotations

import os
import subprocess

import pytest

from jipflow.exchange.keys import load_key, new_key
from jipflow.pacs.credentials import private_file
from jipflow.privacy.pseudonyms import known_secret, site_secret
from jipflow.privacy.rights import check_private, check_results, closing
from jipflow.reasons import StageError
from jipflow.settings.permissions import Permissions
from jipflow.settings.resources import ConfigError
from thread_world import Hub


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "a b" / "results"
    for name in ("catalog/series.parquet", "demo/cohort/cases.tsv", "demo/report/index.html"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch(0o600)
    for folder in (path, *(each for each in path.rglob("*") if each.is_dir())):
        folder.chmod(0o755)
    return path


def run(message):
    """Do what a message says."""
    subprocess.run(message.partition("run: ")[2].partition(", or")[0], shell=True, check=True)


@pytest.mark.parametrize("name", ["catalog/series.parquet", "demo/cohort/cases.tsv"])
@pytest.mark.parametrize(("mode", "umask"), [(0o640, 0o077), (0o644, 0o027), (0o660, 0o027)])
def test_an_open_table_is_refused_until_it_is_closed_as_the_message_says(
    results, name, mode, umask
):
    check_results(results, umask)
    (results / name).chmod(mode)
    with pytest.raises(StageError, match=f"{name}: .* has mode {mode:04o}") as error:
        check_results(results, umask)
    run(str(error.value))
    check_results(results, umask)
    assert (results / name).stat().st_mode & umask == 0
    assert (results / name).stat().st_mode & 0o600 == 0o600


def test_what_the_umask_of_the_site_allows_is_not_refused(results):
    (results / "demo/cohort/cases.tsv").chmod(0o640)
    check_results(results, 0o027)
    (results / "demo/report/index.html").chmod(0o644)
    check_results(results, 0o027)


@pytest.mark.parametrize("closed", ["", "demo", "demo/cohort"])
def test_what_lies_in_a_closed_folder_is_closed(results, closed):
    (results / "demo/cohort/cases.tsv").chmod(0o644)
    (results / closed).chmod(0o700)
    check_results(results, 0o077)
    check_results(results / "missing", 0o077)


def test_an_open_file_of_the_ledger_is_refused(tmp_path):
    folder = tmp_path / "ledger"
    check_private(folder, "the ledger")
    folder.mkdir(mode=0o700)
    (folder / "000001.json").touch(0o644)
    check_private(folder, "the ledger")
    folder.chmod(0o755)
    with pytest.raises(StageError, match=r"000001\.json: others may") as error:
        check_private(folder, "the ledger")
    run(str(error.value))
    check_private(folder, "the ledger")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_secret_in_a_folder_that_others_may_write_to_is_refused(tmp_path):
    path = tmp_path / "secrets" / "identity.key"
    site_secret(path, tmp_path / "results")
    path.parent.chmod(0o770)
    with pytest.raises(StageError, match="others may replace"):
        known_secret(path)
    with pytest.raises(ConfigError, match="others may replace") as error:
        private_file(path, "token_file")
    run(str(error.value))
    assert private_file(path, "token_file") == path
    assert known_secret(path)


def test_the_command_names_only_what_is_too_much():
    assert closing("/x y", 0o027) == "chmod g-w,o-rwx '/x y'"
    assert closing("/x", 0o077, whole=True) == "chmod -R go-rwx /x"
    assert closing("/x", 0o007) == "chmod o-rwx /x"


@pytest.mark.parametrize("umask", ["022", "0000", "177", "77", "7", "0o77"])
def test_a_umask_that_opens_files_to_all_is_refused(umask):
    with pytest.raises(ValueError, match="umask"):
        Permissions(umask=umask)


def test_the_default_is_the_owner_alone():
    assert Permissions().mask == 0o077


def linked(folder, *names):
    """Return a link in each named folder, to the one before; the first to a secret."""
    target = folder / "own" / "identity.key"
    site_secret(target, folder / "results")
    for name in names:
        link = folder / name / "link"
        link.parent.mkdir()
        link.symlink_to(target)
        target = link
    return target


def test_a_link_to_a_secret_may_not_be_replaced_by_others_either(tmp_path):
    path = linked(tmp_path, "first", "second")
    known_secret(path)
    for name in ("own", "first", "second"):
        (tmp_path / name).chmod(0o770)
        with pytest.raises(StageError, match=rf"{name} has mode 0770.*chmod go-w"):
            known_secret(path)
        (tmp_path / name).chmod(0o700)
    known_secret(path)


def test_a_folder_that_others_may_only_read_replaces_nothing(tmp_path):
    path = linked(tmp_path)
    path.parent.chmod(0o755)
    assert known_secret(path)
    new_key(path.with_name("site.key"))
    assert load_key(path.with_name("site.key"))


def test_a_secret_that_belongs_to_another_account_is_refused(tmp_path, monkeypatch):
    path = linked(tmp_path)
    key = path.with_name("site.key")
    new_key(key)
    if os.geteuid():
        # Nobody but root can read a closed file of another account.
        monkeypatch.setattr(os, "geteuid", lambda: 0xFFFF)
    else:
        for each in (path, key):
            os.chown(each, 0xFFFE, 0xFFFE)
    for read in (lambda: known_secret(path), lambda: load_key(key)):
        with pytest.raises(StageError, match="belongs to another account"):
            read()


def test_a_hub_s_sealed_messages_may_be_carried_by_any_account(tmp_path):
    before = os.umask(0o077)
    try:
        hub = Hub(tmp_path / "hub")
        hub.add("round", 1)
        hub.messages("north")
        made = hub.thread.send(tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in made} == {0o644}
    assert {path.parent.stat().st_mode & 0o777 for path in made} == {0o755}
    own = [path for path in (tmp_path / "hub").rglob("*") if path not in made]
    assert {path for path in own if path.stat().st_mode & 0o077} == set()
