"""Another model is solved than the one that was given: axes, factors, masks, what is added to inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton
from deqverify.implementations.protocol import Pull, Solution
from deqverify.reference.quantised import step_of
from deqverify.reference.torch_quantised import StraightThrough


@fault(
    cause="existence",
    said="takes the softmax along rows",
    killers=("mass", "gauge", "column-sums"),
    origin="PetrochukM/PyTorch-NLP#2",
)
class RowSoftmax(Sound):
    """The softmax is taken along rows."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * torch.softmax(theta["A"], dim=1)


@fault(cause="existence", said="applies γ twice", killers=("existence", "enclosure"))
class GammaTwice(Sound):
    """γ is applied twice."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * cell.matrix(theta)


@fault(cause="existence", said="the wrong sign", killers=("positivity",))
class WrongSign(Sound):
    """The recurrent part enters with the wrong sign."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return -cell.matrix(theta)


@fault(cause="existence", said="masks the weights above the diagonal", killers=("permutation",))
class Masked(Sound):
    """A causal mask is left on the weights."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta).tril()


@fault(cause="existence", killers=("column-shift",), subtlety="rare")
class ClippedLogits(Sound):
    """Logits beyond ±16 are clipped, which no column needs whose largest is subtracted."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * cell.softmax(theta["A"].clamp(-16.0, 16.0))


@fault(cause="existence", killers=("mass", "perturbation"))
class Unnormalised(Sound):
    """The weights are exponentials without their sum, kept below one another way."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return theta["gamma"] * torch.sigmoid(theta["A"]) / len(theta["A"])


class Altered(SoundNewton):
    """Solves for other inputs than those given."""

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        return super().vjp(cell, theta, self.altered(x), z0)

    def altered(self, x: Any) -> Any:
        raise NotImplementedError


@fault(cause="existence", killers=("shift",), subtlety="subtle", cells=("conv",))
class Padded(Altered):
    """The first row of an image is taken for padding: it is zero."""

    def altered(self, x: Any) -> Any:
        return np.concatenate([0 * x[:, :, :1], x[:, :, 1:]], axis=2)


@fault(cause="existence", killers=("node-order",), subtlety="subtle", cells=("graph",))
class RootedGraph(Altered):
    """The first node counts double."""

    def altered(self, x: Any) -> Any:
        return np.concatenate([2 * x[:, :1], x[:, 1:]], axis=1)


@fault(cause="existence", killers=("token-order",), subtlety="subtle", cells=("attention",))
class Positions(Altered):
    """Positions are added to the tokens."""

    def altered(self, x: Any) -> Any:
        return x + np.arange(x.shape[1], dtype=x.dtype)[:, None] / 8


@fault(cause="existence", killers=("column-shift",), subtlety="rare")
class NoMaximumShift(Sound):
    """The softmax exponentiates before anything is subtracted: large logits overflow."""

    def weights(self, cell: Any, theta: Any) -> Any:
        grown = torch.exp(theta["A"])
        return theta["gamma"] * grown / grown.sum(dim=0)


@fault(cause="existence", killers=("existence",), subtlety="small")
class GammaInFloat32(Sound):
    """γ is kept in float32."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta | {"gamma": theta["gamma"].to(torch.float32).to(theta["A"].dtype)})


@fault(cause="existence", killers=("existence",), subtlety="small")
class EpsilonInTheSum(Sound):
    """1e-8 is added to the sum that the softmax divides by."""

    def weights(self, cell: Any, theta: Any) -> Any:
        A = theta["A"]
        grown = torch.exp(A - A.detach().amax(dim=0))
        return theta["gamma"] * grown / (grown.sum(dim=0) + 1e-8)


@fault(cause="existence", killers=("mass",), subtlety="small")
class WeightsInBfloat16(Sound):
    """The softmax is rounded to bfloat16 before it is used; its gradient is not."""

    def weights(self, cell: Any, theta: Any) -> Any:
        S = cell.softmax(theta["A"])
        return theta["gamma"] * (S + (S.to(torch.bfloat16).to(S.dtype) - S).detach())


@fault(cause="existence", killers=("enclosure",))
class Temperature(Sound):
    """Logits are divided by the root of their number, as attention does."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta | {"A": theta["A"] / len(theta["A"]) ** 0.5})


@fault(cause="existence", said="transposes the weights", killers=("mass",))
class TransposedWeights(Sound):
    """The weights act as their transpose."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta).mT


@fault(cause="existence", killers=("existence",))
class NoSoftmax(Sound):
    """A itself, its columns scaled, stands in place of its softmax."""

    def weights(self, cell: Any, theta: Any) -> Any:
        A = theta["A"]
        size = A.abs().sum(dim=0)
        return theta["gamma"] * A / torch.where(size > 0, size, torch.ones_like(size))


@fault(cause="existence", killers=("existence",))
class NoSelfLoops(Sound):
    """The diagonal of the weights is left out."""

    def weights(self, cell: Any, theta: Any) -> Any:
        K = cell.matrix(theta)
        return K - torch.diag(torch.diagonal(K))


@fault(cause="existence", killers=("existence",), subtlety="rare")
class GammaClamped(Sound):
    """γ is clamped to at most 0.97."""

    def weights(self, cell: Any, theta: Any) -> Any:
        return cell.matrix(theta | {"gamma": theta["gamma"].clamp(max=0.97)})


@fault(cause="batch", killers=("existence",), subtlety="rare")
class SquareIsTransposed(Altered):
    """A batch of as many data points as states is taken for one with states first."""

    def altered(self, x: Any) -> Any:
        return np.swapaxes(x, 0, 1) if x.ndim == 2 and x.shape[0] == x.shape[1] else x


@fault(cause="straight-through", killers=("straight-through",), subtlety="subtle")
class CutOffWeights(StraightThrough):
    """Weights of eight bits are cut off towards zero, not rounded to the nearest."""

    def __init__(self) -> None:
        super().__init__(8)

    def through(self, A: Any) -> Any:
        step = step_of(A.detach(), self.bits)
        return A + (torch.trunc(A / step) * step - A).detach()
