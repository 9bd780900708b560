"""Other methods for one data point at a time, each answer measured by the claim's own rule, in NumPy.

Whatever a method does, its claim holds by construction, as in :mod:`deqverify.correct.iterating`: CONVERGED is said of
a state whose residual was measured and is small enough, and of no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import LinearOperator, gmres

from deqverify.cells import LinearCell
from deqverify.cells.base import Theta
from deqverify.correct.iterating import Variant
from deqverify.correct.registry import correct
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status, worst
from deqverify.reference.stateless import LINEAR, STATELESS

Map = Callable[[Any], Any]


class Alone(Variant):
    """Each data point is solved by itself, in both passes, and reported on by itself."""

    solved = False
    """Nothing is proven of how soon the accelerated methods arrive; where they do not, they say so."""

    def vjp(self, cell: Any, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        if not len(x):
            return super().vjp(cell, theta, x, z0)
        single = [slice(i, i + 1) for i in range(len(x))]
        found = [super(Alone, self).vjp(cell, theta, x[i], None if z0 is None else z0[i]) for i in single]
        statuses = [solution.status for solution, _ in found]
        z = np.concatenate([solution.z for solution, _ in found])

        def pull(cotangent: Any) -> Cotangents:
            parts = [pull(cotangent[i]) for i, (_, pull) in zip(single, found, strict=True)]
            total = {name: sum((p.theta[name] for p in parts[1:]), parts[0].theta[name]) for name in theta}
            return Cotangents(total, np.concatenate([p.x for p in parts]), worst([p.status for p in parts]))

        return Solution(z, worst(statuses), statuses=statuses), pull

    def residual(self, step: Map, z: Any) -> tuple[Any, float]:
        """f(z) and the 2-norm of ``f(z) − z``."""
        with np.errstate(over="ignore", invalid="ignore"):
            f = step(z)
            return f, float(np.linalg.norm((f - z).astype(np.float64)))


class Guarded(Alone):
    """An accelerated iteration: the next state is what :meth:`proposing` gives, but a step that does not make the
    residual smaller is taken again as Picard's, from the same state."""

    cap = 500

    def iterate(self, step: Map, z: Any) -> tuple[Any, Status]:
        propose = self.proposing(step)
        f, size = self.residual(step, z)
        for _ in range(self.most):
            if (status := self.ended(z, f)) is not None:
                return z, status
            ahead = propose(z, f)
            image, found = self.residual(step, ahead)
            if not found < size:
                ahead = f
                image, found = self.residual(step, ahead)
            z, f, size = ahead, image, found
        return z, self.ended(z, f) or Status.CAPPED

    def proposing(self, step: Map) -> Callable[[Any, Any], Any]:
        """From a state and its image to the next state, for one run: it is asked at each state of the run in turn."""
        raise NotImplementedError


@correct("anderson")
class Anderson(Guarded):
    """Anderson's acceleration with a history of five, by least squares in the differences (Walker & Ni 2011), guarded
    by Picard's step."""

    window = 5

    def proposing(self, step: Map) -> Callable[[Any, Any], Any]:
        history: deque[tuple[Any, Any]] = deque(maxlen=self.window)

        def propose(z: Any, f: Any) -> Any:
            history.append((z, f))
            return self.mixed(list(history))

        return propose

    def mixed(self, history: list[tuple[Any, Any]]) -> Any:
        """``f_k − ΔF a`` with a least squares solution of ``ΔR a = r_k``, differences from the newest."""
        z, f = history[-1]
        if len(history) == 1:
            return f
        images = np.stack([(f - older).ravel() for _, older in history[:-1]], axis=1)
        states = np.stack([(z - older).ravel() for older, _ in history[:-1]], axis=1)
        weights = np.linalg.lstsq(images - states, (f - z).ravel(), rcond=None)[0]
        return f - (images @ weights).reshape(f.shape).astype(f.dtype)


