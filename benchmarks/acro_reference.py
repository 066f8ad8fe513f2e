"""What acro finds for cells of values: the reference for the gate's minimum and dominance rules.

acro (https://github.com/AI-SDC/ACRO) checks tables of the safe havens of the United Kingdom. It
needs a pandas before 2.4, and jipflow one after 3: so it runs in an environment of its own, and
what it finds is kept in tests/unit/acro.json, which a test compares with the gate::

    python -m venv .venv-peers/acro
    .venv-peers/acro/bin/pip install acro==1.0.2 hypothesis
    .venv-peers/acro/bin/python benchmarks/acro_reference.py

This file must not import jipflow.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from acro import ACRO
from acro.version import __version__
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "unit" / "acro.json"

EXAMPLES = 400

CHECKS = {"MinimumThresholdCheck": "few", "NKCheck": "nk", "PPercentCheck": "p_percent"}

amounts = st.one_of(
    st.floats(0.001, 1000.0), st.sampled_from([1.0, 2.0, 9.0, 18.0, 90.0]), st.just(0.0)
)

near = st.floats(500.0, 500.5)


@st.composite
def cells(draw: st.DrawFn) -> list[float]:
    """Return the values of a cell, of which one or two may be far above all others."""
    count = draw(st.integers(1, 25))
    of = draw(st.sampled_from([amounts, amounts, near]))
    values = draw(st.lists(of, min_size=count, max_size=count))
    for i in range(min(draw(st.integers(0, 2)), len(values))):
        values[i] *= draw(st.sampled_from([1.1, 10.0, 100.0, 10000.0]))
    return [float(f"{value:.6g}") for value in values]


def examples() -> list[list[float]]:
    """Return the cells, each once; the same in each run."""
    found: list[list[float]] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cells())
    def collect(values: list[float]) -> None:
        if values not in found:
            found.append(values)

    collect()
    return found


def checked(table: list[list[float]]) -> list[list[str]]:
    """Return which checks of acro each cell fails."""
    rows = [(f"{i:04d}", value) for i, values in enumerate(table) for value in values]
    frame = pd.DataFrame(rows, columns=["cell", "value"]).assign(all="all")
    session = ACRO(suppress=False)
    session.crosstab(frame["cell"], frame["all"], values=frame["value"], aggfunc="mean")
    outcome = session.results.get_index(0).outcome["all"]
    return [
        [name for check, name in CHECKS.items() if check in outcome[f"{i:04d}"]]
        for i in range(len(table))
    ]


def main() -> None:
    """Write the reference."""
    table = examples()
    os.chdir(tempfile.mkdtemp())
    config = ACRO(suppress=False).config
    content = {
        "acro": __version__,
        "pandas": pd.__version__,
        "numpy": np.__version__,
        "settings": {name: config[name] for name in config if name.startswith("safe_")},
        "cells": [
            {"values": values, "fails": fails}
            for values, fails in zip(table, checked(table), strict=True)
        ],
    }
    lines = json.dumps(content).replace('{"values"', '\n{"values"')
    REFERENCE.write_text(lines + "\n")


if __name__ == "__main__":
    main()
