"""The shares of a mixture that make what was seen likeliest, to the optimum.

Steps of expectation maximisation alone stop far from it where rarely written pages are hard to tell
from pages that are never written. The problem is convex, so each step here goes to the optimum of
its quadratic model under shares of at least 0 (mix-SQP: Kim, Carbonetto, Stephens and Anitescu,
J. Comput. Graph. Stat. 2020), found by active sets (Lawson and Hanson 1974).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Plain steps before the first quadratic one, and at most so many of the latter.
_WARM_UP, _STEPS = 20, 200
#: The fit ends when it can gain no more than this in a page's likelihood (natural logarithm).
_SETTLED = 1e-8
#: A share shrinks to no less than this part of itself in one step: a row may need it yet.
_SHRINK = 1e-2
#: What makes the quadratic model definite, and how far a step is cut before it is given up.
_RIDGE, _SHORTEST = 1e-9, 1e-4


def likeliest(rows: Floats, weight: Floats) -> Floats:
    """Return the shares, float64[cells], that sum to 1 and make the rows likeliest.

    rows: float64[rows, cells], likelihoods >= 0, each row with one > 0. weight: float64[rows], sums
    to 1.
    """
    share = np.full(rows.shape[1], 1 / rows.shape[1])
    for _ in range(_WARM_UP):
        share = share * _gain(rows, weight, share)
    for _ in range(_STEPS):
        gain = _gain(rows, weight, share)
        if gain.max() - 1 < _SETTLED:
            break
        scaled = rows * (np.sqrt(weight) / (rows @ share))[:, None]
        bend = scaled.T @ scaled
        bend[np.diag_indices_from(bend)] += _RIDGE * np.trace(bend) / len(bend)
        best = _nonnegative(bend, bend @ share + gain - 1)
        turn = np.maximum(best, _SHRINK * share) - share
        share = _searched(rows, weight, share, turn, float((1 - gain) @ turn))
    total: Floats = share / share.sum()
    return total


def _gain(rows: Floats, weight: Floats, share: Floats) -> Floats:
    """Return by how much a plain step (expectation maximisation) multiplies each share."""
    gain: Floats = (weight / (rows @ share)) @ rows
    return gain


def _searched(rows: Floats, weight: Floats, share: Floats, turn: Floats, slope: float) -> Floats:
    """Go along `turn` as far as that makes the rows likelier, or make a plain step."""

    def cost(share: Floats) -> float:
        return float(share.sum() - weight @ np.log(rows @ share))

    before, far = cost(share), 1.0
    while slope < 0 and far > _SHORTEST:
        ahead = share + far * turn
        if cost(ahead) <= before + 1e-4 * far * slope:
            return ahead
        far /= 2
    return share * _gain(rows, weight, share)


def _nonnegative(bend: Floats, pull: Floats) -> Floats:
    """Return the y >= 0 that minimises y'By / 2 - p'y; bend: definite."""
    found, free = np.zeros(len(pull)), np.zeros(len(pull), np.bool_)
    for _ in range(3 * len(pull)):
        left = np.where(free, -np.inf, pull - bend @ found)
        best = int(np.argmax(left))
        if left[best] <= _SETTLED / 10:
            break
        free[best] = True
        while free.any():
            at = np.flatnonzero(free)
            wanted = np.linalg.solve(bend[np.ix_(at, at)], pull[at])
            low = wanted <= 0
            if not low.any():
                found[at] = wanted
                break
            here = found[at]
            far = (here[low] / (here[low] - wanted[low])).min()
            found[at] = here + far * (wanted - here)
            # The one that stopped the step leaves, whatever rounding made of it.
            free[at[low & (found[at] <= 1e-15)]] = False
            found[~free] = 0
    return found
