"""The objective of a problem of any cell, in ball arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flint import arb, ctx

from deqverify.dtypes import Array
from deqverify.losses import Loss
from deqverify.oracle.balls import Balls, balls
from deqverify.oracle.losses import loss_value

_STEP_BITS = 84
_MOST_BITS = 1 << 12


@dataclass(frozen=True)
class Objective:
    """``L = Σ_i ℓ(F_:i, Y_:i)`` with outputs ``F_:i = B vec(z_i)``: B (p, s), s the size of one state, Y (p, n)."""

    B: Array
    Y: Array
    loss: Loss

    def outputs(self, z: Balls, B: Balls | None = None) -> Balls:
        """F, (p, n), of states (n, *state)."""
        readout = balls(self.B) if B is None else B
        return np.asarray(readout @ z.reshape(len(z), readout.shape[1]).T, dtype=object)

    def value(self, F: Balls) -> arb:
        return loss_value(self.loss, F.tolist(), self.Y)

    def gradient(self, F: Balls) -> Balls:
        """``∂L/∂F``, (p, n), at the midpoints of F: central differences of the loss in one output at a time.

        A step of 2⁻⁸⁴ of the output, or of 1, truncates near 2⁻¹⁶⁸ of what the loss bends; bits are doubled until
        rounding is below 2⁻¹⁰⁰ of the difference, or far below any number that is not 0.
        """
        found = np.empty(F.shape, dtype=object)
        for (j, i), ball in np.ndenumerate(F):
            column, targets = [[entry.mid()] for entry in F[:, i]], self.Y[:, i : i + 1]
            exponent, bits = max(0, _exponent(ball)) - _STEP_BITS, 256
            while True:
                with ctx.workprec(bits):
                    h = arb(2) ** exponent
                    ends = []
                    for moved in (ball.mid() + h, ball.mid() - h):
                        column[j] = [moved]
                        ends.append(loss_value(self.loss, column, targets))
                    slope = found[j, i] = (ends[0] - ends[1]) / (2 * h)
                bits *= 2
                if bits > _MOST_BITS or float(slope.rad()) <= 2.0**-100 * float(slope.abs_lower()):
                    break
        return found


def _exponent(ball: arb) -> int:
    """k with |ball| below 2^k, about."""
    mantissa, exponent = ball.mid().man_exp() if ball.mid() != 0 else (0, 0)
    return int(exponent) + abs(int(mantissa)).bit_length()
