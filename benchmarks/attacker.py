"""What an attacker with 1,000 approved requests learns of a patient, before and now.

The table goes to docs/release.md, and to benchmarks/results/attacker.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import get_args

from attacked_site import BUDGET, Mode, Target
from attacks import ATTACKS, Attack
from jipflow.files import atomic_path, read_json
from report import DOCS, RESULTS, write_result

SITES = ((13, 5), (30, 5), (30, 10), (100, 10))
"""Patients and minimum."""

FULL, FEWER = (30, 5), 100
"""The site that is asked with the whole budget, and the requests to the others."""

START, END = "<!-- attacker: start -->\n", "<!-- attacker: end -->\n"
"""Between these lies the table in docs/release.md."""


@dataclass(frozen=True)
class Row:
    """One attack on one site.

    Attributes:
        attack: what was asked.
        patients: of the site.
        minimum: fewest patients.
        before: what was learned where the minimum of patients is the only rule.
        forgetful: what is learned of a site with all rules that remembers nothing.
        now: what is learned.
        requests: that were made now.
    """

    attack: str
    patients: int
    minimum: int
    before: str
    forgetful: str
    now: str
    requests: int


def run(attack: Attack, patients: int, minimum: int, root: Path, budget: int = BUDGET) -> Row:
    """Attack a site with the minimum alone, one that forgets, and one as it is."""
    found, asked = [], 0
    for mode in get_args(Mode):
        folder = Path(tempfile.mkdtemp(dir=root))
        target = Target.at(folder, patients, minimum, mode=mode, budget=budget)
        found.append(attack(target).words())
        asked = target.asked
    title = (attack.__doc__ or "").splitlines()[0].rstrip(".")
    return Row(title, patients, minimum, *found, asked)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown: an attack a line, a site a column."""
    sites = sorted({(row.patients, row.minimum) for row in rows})
    heads = [f"{patients} patients, minimum {minimum}" for patients, minimum in sites]
    lines = [f"| attack | {' | '.join(heads)} | requests |", "|---|" + "---|" * (len(heads) + 1)]
    for attack in dict.fromkeys(row.attack for row in rows):
        of = {(row.patients, row.minimum): row for row in rows if row.attack == attack}
        cells = [
            f"{of[s].before} → {of[s].forgetful} → {of[s].now}" if s in of else "" for s in sites
        ]
        most = max(row.requests for row in of.values())
        lines.append(f"| {attack} | {' | '.join(cells)} | {most} |")
    return "\n".join(lines) + "\n"


def block() -> str:
    """Return the table of docs/release.md, of the results that were written last."""
    return START + table([Row(*row) for row in read_json(RESULTS / "attacker.json")["rows"]]) + END


def main() -> None:
    """Run every attack on every site, and write what they got."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="name of one attack, of which nothing is written")
    only = parser.parse_args().only
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for attack in ATTACKS:
            if only and attack.__name__ != only:
                continue
            for patients, minimum in SITES:
                start = time.perf_counter()
                budget = BUDGET if (patients, minimum) == FULL else FEWER
                rows.append(run(attack, patients, minimum, Path(root), budget))
                print(attack.__name__, rows[-1], f"{time.perf_counter() - start:.1f} s", flush=True)
    if only:
        return
    write_result(
        "attacker",
        "What an attacker learns",
        [field.name for field in fields(Row)],
        [list(astuple(row)) for row in rows],
        packages=["numpy", "scipy"],
        page="release",
    )
    page = DOCS / "release.md"
    before, _, rest = page.read_text().partition(START)
    _, _, after = rest.partition(END)
    with atomic_path(page) as partial:
        partial.write_text(before + block() + after)


if __name__ == "__main__":
    main()
