"""Another model is solved than the one that was given: axes, factors, masks, what is added to inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from deqverify.faults.registry import fault
from deqverify.faults.sound import Sound, SoundNewton
from deqverify.implementations.protocol import Pull, Solution


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


@fault(cause="existence", killers=("mass",))
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


@fault(cause="existence", killers=("shift",), subtlety="subtle")
class Padded(Altered):
    """The first row of an image is taken for padding: it is zero."""

    def altered(self, x: Any) -> Any:
        return np.concatenate([0 * x[:, :, :1], x[:, :, 1:]], axis=2)


@fault(cause="existence", killers=("node-order",), subtlety="subtle")
class RootedGraph(Altered):
    """The first node counts double."""

    def altered(self, x: Any) -> Any:
        return np.concatenate([2 * x[:, :1], x[:, 1:]], axis=1)


@fault(cause="existence", killers=("token-order",), subtlety="subtle")
class Positions(Altered):
    """Positions are added to the tokens."""

    def altered(self, x: Any) -> Any:
        return x + np.arange(x.shape[1], dtype=x.dtype)[:, None] / 8
