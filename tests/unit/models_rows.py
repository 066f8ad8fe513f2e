"""Models of an outcome as numbers alone, without files, and through all rounds of a federation."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from jipflow.analyses.cells import CellKey
from jipflow.analyses.contract import Proposed, kinds
from jipflow.analyses.design import Design
from jipflow.analyses.evaluated import Evaluated, Scattered, Start
from jipflow.analyses.generalised import Content
from jipflow.analyses.rules import Withheld
from jipflow.hub.merge import carried, merge
from jipflow.settings.protocol import Disclosure
from models_world import accepted, build_after, entry, past_of, stated

DEAD = {"variable": "clinical.dead"}
WOMAN = {"variable": "clinical.sex", "values": ["F", "M"], "reference": "M"}
VISITS = {"variable": "clinical.visits"}
OUTCOMES = {"logistic": DEAD, "poisson": VISITS}
TEN = Disclosure(min_patients=10)


def model(kind, *covariates, id="model", **more):
    given = {"outcome": OUTCOMES[kind], "covariates": list(covariates), "center": 60, "scale": 5}
    return entry(kind, id, **{**given, **more})


def through(made, settings, most=12):
    """Go through the rounds until the hub asks for no more; return all results and states."""
    results, states = [], [None]
    pasts = {one.name: [] for one in made}
    for round_ in range(1, most + 1):
        state = states[-1]

        def build(one, **of_round):
            return build_after(one, pasts[one.name], **of_round)

        releases = accepted(made, settings, round_, state, build)
        for one in made:
            pasts[one.name].append(past_of(one))
        merged = merge(accepted=releases, settings=settings, round_=round_, state=state)
        results.append(carried(merged, results[-1:], settings))
        states.append(stated(settings, releases, round_, state))
        if states[-1] is None:
            break
    return results, states[1:-1], pasts


@dataclass
class Rows:
    """Sites that are nothing but numbers: predictors, and the outcome last."""

    kind: str
    sites: list[np.ndarray]
    disclosure: Disclosure = TEN
    more: dict = field(default_factory=dict)

    @cached_property
    def analysis(self):
        covariates = [{"variable": f"clinical.x{i}"} for i in range(1, self.sites[0].shape[1] - 1)]
        given = model(self.kind, **{"covariates": covariates, "center": 0, "scale": 1, **self.more})
        settings = sys.modules[kinds()[self.kind].__module__].Settings
        return kinds()[self.kind](settings.model_validate(given))

    def content(self, number, point=None):
        rows = self.sites[number]
        keys = tuple(CellKey("CT", "organs", "liver", f"x{i}") for i in range(rows.shape[1]))
        ids = np.array([f"p{i:03d}" for i in range(len(rows))], dtype=object)
        of, ones = tuple(range(-1, len(keys) - 1)), np.ones(len(keys))
        return Content(Design(ids, ids, keys, of, rows, 0 * ones, ones), point)

    def proposed(self, number, start=None):
        """Return a site's cell before the gate."""
        content = self.content(number, start.point if start else None)
        columns = self.analysis._columns(content.rows)
        first = columns[0]
        return Proposed(self.analysis, first.key, first.values, content, columns)

    def sent(self, number, start=None, points=()):
        """Return a site's cell, or the code of the rule that withholds it."""
        content = self.content(number, start.point if start else None)
        found = self.analysis.beside(content, set(points), self.disclosure)
        if isinstance(found, Withheld):
            return found.rule.code
        key = content.rows.keys[0]._asdict()
        form = Evaluated if start else Scattered
        return form(**key, n=len(content.rows.raw), **found.numbers)

    def result(self, first=None):
        """Return the last result, and the coefficients of all rounds."""
        points, start, round_ = [], None, 1
        while True:
            cells = {str(i): self.sent(i, start, points) for i in range(len(self.sites))}
            released = {site: c for site, c in cells.items() if not isinstance(c, str)}
            if not released:
                return self.analysis.unanswered(start), points
            found = self.analysis.merge(released, start)
            points += [start.point] if start else []
            last = round_ == self.analysis.rounds
            start = None if last else self.analysis.advance(round_, released, start)
            if start is None:
                return found, points
            round_ += 1


def drawn(kind, sizes=(60, 75, 97), slopes=(0.8, -0.5), seed=4):
    """Return sites of usual rows."""
    rng = np.random.default_rng(seed)
    found = []
    for i, n in enumerate(sizes):
        x = np.round(rng.normal(0.2 * i, 1, (n, len(slopes))) * 2**20) / 2**20
        eta = -0.2 + x @ slopes
        if kind == "logistic":
            outcome = rng.random(n) < 1 / (1 + np.exp(-eta))
        else:
            outcome = rng.poisson(np.exp(0.8 + 0.5 * eta))
        found.append(np.column_stack([x, outcome.astype(float)]))
    return found


def start_of(rows, beta, steps=1, centers=None, scales=None):
    """Return what a hub states that chooses the coefficients."""
    size = rows.sites[0].shape[1] - 1
    key = rows.content(0).rows.keys[0]._asdict()
    return Start(
        **key,
        beta=beta,
        centers=[0.0] * size if centers is None else centers,
        scales=[1.0] * size if scales is None else scales,
        steps=[1.0] * steps,
        grows=False,
        n=200,
        events=90,
    )
