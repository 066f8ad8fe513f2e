"""Disturb runs at random, and see what the same command comes to after it.

    python tests/pipeline/chaos.py --rounds 300 --seed 1
    python tests/pipeline/chaos.py --seed 1 --repeat 17

Each round takes a copy of a site whose results are finished up to some point, starts the run, and
does what the round's number and the seed draw: it kills processes, fills a disk, takes a folder
away, damages files, sets the clock, or starts a second run. Then what was done is undone, the same
command is given once more, and all it has made is compared with what an undisturbed run made.

A round has namespaces of its own (unshare), so that its mounts and processes are nobody else's. It
writes a line to ``rounds.jsonl``; one that did not end as it should keeps its folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos_ground import CLOCK, GROUNDS, Ground, prepare
from chaos_plan import KINDS, plan

HERE = Path(__file__).resolve().parent

LIMIT_S = 3000
"""Longest time of a round."""

COLUMNS = ("rounds", "at once", "same", "after its advice", "failed")


def main() -> int:
    """Play rounds; returns 1 where one did not end as it should."""
    words = _parser().parse_args()
    folder = words.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    kinds = words.kinds.split(",") if words.kinds else list(KINDS)
    if "clock" in kinds:
        build_clock(folder / CLOCK)
    grounds = {name: prepare(folder / "grounds" / name, name) for name in GROUNDS}
    numbers = words.repeat or range(words.first, words.first + words.rounds)
    lines = folder / f"rounds-{words.seed}.jsonl"
    print(f"[chaos] seed {words.seed}, {lines}", flush=True)

    def play(number: int) -> dict[str, Any]:
        drawn = plan(words.seed, number, kinds, grounds)
        result = play_round(folder, grounds[drawn["ground"]], drawn)
        with open(lines, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(result, sort_keys=True) + "\n")
        print(line_of(result), flush=True)
        return result

    with ThreadPoolExecutor(words.jobs) as pool:
        results = list(pool.map(play, numbers))
    print(f"[chaos] all rounds of {lines.name}, each as it ended last:")
    for row in table(read_rounds(lines)):
        print("  ".join(f"{cell!s:>20}" for cell in row))
    return int(any(result["ended"] == "failed" for result in results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="number of the first round")
    parser.add_argument("--repeat", type=int, nargs="+", help="numbers of rounds, these alone")
    parser.add_argument("--kinds", default="", help=f"of {','.join(KINDS)}")
    parser.add_argument("--jobs", type=int, default=1, help="rounds side by side")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "results" / "chaos")
    return parser


def build_clock(library: Path) -> None:
    """Compile what moves a process's time of day when it is loaded before all else."""
    source = HERE / "chaos_clock.c"
    words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    try:
        subprocess.run(words, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit("install a C compiler, or name --kinds without clock") from None


def play_round(folder: Path, ground: Ground, drawn: dict[str, Any]) -> dict[str, Any]:
    """Play a round in namespaces of its own, and return what it came to."""
    place = folder / f"round-{drawn['seed']}-{drawn['number']:04d}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "plan.json").write_text(json.dumps(drawn, indent=2))
    shutil.copytree(ground.start(drawn["start"]), place / "root", symlinks=True)
    begun = time.monotonic()
    command = [
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
        *([] if os.geteuid() == 0 else ["--map-root-user"]),
        *(sys.executable, str(HERE / "chaos_round.py"), str(ground.folder), str(place)),
    ]
    with open(place / "round.log", "w") as stream:
        try:
            subprocess.run(command, stdout=stream, stderr=stream, timeout=LIMIT_S, check=True)
            result = json.loads((place / "result.json").read_text())
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            result = {"ended": "failed", "why": f"the round itself: {error!r}"[:300]}
    result = {**drawn, **result, "seconds": round(time.monotonic() - begun, 1)}
    if result["ended"] != "failed":
        shutil.rmtree(place, ignore_errors=True)
    return result


def line_of(result: dict[str, Any]) -> str:
    """Return a line about a round."""
    return (
        f"{result['number']:4d} {result['kind']:9s} {result['what']:44s} from {result['start']:8s}"
        f" {result['ended']:18s} {result['seconds']:6.1f} s  {result.get('why', '')}"
    )


def read_rounds(lines: Path) -> list[dict[str, Any]]:
    """Return what each round of a file came to when it was played last."""
    results = map(json.loads, lines.read_text(encoding="utf-8").splitlines())
    return list({result["number"]: result for result in results}.values())


def table(results: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Return the rounds by kind of fault and how they ended, heads first."""
    results = list(results)
    rows: list[list[Any]] = [["kind", *COLUMNS]]
    for kind in [*KINDS, "all"]:
        of_kind = [result for result in results if kind in (result["kind"], "all")]
        counts = [sum(r["ended"] == name for r in of_kind) for name in COLUMNS[1:]]
        if of_kind:
            rows.append([kind, len(of_kind), *counts])
    return rows


if __name__ == "__main__":
    sys.exit(main())
