"""One-way analysis of variance of groups, from the moments of each.

Fisher's F (Fisher, Statistical Methods for Research Workers, 1925, chapter VII) compares k groups
of N_i values, N in all, whose means are m_i, and m together: with the sums of squares
SSB = Σ N_i (m_i - m)² between groups and SSW = Σ m2_i within them, F = SSB / (k - 1) over
SSW / (N - k), and η² = SSB / (SSB + SSW). Welch (1951, "On the comparison of several mean values:
an alternative approach", Biometrika 38:330-336) weighs the groups by N_i over their variances, so
that these may differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jipflow.analyses.moments import Moments, merge_moments

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ONE_GROUP = "fewer than two groups"
"""Why there is no test."""
NOT_FINITE = "a number of the test is not finite"
"""Why there is no test: no data of patients give it, but a site may send what it likes."""


def one_way(groups: Mapping[str, Moments]) -> dict[str, Any]:
    """Return the tests of equal means of groups.

    Args:
        groups: moments by group, of two values or more each.

    Returns:
        ``groups``, ``rows``, ``statistic`` (F), ``df`` and ``p``; ``between`` and ``within``, the
        sums of squares; ``eta_squared``; and in ``welch`` Welch's ``statistic``, ``df`` and ``p``.
        All but the first two are null where ``reason`` says why.
    """
    import numpy as np

    names = sorted(groups)
    about = {"groups": names, "rows": sum(group.rows for group in groups.values())}
    if len(groups) < 2:
        return about | without_test(ONE_GROUP)
    together = merge_moments(groups)
    rows = np.array([groups[name].rows for name in names], dtype=np.float64)
    m2 = np.array([groups[name].m2 for name in names])
    # Both parts of a difference of means keep all digits where the means are large.
    apart = np.array(
        [
            (groups[name].mean - together.mean) + (groups[name].mean_rest - together.mean_rest)
            for name in names
        ]
    )
    with np.errstate(all="ignore"):
        found = _fisher(rows, apart, m2) | {"welch": _welch(rows, apart, m2)}
    numbers = [*(value for value in found.values() if isinstance(value, float))]
    numbers += [found["welch"]["statistic"], found["welch"]["df"][1], found["welch"]["p"]]
    return about | (found if all(map(math.isfinite, numbers)) else without_test(NOT_FINITE))


def without_test(reason: str) -> dict[str, Any]:
    """Return what stands in place of the tests."""
    names = ("statistic", "df", "p", "between", "within", "eta_squared", "welch")
    return {**dict.fromkeys(names), "reason": reason}


def _fisher(
    rows: npt.NDArray[np.float64], apart: npt.NDArray[np.float64], m2: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Return Fisher's F of groups.

    Args:
        rows: values of each group, shape (groups,).
        apart: mean of each group less that of all values.
        m2: sum of squared deviations of each group from its mean.
    """
    from scipy.stats import f

    between, within = float((rows * apart * apart).sum()), float(m2.sum())
    df = [rows.size - 1, int(rows.sum()) - rows.size]
    statistic = df[1] / df[0] * (between / within if within else math.nan)
    return {
        "statistic": statistic,
        "df": df,
        "p": float(f.sf(statistic, *df)),
        "between": between,
        "within": within,
        "eta_squared": between / (between + within) if within else math.nan,
    }


def _welch(
    rows: npt.NDArray[np.float64], apart: npt.NDArray[np.float64], m2: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Return Welch's F of groups, with the arguments of `_fisher`.

    With the weights w_i = N_i / s_i², their sum W, the weighted mean m' and
    Λ = Σ (1 - w_i / W)² / (N_i - 1), it is Σ w_i (m_i - m')² / (k - 1) over
    1 + 2 (k - 2) Λ / (k² - 1), with k - 1 and (k² - 1) / (3 Λ) degrees of freedom.
    """
    import numpy as np
    from scipy.stats import f

    k = rows.size
    weights = rows * (rows - 1) / m2
    share = weights / weights.sum()
    # A group of nearly all the weight keeps the digits of what it lacks of all.
    others = np.array([np.delete(share, i).sum() for i in range(k)])
    spread = float((others**2 / (rows - 1)).sum())
    distances = apart - (share * apart).sum()
    between = float((weights * distances**2).sum()) / (k - 1)
    statistic = between / (1 + 2 * (k - 2) / (k**2 - 1) * spread)
    df = [float(k - 1), (k**2 - 1) / (3 * spread) if spread else math.nan]
    return {"statistic": statistic, "df": df, "p": float(f.sf(statistic, *df))}
