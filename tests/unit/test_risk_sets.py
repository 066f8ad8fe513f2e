"""Score and information of Cox's partial likelihood: the numbers, and what they tell of few."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from statsmodels.duration.hazard_regression import PHReg

from jipflow.analyses.risk_sets import (
    WIDEST,
    Stratum,
    differ_in_few,
    few_events,
    few_orders,
    rest_on_few,
    sums,
)
from jipflow.settings.protocol import Disclosure

FIVE = Disclosure(min_patients=5)


def patients(seed, rows=40, columns=2, ties=True, effect=0.7):
    """Return times, events and covariates of patients."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, columns))
    times = random.exponential(np.exp(-effect * x[:, 0]))
    ends = random.exponential(1.5, rows)
    events = times <= ends
    times = np.minimum(times, ends)
    return np.ceil(times * 8) if ties else times, events, x


def by_definition(times, events, x, beta):
    """Return score and information as Efron has them, patient by patient."""
    score, information = np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2)
    for time in np.unique(times[events]):
        dying = np.flatnonzero((times == time) & events)
        for number in range(dying.size):
            weights = np.where(times >= time, np.exp(x @ beta), 0.0)
            weights[dying] *= 1 - number / dying.size
            weights /= weights.sum()
            mean = weights @ x
            score += x[dying[number]] - mean
            information += (x - mean).T @ ((x - mean) * weights[:, None])
    return score, information


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [True, False])
def test_score_and_information_are_those_of_the_definition(seed, ties):
    times, events, x = patients(seed, columns=1 + seed % 3, ties=ties)
    beta = np.random.default_rng(seed).normal(0, 0.7, x.shape[1])
    found = sums(Stratum.of(times, events, x), beta)
    score, information = by_definition(times, events, x, beta)
    np.testing.assert_allclose(found.score, score, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found.information, information, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_statsmodels(seed):
    times, events, x = patients(seed)
    beta = np.array([0.4, -0.2])
    peer = PHReg(times, x, status=events * 1, ties="efron")
    found = sums(Stratum.of(times, events, x), beta)
    np.testing.assert_allclose(found.score, peer.score(beta), rtol=1e-11)
    np.testing.assert_allclose(found.information, -peer.hessian(beta), rtol=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_patients_add_is_all(seed):
    times, events, x = patients(seed, columns=3)
    stratum = Stratum.of(times, events, x)
    found = sums(stratum, np.array([0.5, -0.3, 0.1]))
    residuals = stratum.events - found.expected
    assert found.expected.sum() == pytest.approx(events.sum(), rel=1e-12)
    np.testing.assert_allclose(residuals @ stratum.columns, found.score, atol=1e-11)
    np.testing.assert_allclose(found.parts.sum(axis=0), found.information, rtol=1e-11, atol=1e-11)
    assert np.linalg.eigvalsh(found.parts).min() > -1e-12


def test_units_and_origins_do_not_matter():
    times, events, x = patients(1, rows=60)
    near = sums(Stratum.of(times, events, x), np.array([0.4, -0.2]))
    shifted = x + np.array([1e8, -3e8])
    far = sums(Stratum.of(times, events, shifted), np.array([0.4, -0.2]))
    same = sums(Stratum.of(times, events, shifted - np.array([1e8, -3e8])), np.array([0.4, -0.2]))
    np.testing.assert_allclose(far.score, same.score, rtol=1e-11)
    np.testing.assert_allclose(far.information, same.information, rtol=1e-11)
    np.testing.assert_allclose(far.information, near.information, rtol=1e-6)
    scaled = sums(Stratum.of(times, events, x * 2.0**40), np.array([0.4, -0.2]) / 2.0**40)
    np.testing.assert_allclose(scaled.score / 2.0**40, near.score, rtol=1e-12)


def test_coefficients_that_are_too_large_have_no_numbers():
    times, events, x = patients(1, columns=1)
    stratum = Stratum.of(times, events, x)
    widest = WIDEST / np.ptp(x)
    assert sums(stratum, np.array([widest * 0.99])) is not None
    for beta in (widest * 1.01, -widest * 1.01, 1e100, -1e308, math.inf, math.nan):
        assert sums(stratum, np.array([beta])) is None


def most_rest_on_few(beta, seed=3, rows=60):
    times, events, x = patients(seed, rows, columns=1, ties=False)
    stratum = Stratum.of(times, events, x)
    return rest_on_few(stratum, sums(stratum, np.array([beta])), FIVE)


@pytest.mark.parametrize("seed", range(10))
def test_usual_numbers_may_leave(seed):
    times, events, x = patients(seed, rows=40)
    stratum = Stratum.of(times, events, x)
    at = [sums(stratum, np.array(beta)) for beta in ([0, 0], [0.6, 0.1], [0.7, 0.0])]
    assert not any(rest_on_few(stratum, found, FIVE) for found in at)
    for number, found in enumerate(at):
        assert not differ_in_few(stratum, found, at[:number], FIVE)


def test_a_large_coefficient_lets_the_extremes_be_read_off():
    """Without the rule the range of the values follows from two scores."""
    random = np.random.default_rng(3)
    x = random.normal(size=(60, 1))
    times, events = random.exponential(size=60), np.arange(60) % 2 == 0
    # Both extremes are there until the end.
    times[[x.argmin(), x.argmax()]] = times.max() + 1
    events[[x.argmin(), x.argmax()]] = False
    stratum = Stratum.of(times, events, x)
    up, down = (sums(stratum, np.array([b * WIDEST * 0.99 / np.ptp(x)])) for b in (1, -1))
    assert (down.score - up.score) / events.sum() == pytest.approx(np.ptp(x), rel=0.01)
    assert rest_on_few(stratum, up, FIVE)
    assert rest_on_few(stratum, down, FIVE)
    assert not rest_on_few(stratum, sums(stratum, np.zeros(1)), FIVE)


def test_a_value_that_is_far_from_all_others_rests_on_one():
    times, events, x = patients(2, rows=60, columns=1, ties=False)
    x[7] = 40.0
    stratum = Stratum.of(times, events, x)
    assert rest_on_few(stratum, sums(stratum, np.zeros(1)), FIVE)


def test_a_combination_that_one_patient_makes():
    times, events, x = patients(2, rows=60, ties=False)
    x[:, 1] = x[:, 0] + 1e-3 * x[:, 1]
    stratum = Stratum.of(times, events, x)
    assert not rest_on_few(stratum, sums(stratum, np.zeros(2)), FIVE)
    x[:, 1] = x[:, 0]
    x[times.argsort()[30], 1] += 1
    stratum = Stratum.of(times, events, x)
    assert rest_on_few(stratum, sums(stratum, np.zeros(2)), FIVE)


def test_two_coefficients_between_which_one_patient_differs():
    """Of a covariate that is nearly 0 for all but one, a coefficient weighs that one alone."""
    times, events, x = patients(2, rows=60, ties=False)
    x[:, 1] = 1e-4 * x[:, 1]
    x[times.argmax(), 1] = 3.0
    stratum = Stratum.of(times, events, x)
    at = [sums(stratum, np.array([0.2, beta])) for beta in (0.0, 0.5)]
    assert differ_in_few(stratum, at[1], at[:1], FIVE)
    assert not differ_in_few(stratum, at[0], at[:1], FIVE)


def test_coefficients_of_which_a_combination_is_that_of_two_patients():
    """Each two of them differ in many."""
    times, events, x = patients(4, rows=20, columns=1, ties=False)
    stratum = Stratum.of(times, events, x)
    at = [sums(stratum, np.array([beta])) for beta in (0.0, -0.5, 0.5, 1.0, -1.0, 1.5)]
    for one, other in itertools.combinations(at, 2):
        assert not differ_in_few(stratum, one, [other], FIVE)
    assert differ_in_few(stratum, at[-1], at[:-1], FIVE)


@pytest.mark.parametrize(
    ("events", "women", "found"),
    [
        ((5, 5), (10, 10), False),
        ((5, 4), (10, 10), True),
        ((0, 0), (10, 10), True),
        ((5, 0), (10, 10), False),
        ((10, 5), (10, 10), False),
        ((10, 10), (10, 10), False),
        ((10, 9), (10, 10), True),
        ((6, 5), (10, 10), True),
    ],
)
def test_events_and_censored_are_nobody_or_the_minimum(events, women, found):
    """Each of two classes has so many patients, of whom so many have the event."""
    column = np.repeat([1.0, 0.0], women)
    dead = np.concatenate([np.arange(n) < d for n, d in zip(women, events, strict=True)])
    assert few_events(dead, column[:, None], 5) is found


def test_without_classes_all_count():
    column = np.random.default_rng(1).normal(size=(20, 1))
    assert few_events(np.arange(20) < 4, column, 5)
    assert few_events(np.arange(20) >= 4, column, 5)
    assert not few_events(np.arange(20) < 5, column, 5)
    assert not few_events(np.ones(20, bool), column, 5)


def orders_that_fit(rows, women, deaths, score, information):
    """Return each order of class and event in time that has these numbers at 0."""
    found = []
    for chosen in itertools.combinations(range(rows), women):
        x = np.zeros((rows, 1))
        x[list(chosen)] = 1
        for dead in itertools.combinations(range(rows), deaths):
            events = np.zeros(rows, bool)
            events[list(dead)] = True
            at = sums(Stratum.of(np.arange(rows) * 1.0, events, x), np.zeros(1))
            if abs(at.score[0] - score) + abs(at.information[0, 0] - information) < 1e-12:
                found.append((chosen, dead))
    return found


def test_the_order_of_a_class_can_be_tried_out_where_few_are_there():
    """Who lived longest, and of which class, follows from two numbers."""
    x = np.array([0, 1, 1, 0, 1, 0, 0, 1.0])[:, None]
    events = np.array([1, 1, 0, 1, 0, 1, 1, 0], bool)
    at = sums(Stratum.of(np.arange(8.0), events, x), np.zeros(1))
    found = orders_that_fit(8, 4, 5, at.score[0], at.information[0, 0])
    assert found == [((1, 2, 4, 7), (0, 1, 3, 5, 6))]
    assert few_orders(events, x)


def test_orders_are_many_where_values_or_patients_are():
    half = np.arange(60) % 2 == 0
    women = (np.arange(60) // 2 % 2)[:, None] * 1.0
    assert not few_orders(half, women)
    assert few_orders(half[:32], women[:32])
    random = np.random.default_rng(4)
    assert not few_orders(half[:20], random.normal(size=(20, 1)))
    assert not few_orders(half[:20], random.integers(40, 80, (20, 1)) * 1.0)
    assert few_orders(half[:20], np.hstack([random.normal(size=(20, 1)), women[:20]]))