@correct("broyden")
class Broyden(Guarded):
    """Broyden's good method on ``g(z) = f(z) − z``, its approximation of ``(I − J)⁻¹`` starting at I, so that the first
    step is Picard's; guarded by Picard's step."""

    def proposing(self, step: Map) -> Callable[[Any, Any], Any]:
        H: Any = None
        before: tuple[Any, Any] | None = None

        def propose(z: Any, f: Any) -> Any:
            nonlocal H, before
            H = np.eye(z.size) if before is None else self.learnt(H, *before, z, f)
            before = z, f
            return (z + (H @ (f - z).ravel()).reshape(z.shape)).astype(z.dtype)

        return propose

    def learnt(self, H: Any, z: Any, f: Any, ahead: Any, image: Any) -> Any:
        """H after the step from z, whose image is f, to ``ahead``, whichever method took it."""
        moved, change = (ahead - z).ravel(), ((f - z) - (image - ahead)).ravel()  # change ≈ (I − J) moved
        along = moved @ H
        scale = along @ change
        if np.isfinite(scale) and abs(scale) > 1e-8 * (moved @ moved):  # else H would blow up
            return H + np.outer(moved - H @ change, along) / scale
        return H


@correct("newton-krylov")
class NewtonKrylov(Guarded):
    """Newton's method whose steps GMRES finds from difference quotients of f, without a Jacobian (Knoll & Keyes 2004),
    guarded by Picard's step."""

    cap = 200

    def proposing(self, step: Map) -> Callable[[Any, Any], Any]:
        return lambda z, f: (z + self.correction(step, z, f)).astype(z.dtype)

    def correction(self, step: Map, z: Any, f: Any) -> Any:
        reach = np.sqrt(np.finfo(z.dtype).eps) * max(float(np.linalg.norm(z)), float(np.linalg.norm(f)))

        def product(v: Any) -> Any:
            length = float(np.linalg.norm(v))
            if not length or not reach:
                return v
            direction = v.reshape(z.shape) / length
            slope = (step((z + reach * direction).astype(z.dtype)) - f) / reach
            return v - length * slope.ravel()

        system = LinearOperator((z.size, z.size), matvec=product, dtype=np.float64)
        right = (f - z).ravel().astype(np.float64)
        found, _ = gmres(system, right, rtol=1e-2, restart=min(z.size, 30), maxiter=3)
        return found.reshape(z.shape)


class AloneLinear(Alone):
    """The same for linear cells: ``v = Kv + right``, or with Kᵀ, is solved by :meth:`solved_by`."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = replace(self.claims, cells=LINEAR)

    def vjp(self, cell: LinearCell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        K = cell.matrix(theta)
        z, statuses = self.each(K, cell.offset(theta, x), z0)

        def pull(cotangent: Any) -> Cotangents:
            adjoint, said = self.each(K.T, cotangent, None)
            found = cell.pull(theta, x, z, adjoint)
            return Cotangents(found.theta, found.x, worst(said))

        return Solution(z, worst(statuses), statuses=statuses), pull

    def each(self, K: Any, right: Any, start: Any) -> tuple[Any, list[Status]]:
        z = np.zeros_like(right) if start is None else start.copy()
        statuses = []
        for i in range(len(right)):
            one = slice(i, i + 1)
            z[one], status = self.solved_by(K, right[one], z[one])
            statuses.append(status)
        return z, statuses

    def solved_by(self, K: Any, right: Any, z: Any) -> tuple[Any, Status]:
        """The answer for one data point, (1, m), and what the rule says of it."""
        raise NotImplementedError

    def judged(self, K: Any, right: Any, z: Any) -> Status:
        with np.errstate(over="ignore", invalid="ignore"):
            return self.ended(z, z @ K.T + right) or Status.CAPPED


@correct("gmres")
class Gmres(AloneLinear):
    """GMRES on U, unpreconditioned and with a history of all states. Its own rule is ``‖r‖ ≤ tol·‖b‖`` and not the
    claim's, so that its answer is measured again before it is called converged."""

    def solved_by(self, K: Any, right: Any, z: Any) -> tuple[Any, Status]:
        if not np.isfinite(right).all():
            return np.full_like(z, np.nan), Status.DIVERGED
        m, scale = len(K), float(np.abs(right).max(initial=0.0)) or 1.0
        # ‖b‖ ≤ ‖I − K‖₂‖z‖ + ‖r‖ ≤ (1 + √m)‖z‖ + ‖r‖ for ‖K‖₁ ≤ 1: the tolerance on b is so much smaller, and halved.
        tolerance = self.tolerance / (2.0 * (2.0 + m**0.5))
        found, _ = gmres(np.eye(m) - K, right[0] / scale, z[0] / scale, rtol=tolerance, restart=m, maxiter=self.most)
        z = (scale * found[None]).astype(z.dtype)
        return z, self.judged(K, right, z)


