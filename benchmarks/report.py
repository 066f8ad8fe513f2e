"""The results of the benchmarks: one JSON file each, and a page of tables made of them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jipflow.files import atomic_path, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
PAGES = {"benchmarks": "Benchmarks", "ibsi": "Features beside IBSI's reference values"}
SHARED_DATA = ROOT.parent / "shared" / "data"

Cell = str | int | float | None


@dataclass(frozen=True)
class Cost:
    """What a command cost.

    Attributes:
        seconds: wall time.
        processor_seconds: time of all its threads and children on processors.
        peak_mb: peak resident memory in MiB, of the largest of its processes.
        written_mb: what they wrote to disks, in MiB, with what was deleted before the end.
        output: what it printed.
    """

    seconds: float
    processor_seconds: float
    peak_mb: float
    written_mb: float
    output: str


LAUNCHER = """
import ctypes, json, os, resource, sys, time
assert not ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
start = time.perf_counter()
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
seconds = time.perf_counter() - start
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
cost = [seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, usage.ru_oublock / 2048]
with open(sys.argv[1], "w") as stream:
    json.dump([*cost, code], stream)
"""
"""Linux counts the memory of the process that starts another to the other's peak: start from a
small one. Processes whose parents end before them are counted, too: they become its children, by
PR_SET_CHILD_SUBREAPER."""


def measure(command: Sequence[str]) -> Cost:
    """Run a command in a process of its own.

    Args:
        command: an absolute path and its arguments.

    Raises:
        RuntimeError: it fails.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".json") as report:
        launch = [sys.executable, "-S", "-c", LAUNCHER, report.name, *command]
        output = subprocess.run(launch, stdout=subprocess.PIPE, text=True, check=True).stdout
        *cost, code = json.load(report)
    if code:
        raise RuntimeError(f"{command[:2]} ended with {code}")
    return Cost(*cost, output)


def write_result(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    packages: Sequence[str],
    notes: Sequence[str] = (),
    page: str = "benchmarks",
    **more: object,
) -> None:
    """Write ``benchmarks/results/<name>.json`` and print its table.

    Args:
        name: of the file.
        title: of the table.
        columns: heads of the table, with units.
        rows: their cells; numbers are rounded to three digits where they are shown.
        packages: the installed packages whose versions matter.
        notes: what the inputs were, and what a reader must know to assess the numbers.
        page: of the documentation that shows it.
        more: what a later measurement wants to know of this one.
    """
    result = {
        **more,
        "name": name,
        "title": title,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "notes": list(notes),
        "page": page,
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in ("jipflow", *packages)},
        },
    }
    write_json(RESULTS / f"{name}.json", result)
    print("\n".join(_table(result)[:40]))


def write_pages() -> None:
    """Write ``docs/benchmarks.md`` and the other pages of results."""
    results = [read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    for page, title in PAGES.items():
        _write_page(page, title, [result for result in results if result.get("page") == page])


def _write_page(page: str, title: str, results: Sequence[dict[str, Any]]) -> None:
    lines = [
        f"# {title}",
        "",
        "Written by `python benchmarks/report.py` from `benchmarks/results`; see",
        "`benchmarks/README.md` for how to run them. Compare the numbers within a table: they come",
        "from the same inputs in the same run.",
    ]
    for result in results:
        used = result["machine"]
        lines += ["", f"## {result['title']}", "", *_table(result), ""]
        lines += [f"* {note}" for note in result["notes"]]
        lines.append(
            f"* {used['cpu']}, {used['cores']} cores, {used['memory_gb']} GB; "
            + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
            + "."
        )
    with atomic_path(DOCS / f"{page}.md") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what this runs on."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _table(result: dict[str, Any]) -> list[str]:
    def text(cell: Cell) -> str:
        if isinstance(cell, float):
            return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
        if isinstance(cell, int):
            return f"{cell:,}"
        return "–" if cell is None else cell.replace("|", "\\|")

    lines = ["| " + " | ".join(result["columns"]) + " |", "|---" * len(result["columns"]) + "|"]
    return lines + ["| " + " | ".join(map(text, row)) + " |" for row in result["rows"]]


if __name__ == "__main__":
    write_pages()
    print(json.dumps(sorted(path.name for path in RESULTS.glob("*.json"))))
    sys.exit()
