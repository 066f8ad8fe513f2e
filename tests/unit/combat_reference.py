"""ComBat on the pooled table, row by row in float64, written from the paper and not from jipflow.

Johnson, Li and Rabinovic (2007); steps and stop rule as in neuroCombat 0.2.12, which itself keeps
continuous covariates and data frames in float32.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def combat(table, batches, covariates=None, stop=1e-4):
    """Harmonise a table.

    Args:
        table: shape (rows, features); NaN where a row has no value.
        batches: of each row.
        covariates: shape (rows, covariates); a row with a NaN counts for no feature.
        stop: relative change at which posterior means count as found.

    Returns:
        ``table``, harmonised; ``gamma`` and ``delta``, shape (batches, features); ``alpha``,
        ``beta`` and ``variance`` of each feature.
    """
    covariates = np.zeros((len(table), 0)) if covariates is None else covariates
    names = sorted(set(batches))
    number = np.array([names.index(batch) for batch in batches])
    harmonised = np.full(table.shape, np.nan)
    standard, expected = np.full(table.shape, np.nan), np.full(table.shape, np.nan)
    alpha, beta, variance = [], [], []
    for g in range(table.shape[1]):
        there = np.isfinite(table[:, g]) & np.isfinite(covariates).all(axis=1)
        # Differences from a value of the column are exact where the mean is large.
        origin, origins = table[there, g][0], covariates[there][0]
        y, c = table[there, g] - origin, covariates[there] - origins
        indicators = np.eye(len(names))[number[there]]
        scale = np.where(c.std(axis=0) > 0, c.std(axis=0), 1)
        fit = np.linalg.lstsq(np.hstack([indicators, c / scale]), y, rcond=None)[0]
        constants, slopes = fit[: len(names)], fit[len(names) :] / scale
        grand = float((indicators.sum(axis=0) / len(y)) @ constants)
        residual = y - indicators @ constants - c @ slopes
        sigma2 = float(np.mean(residual**2))
        expected[there, g] = grand + c @ slopes
        standard[there, g] = (y - expected[there, g]) / np.sqrt(sigma2)
        alpha.append((origin, grand - origins @ slopes))
        beta.append(slopes)
        variance.append(sigma2)
    gamma, delta = np.full((2, len(names), table.shape[1]), np.nan)
    for i in range(len(names)):
        rows = standard[number == i]
        there = np.isfinite(rows).any(axis=0)
        gamma[i, there], delta[i, there] = _posterior(rows[:, there], stop)
    away = (standard - gamma[number]) / np.sqrt(delta[number])
    relative = away * np.sqrt(variance) + expected
    origins = np.array([origin for origin, _ in alpha])
    harmonised = relative + origins
    return SimpleNamespace(
        **{"table": harmonised, "relative": relative, "origins": origins},
        **{"gamma": gamma, "delta": delta, "beta": np.array(beta), "variance": variance},
        alpha=np.array([origin + rest for origin, rest in alpha]),
    )


def _posterior(rows, stop):
    """Return gamma and delta of one batch, by the rows' distances and not by their sums."""
    n = np.isfinite(rows).sum(axis=0)
    hat, spread = np.nanmean(rows, axis=0), np.nanvar(rows, axis=0, ddof=1)
    prior, tau2 = hat.mean(), hat.var(ddof=1)
    m, s2 = spread.mean(), spread.var(ddof=1)
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    gamma, delta = hat, spread
    while True:
        new = (tau2 * n * hat + delta * prior) / (tau2 * n + delta)
        squares = np.nansum((rows - new) ** 2, axis=0)
        wider = (0.5 * squares + b) / (n / 2 + a - 1)
        change = max((abs(new - gamma) / gamma).max(), (abs(wider - delta) / delta).max())
        gamma, delta = new, wider
        if not change > stop:
            return gamma, delta
