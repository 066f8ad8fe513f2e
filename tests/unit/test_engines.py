"""The conformance suite: what every engine must do, whatever it is made of."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from engine_benches import BENCHES, BROKEN, CORONAL, UPRIGHT
from jipflow.annotate import stage as annotated
from jipflow.images.masks import read_segmentation
from jipflow.images.volume import read_grid, volume_path
from jipflow.outcomes import Status
from jipflow.reasons import Reason
from jipflow.segment import stage
from jipflow.settings.plugins import engine_names
from loaded_processes import loaded_once


def digests(folder):
    """Return the hash of each file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def run(bench, masks, cases=None, threads=1, prepared=None):
    """Run the stage and return the outcomes of the engine's own segmentation by case."""
    cases = bench.cases if cases is None else cases
    if prepared is None:
        prepared = {(case.case_id, role) for case in cases for role in case.roles}
    common = {
        "cases": cases,
        "prepared": prepared,
        "settings": bench.settings,
        "volumes": bench.volumes,
        "masks": masks,
        "threads": threads,
    }
    if bench.inbox is None:
        outcomes = stage.run(**common).outcomes
    else:
        automatic = masks.with_name("automatic")
        outcomes = annotated.run(
            **common, segmented=[], automatic=automatic, inbox=bench.inbox
        ).outcomes
    return {o.case_id: o for o in outcomes if o.item == bench.spec["id"]}


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_every_engine_has_a_bench():
    assert {name.split("-")[0] for name in BENCHES} == set(engine_names())


BY_NAME = [
    pytest.param(name, marks=pytest.mark.long) if name == "container" else name
    for name in sorted(BENCHES)
]


@pytest.fixture(scope="module", params=BY_NAME)
def done(request, tmp_path_factory):
    """A bench whose broken case is broken and comes first, its outcomes, masks and hashes."""
    folder = tmp_path_factory.mktemp(request.param)
    bench = BENCHES[request.param](folder)
    bench.broken()
    bench.cases.sort(key=lambda case: case.case_id != BROKEN)
    before = digests(bench.volumes)
    with loaded_once() if request.param == "totalsegmentator" else nullcontext():
        yield bench, run(bench, folder / "masks"), folder / "masks", before


@pytest.mark.parametrize("case", [UPRIGHT, CORONAL])
def test_masks_lie_on_the_grid_of_the_role_and_on_the_truth(done, case):
    bench, outcomes, masks, _ = done
    assert outcomes[case].status is Status.OK, outcomes[case].message
    found = read_segmentation(masks / case / bench.spec["id"])
    assert found.grid.matches(read_grid(volume_path(bench.volumes, case, bench.spec["role"])), 1e-6)
    wanted = bench.truth[case]
    for segment in found.segments:
        mask = found.mask(segment)
        if bench.dice == 1:
            np.testing.assert_array_equal(mask, wanted[segment.name])
        else:
            assert dice(mask, wanted[segment.name]) >= bench.dice, segment.name


def test_segments_are_named_coded_and_signed_in_the_order_of_the_protocol(done):
    bench, _, masks, _ = done
    found = read_segmentation(masks / UPRIGHT / bench.spec["id"])
    assert [(s.name, s.term) for s in found.segments] == [
        (s["name"], s["term"]) for s in bench.spec["segments"]
    ]
    for segment in found.segments:
        assert segment.producer
        assert segment.method in {"AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"}


def test_a_broken_case_fails_alone_and_leaves_nothing(done):
    bench, outcomes, masks, _ = done
    assert [case.case_id for case in bench.cases] == list(outcomes)
    # A person may send another file.
    assert outcomes[BROKEN].status is (Status.WAITING if bench.inbox else Status.FAILED)
    assert outcomes[BROKEN].reason in set(Reason) - {Reason.UNEXPECTED_ERROR}
    assert outcomes[BROKEN].message
    assert not (masks / BROKEN / bench.spec["id"]).exists()
    assert not list(masks.rglob(".*"))


def test_inputs_are_left_as_they_were(done):
    bench, _, _, before = done
    assert digests(bench.volumes) == before


def test_again_in_other_company_gives_the_same_bytes(done, tmp_path):
    bench, _, masks, _ = done
    for case in (UPRIGHT, CORONAL):
        alone = [c for c in bench.cases if c.case_id == case]
        again = run(bench, tmp_path / "alone", alone, threads=2)
        assert again[case].status is Status.OK
        expected = digests(masks / case / bench.spec["id"])
        assert digests(tmp_path / "alone" / case / bench.spec["id"]) == expected


def test_a_case_without_its_inputs_is_blocked(done, tmp_path):
    bench, _, _, _ = done
    role = bench.settings.segmentation(bench.spec["id"]).input_roles()[-1]
    prepared = {(c.case_id, r) for c in bench.cases for r in c.roles} - {(UPRIGHT, role)}
    cases = [c for c in bench.cases if c.case_id == UPRIGHT]
    (outcome,) = run(bench, tmp_path / "m", cases, prepared=prepared).values()
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.DEPENDS_ON_FAILED)
    assert role in outcome.message
    without = replace(cases[0], roles={k: v for k, v in cases[0].roles.items() if k != role})
    assert run(bench, tmp_path / "n", [without], prepared=prepared) == {}
