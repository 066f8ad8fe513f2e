"""Lines over time: shares that fall at edges as steps, with pale bands and a legend."""

from __future__ import annotations

import re

import pytest

from jipflow.curves import Steps, step_plot


def drawn(*curves, end=100.0):
    return str(step_plot("Survival", curves, end))


def test_a_curve_begins_with_all_and_falls_at_its_edges():
    svg = drawn(Steps("women", "#0072b2", [50.0, 100.0], [0.5, 0.0], []))
    (path,) = re.findall(r'<path d="(M[^"]+)" fill="none" stroke="#0072b2" stroke-width="1.8"', svg)
    numbers = [float(each) for each in re.findall(r"[\d.]+", path)]
    left, top, middle, half, right, bottom = numbers
    assert path == f"M{left:.0f} {top:.1f}H{middle:.1f}V{half:.1f}H{right:.1f}V{bottom:.1f}"
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert half == pytest.approx((top + bottom) / 2, abs=0.1)
    assert top < bottom
    assert "<rect" not in svg


def test_a_band_stands_from_its_edge_to_the_next():
    bands = [(None, None), (0.25, 0.75), (0.1, 0.5)]
    svg = drawn(Steps("a", "#0072b2", [20.0, 50.0, 100.0], [1.0, 0.5, 0.3], bands))
    (box,) = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    _, _, width, height = map(float, box)
    assert (width, height) == (pytest.approx((480 - 14 - 46) / 2, abs=0.1), pytest.approx(82))


@pytest.mark.parametrize(("letters", "rows"), [(10, 1), (20, 2), (40, 4)])
def test_long_names_have_rows_of_their_own(letters, rows):
    svg = drawn(*(Steps(f"{i}" * letters, "#0072b2", [], [], []) for i in range(4)))
    assert len(set(re.findall(r'<text class="label" x="[\d.]+" y="(\d+)"', svg))) == rows


def test_names_are_escaped_and_stand_in_rows():
    svg = drawn(*(Steps(f"<{i}>", "var(--ink)", [], [], []) for i in range(5)))
    places = re.findall(r'<text class="label" x="([\d.]+)" y="(\d+)"[^>]*>&lt;(\d)&gt;', svg)
    assert [(y, name) for _, y, name in places] == [
        *(("9", str(i)) for i in range(4)),
        ("25", "4"),
    ]
    assert places[0][0] == places[4][0]