@correct("gauss-seidel")
class GaussSeidel(AloneLinear):
    """Sweeps of Gauss & Seidel for the linear-softmax cell: U is an M-matrix, for which they converge no slower than
    Jacobi's, and these no slower than Picard's (Stein & Rosenberg 1948)."""

    solved = True

    def __init__(self) -> None:
        super().__init__()
        self.claims = replace(self.claims, cells=STATELESS.cells)

    def solved_by(self, K: Any, right: Any, z: Any) -> tuple[Any, Status]:
        lower, upper = np.eye(len(K), dtype=K.dtype) - np.tril(K), np.triu(K, 1)
        for _ in range(self.most):
            if (status := self.ended(z, z @ K.T + right)) is not None:
                return z, status
            z = scipy.linalg.solve_triangular(lower, (z @ upper.T + right).T, lower=True, check_finite=False).T
        return z, self.judged(K, right, z)


@correct("repeated-squaring")
class RepeatedSquaring(AloneLinear):
    """``z = (I + K)(I + K²)(I + K⁴)⋯ right``: a Neumann series whose number of terms doubles with each product."""

    cap = 64
    """2⁶⁴ terms; what rounding of the squares leaves beyond the claim is reported."""

    def solved_by(self, K: Any, right: Any, z: Any) -> tuple[Any, Status]:
        z, power = right.copy(), K
        for _ in range(self.most):
            if (status := self.ended(z, z @ K.T + right)) is not None:
                return z, status
            with np.errstate(under="ignore"):
                z, power = z + z @ power.T, power @ power
        return z, self.judged(K, right, z)


class InFloat32(AloneLinear):
    """An LU in float32 of what was given in float64, each right side scaled to size one, so that it stays in range."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = replace(self.claims, dtypes=("float64",))

    def narrow(self, K: Any) -> Map:
        factors = scipy.linalg.lu_factor((np.eye(len(K)) - K).astype(np.float32), check_finite=False)

        def solve(right: Any) -> Any:
            scale = float(np.abs(right).max(initial=0.0)) or 1.0
            found = scipy.linalg.lu_solve(factors, (right / scale).astype(np.float32).T, check_finite=False).T
            return scale * found.astype(np.float64)

        return solve


@correct("float32-inside")
class NarrowInside(InFloat32):
    """It solves in float32 whatever it is given, and claims 1e-3 and not more: near γ = 1 it says that it missed it."""

    tolerance = 1e-3

    def solved_by(self, K: Any, right: Any, z: Any) -> tuple[Any, Status]:
        z = self.narrow(K)(right)
        return z, self.judged(K, right, z)


@correct("float32-refined")
class Refined(InFloat32):
    """It solves in float32, then for what is left over, measured in float64, until the claim of 1e-10 is met; where
    float32 knows nothing of U any more it says so."""

    tolerance = 1e-10
    cap = 50

    def solved_by(self, K: Any, right: Any, z: Any) -> tuple[Any, Status]:
        solve = self.narrow(K)
        for _ in range(self.most):
            f = z @ K.T + right
            if (status := self.ended(z, f)) is not None:
                return z, status
            z = z + solve(f - z)
        return z, self.judged(K, right, z)
