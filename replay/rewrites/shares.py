"""The shares of a mixture that make what was seen likeliest.

A short recording leaves much open: pages that are rarely written look like pages that are never
written, a sweep that was seen once may come again at any time. Steps of expectation maximisation
stop far from the optimum there, and many optima are as likely as each other. So the optimum is
found by Newton's method, and a weak prior that no way to write is impossible (a logarithmic
barrier) takes the middle of those that are alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: What all cells together weigh a priori, beside the pages, which weigh 1.
_PRIOR = 1e-4
#: Plain steps before the first of Newton's, and at most so many of the latter.
_WARM_UP, _STEPS = 20, 200
#: The fit ends when a step promises less than this in a page's likelihood (natural logarithm).
_SETTLED = 1e-10
#: How far towards a share of 0 a step may go, and when a step is too short to go on.
_NEARLY, _SHORTEST = 0.99, 1e-8


def likeliest(rows: Floats, weight: Floats) -> Floats:
    """Return the shares, float64[cells], that sum to 1 and make the rows likeliest.

    rows: float64[rows, cells], likelihoods >= 0, each row with one > 0. weight: float64[rows], sums
    to 1.
    """
    cells = rows.shape[1]
    prior = _PRIOR / cells

    def cost(share: Floats) -> float:
        likely = rows @ share
        return float(share.sum() - weight @ np.log(likely) - prior * np.log(share).sum())

    share = np.full(cells, 1 / cells)
    for _ in range(_WARM_UP):
        share = share * ((weight / (rows @ share)) @ rows) + prior
    before = cost(share)
    for _ in range(_STEPS):
        likely = rows @ share
        slope = 1 - (weight / likely) @ rows - prior / share
        scaled = rows * (np.sqrt(weight) / likely)[:, None]
        bend = scaled.T @ scaled + np.diag(prior / share**2)
        turn = -np.linalg.solve(bend, slope)
        promised = float(slope @ turn)
        if -promised < _SETTLED:
            break
        down = turn < 0
        far = min(1.0, _NEARLY * float((share[down] / -turn[down]).min())) if down.any() else 1.0
        while far > _SHORTEST and cost(share + far * turn) > before + 1e-4 * far * promised:
            far /= 2
        share = share + far * turn
        before = cost(share)
    total: Floats = share / share.sum()
    return total
