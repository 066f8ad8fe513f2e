"""Outcomes: every item of every case ends in one, whatever happens."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

from jipflow.cases import Case
from jipflow.files import atomic_path, sha256_file, write_json
from jipflow.outcomes import Made, Outcome, Status, attempt, passed, read_outcomes, write_outcomes
from jipflow.reasons import CaseFault, Reason
from jipflow.workers import for_each_case


def work_on(case, root):
    """A stage's work for the tests: the case's name says what happens."""

    def work():
        if case.case_id == "fault":
            raise CaseFault(Reason.MISSING_SLICES, "two slices are missing")
        if case.case_id == "bug":
            raise ZeroDivisionError("division by zero")
        path = root / f"{case.case_id}.txt"
        path.write_text(case.case_id)
        return Made((path,), "a note")

    return [attempt(case.case_id, "prepare", "CT", work, root)]


@pytest.mark.parametrize("threads", [1, 3])
def test_one_bad_case_stops_no_other(tmp_path, threads):
    cases = [Case(name, "p", "s00001", {}) for name in ("fault", "bug", "good", "fine")]
    outcomes = for_each_case(cases, partial(work_on, root=tmp_path), threads)
    assert [o.case_id for o in outcomes] == ["fault", "bug", "good", "fine"]
    fault, bug, good, _ = outcomes
    assert (fault.status, fault.reason) == (Status.FAILED, "missing_slices")
    assert fault.message == "two slices are missing"
    assert (bug.status, bug.reason) == (Status.FAILED, "unexpected_error")
    assert "ZeroDivisionError" in bug.message
    assert (good.status, good.reason, good.message) == (Status.OK, "", "a note")
    assert good.outputs == ["good.txt"]
    assert good.sha256 == [sha256_file(tmp_path / "good.txt")]
    assert all(o.seconds >= 0 and o.max_rss_mb > 1 for o in outcomes)
    assert passed(outcomes) == {("good", "CT"), ("fine", "CT")}


def warn_of(case):
    warnings.warn(f"an odd name: {case.case_id}", stacklevel=1)
    logging.getLogger("pydicom").warning("an odd name: %s", case.case_id)
    return [case.case_id]


@pytest.mark.parametrize(("threads", "folder"), [(1, "short"), (2, "short"), (2, "n" * 100)])
def test_no_process_quotes_a_header_in_its_log(tmp_path, threads, folder):
    """Nor fails one because a socket in the folder for temporary files had too long a name."""
    (tmp_path / folder).mkdir()
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    code = (
        "from jipflow.cases import Case\n"
        "from jipflow.workers import for_each_case, silence_libraries\n"
        "from test_outcomes import warn_of\n"
        "if __name__ == '__main__':\n"
        "    silence_libraries()\n"
        "    cases = [Case(name, 'p', 's00001', {}) for name in ('DOE^JANE', 'ROE^ADA')]\n"
        f"    print(len(for_each_case(cases, warn_of, {threads})))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / folder)},
    )
    assert (result.stdout, result.stderr) == ("2\n", "")
    assert not list((tmp_path / folder).iterdir())


def test_want_of_memory_is_the_jobs_affair(tmp_path):
    def work():
        raise MemoryError

    with pytest.raises(MemoryError):
        attempt("c", "prepare", "CT", work, tmp_path)


def test_outcomes_come_back_sorted(tmp_path):
    outcomes = [
        Outcome("b", "segment", "organs", Status.FAILED, "empty_segment", "why", 1.5, 10.0),
        Outcome("a", "prepare", "PT"),
        Outcome("a", "prepare", "CT", outputs=["x"], sha256=["0"]),
    ]
    write_outcomes(tmp_path / "o.parquet", outcomes)
    again = read_outcomes(tmp_path / "o.parquet")
    assert again == [outcomes[2], outcomes[1], outcomes[0]]
    write_outcomes(tmp_path / "empty.parquet", [])
    assert read_outcomes(tmp_path / "empty.parquet") == []


def test_reason_codes_are_words_with_a_meaning():
    for reason in Reason:
        assert reason.value == reason.name.lower()
        assert reason.meaning[0].isupper()
    assert len({reason.meaning for reason in Reason}) == len(Reason)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "folder" / "table.json"
    write_json(path, {"b": 1, "a": [1.5]})
    before = path.read_bytes()

    def half():
        with atomic_path(path) as partial_path:
            partial_path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["table.json"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_bytes() == before


def test_two_writers_of_a_file_never_share_a_temporary_name(tmp_path):
    path = tmp_path / "table.json"
    with atomic_path(path) as one:
        one.write_text("one")
        # Of this very process, as a job of another machine may have its number.
        with atomic_path(path) as other:
            assert other != one
            other.write_text("other")
        assert path.read_text() == "other"
        assert one.read_text() == "one"
    assert path.read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_a_temporary_name_says_which_machine_left_it(tmp_path):
    with atomic_path(tmp_path / "image.nii.gz") as partial_path:
        assert partial_path.name.startswith(f".partial-{socket.gethostname().split('.')[0]}-")
        assert partial_path.name.endswith("-image.nii.gz")
        partial_path.touch()


def test_a_folder_replaces_a_folder(tmp_path):
    target = tmp_path / "masks"
    for content in ("old", "new"):
        with atomic_path(target) as partial_path:
            partial_path.mkdir()
            (partial_path / content).touch()
    assert [p.name for p in target.iterdir()] == ["new"]
