"""The limits of a PACS, with a clock that the tests turn."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta

import pytest

from jipflow.pacs.limits import Hours, Limits, sole_mover
from jipflow.reasons import StageError
from jipflow.settings.site import DicomWeb, Dimse

DICOMWEB = DicomWeb(name="pacs", kind="dicomweb", url="https://pacs.local/dicom-web")
DIMSE = Dimse(
    name="pacs",
    kind="dimse",
    host="pacs.local",
    port=104,
    called_aet="PACS",
    calling_aet="JIPFLOW",
)


class Clock:
    """Seconds and local time that pass only while somebody sleeps."""

    def __init__(self, hour: int = 12, minute: int = 0) -> None:
        self.start = datetime(2026, 3, 4, hour, minute)
        self.seconds = 0.0
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds

    def limits(self, rate: float | None = None, hours: str | None = None) -> Limits:
        return Limits(
            rate, hours, "pacs", clock=lambda: self.seconds, now=self.now, sleep=self.sleep
        )


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("08:00-17:30", ["08:00", "12:00", "17:29"], ["07:59", "17:30", "00:00"]),
        ("19:00-06:00", ["19:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "18:59"]),
        ("00:00-00:00", ["00:00", "11:11", "23:59"], []),
    ],
)
def test_a_window_holds_its_first_minute_and_not_its_last(
    window: str, inside: list[str], outside: list[str]
) -> None:
    hours = Hours(window)
    for text in inside:
        assert hours.hold(datetime.fromisoformat(f"2026-03-04T{text}")), text
    for text in outside:
        assert not hours.hold(datetime.fromisoformat(f"2026-03-04T{text}")), text


@pytest.mark.parametrize(
    ("window", "moment", "wait"),
    [
        ("19:00-06:00", "12:00", 7 * 3600),
        ("19:00-06:00", "06:00", 13 * 3600),
        ("08:00-09:00", "09:30", 22.5 * 3600),
        ("08:00-09:00", "08:30", 0),
    ],
)
def test_the_wait_until_a_window_opens(window: str, moment: str, wait: float) -> None:
    moment_of_day = datetime.fromisoformat(f"2026-03-04T{moment}")
    assert Hours(window).seconds_until(moment_of_day) == wait


def test_outside_its_hours_a_source_waits_in_small_steps_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock(18, 50)
    limits = clock.limits(hours="19:00-06:00")
    let_go: list[datetime] = []
    with caplog.at_level(logging.WARNING):
        limits.wait(lambda: let_go.append(clock.now()))
    assert clock.now() == datetime(2026, 3, 4, 19, 0)
    assert max(clock.sleeps) <= 30
    assert let_go == [datetime(2026, 3, 4, 18, 50)]
    assert [record.getMessage() for record in caplog.records] == [
        "source 'pacs': images move at 19:00-06:00 only; waiting until then."
    ]


def test_inside_its_hours_nothing_waits() -> None:
    clock = Clock(23, 0)
    limits = clock.limits(hours="19:00-06:00")
    limits.wait(lambda: pytest.fail("nothing closes"))
    assert limits.is_open()
    assert clock.sleeps == []


def test_what_moved_is_paid_off_before_the_next_object_starts() -> None:
    clock = Clock()
    limits = clock.limits(rate=1000)
    for size in (500, 2500, 1000):
        limits.wait()
        limits.count(size)
    limits.wait()
    assert clock.seconds == pytest.approx(4.0)


def test_an_idle_source_saves_nothing_up() -> None:
    clock = Clock()
    limits = clock.limits(rate=1000)
    clock.seconds = 100
    limits.count(2000)
    limits.wait()
    assert clock.seconds == pytest.approx(102)


def test_without_a_rate_nothing_waits() -> None:
    clock = Clock()
    limits = clock.limits()
    limits.count(10**12)
    limits.wait()
    assert clock.sleeps == []


def test_the_rate_is_of_all_connections_together() -> None:
    limits = Limits(100_000, name="pacs")
    moved = []

    def move() -> None:
        for _ in range(5):
            limits.wait()
            limits.count(5_000)
            moved.append(5_000)

    threads = [threading.Thread(target=move) for _ in range(4)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - start
    # Each thread may have one object on its way when the bucket runs empty.
    assert sum(moved) == 100_000
    assert elapsed >= (sum(moved) - 4 * 5_000) / 100_000 * 0.95


def test_limits_come_from_the_configuration() -> None:
    limited = DicomWeb(**DICOMWEB.plain(), hours="19:00-06:00", bytes_per_second=5000)
    limits = Limits.of(limited)
    assert limits.bytes_per_second == 5000
    assert Limits.of(DICOMWEB).is_open()


def test_two_runs_move_images_one_after_the_other(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    url = "https://elsewhere.local/dicom-web"
    elsewhere = DicomWeb(name="pacs", kind="dicomweb", url=url)
    code = (
        "import sys; from jipflow.pacs.limits import sole_mover\n"
        "from jipflow.settings.site import DicomWeb\n"
        f"with sole_mover(DicomWeb(**{DICOMWEB.plain()!r})):\n"
        "    print('in', flush=True); sys.stdin.readline()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == "in\n"
        with sole_mover(elsewhere):
            pass
        assert not caplog.records
        threading.Timer(0.5, other.kill).start()
        start = time.monotonic()
        with sole_mover(DICOMWEB):
            assert time.monotonic() - start > 0.3
        assert "another run moves images" in caplog.text


@pytest.mark.parametrize("occupied", ["a link", "open to others", "a file", "another's"])
def test_a_lock_where_another_account_may_be_is_refused(tmp_path, monkeypatch, occupied):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = tmp_path / f"jipflow-{os.getuid()}"
    if occupied == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    elif occupied == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    elif occupied == "a file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir(mode=0o700)
        other = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: other)
        folder.rename(tmp_path / f"jipflow-{other}")
    with pytest.raises(StageError, match="set TMPDIR"), sole_mover(DIMSE):
        pass


def test_locks_stand_in_a_folder_of_the_account_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with sole_mover(DIMSE):
        (folder,) = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (lock,) = folder.iterdir()
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
