"""One round, in namespaces of its own: a run that is disturbed, and the same command after it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos_compare import differences
from chaos_ground import CLOCK, FINISHED, Ground, read_ground, snakemake
from harness import environment

PATIENCE_S = 900
"""Longest time of a run."""

ADVICE = re.compile(
    r"run the same (snakemake )?command again|wait until it is over|--force|\brm |; remove |"
    r"make room|name (new|other) results|restore it from a backup|"
    r"let this user write there|the same command goes on with what is missing"
)
"""What a message says that tells a person what to do."""


RAW = re.compile(r"Traceback|for the makers of jipflow")
"""What a message has that was made for nobody."""

FRAME = re.compile(r"Complete log|Elapsed time|WorkflowError|At least one job|log: |Exiting|Using ")
"""Lines of Snakemake's own."""


class Run:
    """A run of the site that goes on, and what it has printed."""

    def __init__(
        self, root: Path, name: str, clone: str = "clone", more: dict[str, str] | None = None
    ) -> None:
        self.log = root / "tmp-logs" / f"{name}.log"
        self.log.parent.mkdir(exist_ok=True)
        with open(self.log, "w") as stream:
            self.process = subprocess.Popen(
                snakemake(root),
                cwd=root / clone,
                env=environment() | {"TMPDIR": str(root / "tmp")} | (more or {}),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def going(self) -> bool:
        return self.process.poll() is None

    def reach(self, jobs: int, delay: float) -> bool:
        """Wait until so many jobs have ended, and a while; returns whether it still goes on."""
        deadline = time.monotonic() + PATIENCE_S
        while len(FINISHED.findall(self.text)) < jobs and self.going:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline and self.going:
            time.sleep(0.02)
        return self.going

    def end(self) -> int:
        """Wait for its end; returns its exit code, or raises where it hangs."""
        return self.process.wait(PATIENCE_S)

    def printed(self) -> str:
        """Return the last of what it printed, from where jipflow sums up what went wrong."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        begun = [n for n, line in enumerate(lines) if line.startswith("jipflow: ")]
        lines = [line for line in lines[begun[-1] if begun else -4 :] if not FRAME.match(line)]
        return " | ".join(lines)[-900:]


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)


class Round:
    """A round: what it disturbs, how that is undone, and what came of it."""

    def __init__(self, ground: Ground, place: Path) -> None:
        self.ground, self.place, self.root = ground, place, ground.root
        self.plan: dict[str, Any] = json.loads((place / "plan.json").read_text())
        self.results = self.root / "results"
        self.found: dict[str, Any] = {}
        mount("--bind", str(place / "root"), str(self.root))

    def play(self) -> dict[str, Any]:
        """Disturb a run, give the same command again, and compare."""
        fault: Callable[[], Run | None] = getattr(self, self.plan["kind"])
        try:
            first = fault()
            if first is not None:
                self._note(first)
            ended = self._heal()
        except subprocess.TimeoutExpired:
            ended, self.found["why"] = "failed", f"a run hung over {PATIENCE_S} s"
        if ended == "failed":
            shutil.copytree(self.results, self.place / "left", dirs_exist_ok=True, symlinks=True)
        logs = self.root / "tmp-logs"
        shutil.copytree(logs, self.place / "printed", dirs_exist_ok=True)
        return {**self.found, "ended": ended}

    def _note(self, run: Run) -> None:
        """Note how the disturbed run ended, and whether it gave a person something to do."""
        code = run.process.returncode
        self.found["first"] = code
        if code > 0 and not self.found.get("killed"):
            self.found["printed"] = run.printed()
        if not self.found.get("killed") and RAW.search(run.text):
            self.found["traceback"] = True

    def _heal(self) -> str:
        """Give the same command until it has ended well; say after how much."""
        for number in (1, 2, 3):
            run = Run(self.root, f"again-{number}")
            code = run.end()
            if code == 0:
                break
            self.found.setdefault("advice", []).append(run.printed())
            if RAW.search(run.text) or not ADVICE.search(run.printed()):
                return self._fail(f"the same command ends with {code}: {run.printed()}")
            self._do(run.printed())
        else:
            return self._fail("what it says does not help")
        if found := differences(self.ground.folder / "reference" / "results", self.results):
            return self._fail(f"other results: {'; '.join(found[:4])}")
        halves = [path.name for path in self.results.rglob(".partial-*")]
        if halves:
            self.found["halves"] = halves[:5]
        if self.plan["again"]:
            run = Run(self.root, "once-more")
            if run.end() or "Nothing to be done" not in run.text:
                return self._fail(f"a run after it has something to do: {run.printed()}")
        if self.found.get("printed") and not ADVICE.search(self.found["printed"]):
            return self._fail(f"no advice: {self.found['printed']}")
        if self.found.get("traceback"):
            return self._fail("a traceback was printed")
        if self.found.get("unrefused"):
            return self._fail("of two runs at once one failed, and neither was refused")
        if number > 1:
            return "after its advice"
        return "at once" if self.found.get("first") == 0 else "same"

    def _fail(self, why: str) -> str:
        self.found["why"] = why
        return "failed"

    def _do(self, printed: str) -> None:
        """Do what a message says."""
        for path in re.findall(r"(?:\brm |; remove )('[^']+'|\S+?)[,:;.]?(?:\s|$)", printed):
            Path(path.strip("'")).unlink(missing_ok=True)
        damaged = r"(\S+) is (?:missing or )?damaged.* [Rr]estore it from (?:a|its) backup"
        for path in re.findall(damaged, printed):
            backup = self._backup(Path(path))
            if not backup.exists():
                reference = self.ground.folder / "reference" / "results"
                backup = reference / Path(path).relative_to(self.results)
            shutil.copy2(backup, path)

    def _backup(self, path: Path) -> Path:
        return self.place / "backup" / path.relative_to(self.results)

    def kill(self) -> Run:
        run = Run(self.root, "first")
        if run.reach(self.plan["after"], self.plan["delay"]):
            number = signal.Signals[f"SIG{self.plan['signal']}"]
            target = self.plan["target"]
            self.found["killed"] = target not in ("job", "copy", "server")
            while not (hit := send(run.process.pid, target, number)) and run.going:
                time.sleep(0.02)
            self.found["hit"] = hit
            if number is not signal.SIGKILL or not self.found["killed"]:
                run.end()
        if self.found.get("killed"):
            run.process.wait(PATIENCE_S)
        else:
            run.end()
        return run

    def disk(self) -> Run:
        where = self.root / self.plan["where"]
        store = self.root / "kept"
        where.rename(store)
        where.mkdir(mode=0o700)
        mount("-t", "tmpfs", "-o", "size=1g,mode=0700", "chaos", str(where))
        subprocess.run(["cp", "-a", f"{store}/.", str(where)], check=True)
        state = os.statvfs(where)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        mount("-o", f"remount,size={used + self.plan['room']}", str(where))
        run = Run(self.root, "first")
        run.end()
        mount("-o", "remount,size=1g", str(where))
        return run

    def source(self) -> Run:
        source, how = self.root / "dicom", self.plan["how"]
        away = self.root / "archive"
        away.rmdir()
        source.rename(away)
        source.mkdir()
        mount("--bind", str(away), str(source))
        if how == "gone before":
            unmount(source)
        run = Run(self.root, "first")
        going = run.reach(self.plan["after"], self.plan["delay"])
        files = sorted(path for path in away.rglob("*") if path.is_file())
        file = files[int(self.plan["file"] * len(files))]
        kept = self.root / "kept"
        if how == "gone" and going:
            unmount(source)
        elif how == "cut off":
            shutil.copy2(file, kept)
            os.truncate(file, file.stat().st_size // 2)
        elif how == "one file gone":
            file.rename(kept)
        run.end()
        if how in ("gone", "gone before"):
            if how == "gone before" or going:
                mount("--bind", str(away), str(source))
        else:
            kept.rename(file)
        return run

    def mount(self) -> Run:
        store = self.root / "store"
        store.rmdir()
        self.results.rename(store)
        self.results.mkdir(mode=0o700)
        mount("--bind", str(store), str(self.results))
        run = Run(self.root, "first")
        if run.reach(self.plan["after"], self.plan["delay"]):
            unmount(self.results)
            if self.plan["back"] == "while it runs":
                run.reach(0, self.plan["away"])
            else:
                run.end()
            mount("--bind", str(store), str(self.results))
        run.end()
        return run

    def readonly(self) -> Run:
        def close() -> None:
            mount("--bind", str(self.results), str(self.results))
            mount("-o", "remount,ro,bind", str(self.results))

        if self.plan["when"] == "before":
            close()
        run = Run(self.root, "first")
        going = run.reach(self.plan["after"], self.plan["delay"])
        if self.plan["when"] != "before" and going:
            close()
        run.end()
        if self.plan["when"] == "before" or going:
            unmount(self.results)
        return run

    def damage(self) -> None:
        out = self.results / "contours"
        done = []
        for drawn in self.plan["files"]:
            base = self.results if drawn["pattern"].startswith("../") else out
            found = sorted(base.glob(drawn["pattern"].removeprefix("../")))
            files = [path for path in found if path.is_file() and path.stat().st_size]
            if files:
                path = files[int(drawn["one"] * len(files))]
                self._backup(path).parent.mkdir(parents=True, exist_ok=True)
                if not self._backup(path).exists():
                    shutil.copy2(path, self._backup(path))
                damage(path, drawn["how"])
                done.append(f"{path.relative_to(self.results)}: {drawn['how']}")
        self.found["damaged"] = done

    def clock(self) -> Run:
        seconds, begun = self.plan["seconds"], time.time()
        file = self.root / "clock"
        file.write_text("+0" if self.plan["when"] == "while it runs" else f"{seconds:+d}")
        library = self.ground.folder.parents[1] / CLOCK
        more = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(file)}
        run = Run(self.root, "first", more=more)
        if run.reach(self.plan["after"], self.plan["delay"]):
            file.write_text(f"{seconds:+d}")
            if self.plan["ends"] == "killed":
                run.reach(0, 3)
                self.found["killed"] = True
                send(run.process.pid, "all", signal.SIGKILL)
        run.end()
        for path in self.results.rglob("*"):
            state = path.lstat()
            if state.st_mtime > begun:
                os.utime(path, (state.st_atime + seconds, state.st_mtime + seconds))
        return run

    def two(self) -> Run:
        first = Run(self.root, "first")
        going = first.reach(self.plan["after"], self.plan["delay"])
        if going and self.plan["killed"] == "first":
            first.process.kill()
            first.process.wait()
        second = Run(self.root, "second", self.plan["clone"])
        if self.plan["killed"] == "second":
            second.reach(0, 4)
            second.process.kill()
        codes = [first.end(), second.end()]
        self.found["codes"] = codes
        refused = "is in use by the run of process" in first.text + second.text
        if self.plan["killed"] == "none" and codes != [0, 0] and not refused:
            self.found["unrefused"] = True
        return first if self.plan["killed"] != "first" else second


def send(coordinator: int, target: str, number: signal.Signals) -> int:
    """Send a signal to processes of a run; returns to how many."""
    if target == "group":
        os.killpg(coordinator, number)
        return 1
    own = {os.getpid(), os.getppid(), 1}
    processes = {pid: found for pid, found in _processes().items() if pid not in own}
    servers = [
        pid
        for pid, (parent, words) in processes.items()
        if parent == coordinator and "jipflow.cli.server" in words
    ]
    copies = [pid for pid, (parent, _) in processes.items() if parent in servers]
    jobs = [pid for pid, (parent, _) in processes.items() if parent == coordinator]
    chosen = {
        "coordinator": [coordinator],
        "server": servers,
        "copy": copies,
        "job": [pid for pid in jobs if pid not in servers],
        "all": list(processes),
    }[target]
    for pid in chosen:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return len(chosen)


def _processes() -> dict[int, tuple[int, str]]:
    """Return parent and command line of each process that can be seen."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            words = (place / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        found[int(place.name)] = (int(parent), words)
    return found


def damage(path: Path, how: str) -> None:
    """Leave a file under its name as a kill of the machine, or a bad copy, may leave it."""
    size = path.stat().st_size
    os.truncate(path, {"empty": 0, "half": size // 2, "last byte": size - 1}[how])


if __name__ == "__main__":
    ground, place = Path(sys.argv[1]), Path(sys.argv[2])
    result = Round(read_ground(ground), place).play()
    (place / "result.json").write_text(json.dumps(result))
