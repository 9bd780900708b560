"""Accelerated solvers: histories, mixing, what is kept of them, and when they stop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from deqverify.faults.registry import fault
from deqverify.faults.sound import SoundPicard
from deqverify.implementations.protocol import Status


class SoundAnderson(SoundPicard):
    """Anderson's acceleration of type II (Walker & Ni 2011), every data point by itself, in the steps that may be done
    wrongly: the accelerated control.

    The combination of the last residuals that is smallest is that of the next state. A step that makes the residual of
    a data point larger is replaced by Picard's, so that it converges where Picard's iteration does.
    """

    name = "sound Anderson"
    claims = replace(SoundPicard.claims, solves=False)
    most = 500
    window = 4

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        image = f(z)
        states, images = [z], [image]
        for _ in range(self.most):
            if self.converged(image - z, image):
                return self.answer(states, images), Status.CONVERGED
            ahead = self.mixed(torch.stack(states[-self.window :]), torch.stack(images[-self.window :]))
            found = f(ahead)
            z, image = self.safeguarded(f, z, image, ahead, found)
            states, images = self.remembered(states, images, z, image)
        return self.answer(states, images), Status.CAPPED

    def converged(self, residual: Any, image: Any) -> bool:
        return not self.far(residual, image)

    def answer(self, states: Any, images: Any) -> Any:
        """What is returned: the newest image, whose residual is smaller still."""
        return images[-1]

    def mixed(self, states: Any, images: Any) -> Any:
        """``Σ aⱼ f(zⱼ)``, Σ aⱼ = 1, of the newest states (k, n, m), for each data point."""
        residuals = (images - states).permute(1, 0, 2)
        weights = self.weights_of(residuals @ residuals.mT)
        return torch.einsum("nk,knm->nm", weights, images)

    def weights_of(self, gram: Any) -> Any:
        """(n, k), which add up to one and make the combination of the residuals small; ``gram`` holds their inner
        products, (n, k, k)."""
        size = torch.diagonal(gram, dim1=1, dim2=2).mean(dim=1)
        size = torch.where(size > 0, size, torch.ones_like(size))
        eye = torch.eye(gram.shape[1], dtype=gram.dtype)
        found = torch.linalg.solve(gram / size[:, None, None] + self.ridge * eye, torch.ones_like(gram[..., 0]))
        return found / found.sum(dim=1, keepdim=True)

    ridge = 1e-8

    def safeguarded(self, f: Any, z: Any, image: Any, ahead: Any, found: Any) -> tuple[Any, Any]:
        worse = ~((found - ahead).norm(dim=1) <= (image - z).norm(dim=1))
        ahead = torch.where(worse[:, None], image, ahead)
        return ahead, f(ahead) if bool(worse.any()) else found

    def remembered(self, states: Any, images: Any, z: Any, image: Any) -> tuple[Any, Any]:
        return [*states[1 - self.window :], z], [*images[1 - self.window :], image]

    def backward_iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        return SoundPicard.iterate(self, f, z)


@fault(cause="existence", said="stops early", killers=("existence",), origin="locuslab/torchdeq#7")
class FirstOfTheHistory(SoundAnderson):
    """The oldest state of the window is returned in place of the newest."""

    def answer(self, states: Any, images: Any) -> Any:
        return states[0]


@fault(cause="existence", killers=("existence",), origin="deepinv/deepinv#1023")
class WeightsOfStates(SoundAnderson):
    """The best combination of residuals is applied once to the states and returned without looking at it again."""

    most = 3

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        found, status = super().iterate(f, z)
        return found, Status.CONVERGED if bool(torch.isfinite(found).all()) else status


@fault(cause="answers", killers=("answers",), subtlety="subtle", origin="locuslab/deq#20")
class SingularSystem(SoundAnderson):
    """The equations of the mixing weights are solved without a ridge: they are singular where residuals repeat."""

    def weights_of(self, gram: Any) -> Any:
        found = torch.linalg.solve(gram, torch.ones_like(gram[..., 0]))
        return found / found.sum(dim=1, keepdim=True)


@fault(
    cause="existence",
    said="stops early",
    killers=("existence",),
    subtlety="subtle",
    origin="SciML/NonlinearSolve.jl#1149",
)
class StallIsSuccess(SoundAnderson):
    """A residual that falls by less than a twentieth in one step has stalled, which is called converged."""

    claims = replace(SoundAnderson.claims, threads=False)  # it keeps the residual before
    before: Any = None

    def iterate(self, f: Any, z: Any) -> tuple[Any, Status]:
        self.before = None
        return super().iterate(f, z)

    def converged(self, residual: Any, image: Any) -> bool:
        size = residual.norm(dim=1)
        stalled = self.before is not None and bool((size > 0.95 * self.before).all())
        self.before = size
        return stalled or super().converged(residual, image)


@fault(cause="batch", killers=("existence",), subtlety="subtle", origin="locuslab/deq#21")
class OneMixingForAll(SoundAnderson):
    """The mixing weights are those of the whole batch, and so is the stopping rule."""

    def weights_of(self, gram: Any) -> Any:
        return super().weights_of(gram.sum(dim=0, keepdim=True)).expand(len(gram), -1)

    def far(self, step: Any, size: Any) -> bool:
        return not bool(step.norm() <= 9e-6 * size.norm())
