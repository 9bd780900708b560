"""Pictures of a target as plain numbers: what it does beside what theory says, on fixed problems of the linear-softmax
cell.

Nothing is judged here, laws do that; a sketch shows what a verdict looks like. Each is made where the target claims
what it needs. What goes wrong on the way is a sentence in its place, and what was seen until then is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from deqverify.cells import LinearSoftmaxCell
from deqverify.clock import Hang, Interrupted, alarm
from deqverify.dtypes import Array
from deqverify.errors.judge import judge
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject, heed
from deqverify.importing import imported
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm
from deqverify.theory.dissipation import infimum, polyak_lojasiewicz, rate_floor
from deqverify.theory.trust_region import subproblem

SECONDS = 5.0
"""What one sketch may take; it ends with what was seen until then."""

WARMING = 20.0
"""What the first gradient may take, which imports and compiles what the others find ready."""

HARD_SECONDS = 90.0
"""After so long the process of a target's sketches is killed: it did not heed its clock."""

EVALUATIONS = 120
"""A training run calls the implementation at most this often."""

FALL = 1e-4
"""Training is followed until the loss has fallen to this share of what it could fall by."""

STEPS_KEPT = 400
"""So many entries of a trace are kept."""

RATES = (0.5, 0.9, 0.99)
"""The γ of traces."""

NEAR_ONE = tuple(1.0 - 10.0 ** (-k / 2) for k in range(1, 9))
"""The γ at which errors are measured."""

MEASURED, THEORY, ALLOWED = "measured", "theory", "allowed"


@dataclass(frozen=True)
class Curve:
    """``points`` (x, y) under a name, ``role`` one of :data:`MEASURED`, :data:`THEORY` and :data:`ALLOWED`; ``times``
    at which a path is there."""

    name: str
    role: str
    points: list[tuple[float, float]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@dataclass
class Sketch:
    """The numbers of one picture of ``target``. ``about`` is a key of :data:`SKETCHES`, ``where`` names the problem,
    ``note`` says why the picture is not whole, "" where it is. ``minimum`` and ``hessian`` are those of the shallow
    objective, for the picture of a path."""

    about: str
    target: str
    dtype: str
    where: str = ""
    curves: list[Curve] = field(default_factory=list)
    note: str = ""
    minimum: list[float] = field(default_factory=list)
    hessian: list[list[float]] = field(default_factory=list)

    def curve(self, name: str, role: str) -> Curve:
        """A new curve, to be drawn on point by point: what was seen stays if the target then fails."""
        self.curves.append(Curve(name, role))
        return self.curves[-1]


class _NotFinite(Exception):
    """The target gave a gradient that is not finite: there is no way on."""


def sketches_of(target: str, dtype: str | None, device: str, implementation: object = None) -> list[Sketch]:
    """The sketches that the claims of ``target`` allow, or of ``implementation``, where the caller has the object; none
    where it can't be loaded, which a report says elsewhere."""
    try:
        subject = Subject(load(target) if implementation is None else implementation, dtype, device, target)
    except (TypeError, ValueError):  # TargetError is a ValueError
        return []
    if LinearSoftmaxCell.name not in subject.cells:
        return []
    newton_path()  # theory, which is on nobody's clock
    with suppress(Exception, Interrupted), alarm(WARMING):  # what fails here fails again where it is said
        subject.value_and_grad(subject.rounded(_standard(0.5)))
    return [_made(about, draw, subject) for about, (needs, draw) in SKETCHES.items() if needs(subject)]


def gone(target: str, dtype: str | None, why: str) -> Sketch:
    """What stands in place of the sketches of a target that took its process with it."""
    return Sketch("process", target, dtype or "", note=why)


def _made(about: str, draw: Callable[[Subject, Sketch], None], subject: Subject) -> Sketch:
    sketch = Sketch(about, subject.name, subject.dtype)
    try:
        with alarm(SECONDS):
            draw(subject, sketch)
    except Reported as reported:
        sketch.note = f"ends where {reported}"
    except Hang:
        sketch.note = f"ends after {SECONDS:g} s"
    except TargetFailure as failure:
        sketch.note = str(failure)
    except _NotFinite:
        sketch.note = "ends where the gradient is not finite"
    except Interrupted:
        sketch.note = "was interrupted"
    except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:  # numbers that theory can't go on with
        sketch.note = f"ends where {type(error).__name__}: {error}"
    return sketch


def _decay(deq: Subject, sketch: Sketch) -> None:
    """(L − L*)/(L(0) − L*) along gradient flow by the target's gradients, beside exp(−2κλ̲t) (theory: rate).

    Φ has orthonormal rows, so that σ_min loses nothing and the envelope is as near as the theorem can bring it.
    """
    problem = _orthonormal(m=2, p=3, n=4, gamma=0.5)
    first, floor = ClosedForm(problem), infimum(problem).attained
    rate = 2.0 * polyak_lojasiewicz(problem, first.loss) * rate_floor(problem)
    sketch.where = f"m = 2, p = 3, n = 4, γ = 0.5, squared loss, ΦΦᵀ = I, 2κλ̲ = {rate:.2g}"
    seen, envelope = sketch.curve("the loss", MEASURED), sketch.curve("the theorem's envelope", THEORY)

    def look(t: float, here: SoftmaxProblem) -> bool:
        share = (ClosedForm(here).loss - floor) / (first.loss - floor)
        seen.points.append((t, max(share, FALL)))
        envelope.points.append((t, float(np.exp(-rate * t))))
        return share > FALL

    _flow(deq, problem, -np.log(FALL) / rate, look)


def _path(deq: Subject, sketch: Sketch) -> None:
    """The shallow model W = BU⁻¹, (1, 2), along gradient flow by the target's gradients, beside the path that
    trust-region Newton takes from the same start (theory: trajectory)."""
    problem, seen = _TRAINED, Curve("W = BU⁻¹", MEASURED)
    sketch.where = "m = 2, p = 1, n = 3, γ = 0.6, squared loss"
    sketch.minimum, sketch.hessian = infimum(problem).W[0].tolist(), (2.0 * problem.Phi @ problem.Phi.T).tolist()
    sketch.curves += [newton_path(), seen]

    def look(t: float, here: SoftmaxProblem) -> bool:
        W = ClosedForm(here).W
        seen.points.append((float(W[0, 0]), float(W[0, 1])))
        seen.times.append(t)
        return True

    _flow(deq, problem, _UNTIL, look)


@cache
def newton_path() -> Curve:
    """W from the start of the path's problem: A and B flow by their closed forms, and W by the solution of
    ``(δH + 𝒢)v = −g`` at W itself. No target is asked."""
    split = _TRAINED.A.size + _TRAINED.B.size

    def velocity(t: float, state: Array) -> Array:
        here = _unpacked(_TRAINED, state[:split])
        shallow = ClosedForm(replace(here, B=state[split:].reshape(1, 2) @ ClosedForm(here).U))
        region = subproblem(shallow)
        step = np.linalg.solve(region.delta * region.H + region.metric, -region.g)
        return np.concatenate([-_packed(ClosedForm(here).gradient), step])

    W = ClosedForm(_TRAINED).W.ravel()
    start = np.concatenate([_packed({"A": _TRAINED.A, "B": _TRAINED.B}), W])
    solver = imported("scipy.integrate").RK45(velocity, 0.0, start, t_bound=_UNTIL, rtol=_TOLERANCE, atol=_TOLERANCE)
    path = Curve("trust-region Newton's", THEORY, [(float(W[0]), float(W[1]))], [0.0])
    for t, state in _steps(solver):
        path.points.append((float(state[split]), float(state[split + 1])))
        path.times.append(t)
    return path


def _steps(solver: Any) -> Iterator[tuple[float, Array]]:
    """Time and state along the solver's steps, a few between two of them, which its interpolant gives for nothing."""
    while solver.status == "running":
        solver.step()
        if solver.status != "failed":
            within = solver.dense_output()
            for t in np.linspace(solver.t_old, solver.t, _BETWEEN + 1)[1:]:
                yield float(t), within(t)


def _flow(deq: Subject, problem: SoftmaxProblem, until: float, look: Callable[[float, SoftmaxProblem], bool]) -> None:
    """Gradient flow of A and B by the gradients of ``deq``, ``look`` called at each accepted step until it says no."""
    calls = 0

    def velocity(t: float, state: Array) -> Array:
        nonlocal calls
        calls += 1
        _, gradient = deq.value_and_grad(deq.rounded(_unpacked(problem, state)))
        if not all(np.isfinite(gradient[block]).all() for block in "AB"):
            raise _NotFinite
        return -_packed(gradient)

    start = _packed({"A": problem.A, "B": problem.B})
    solver = imported("scipy.integrate").RK45(velocity, 0.0, start, t_bound=until, rtol=_TOLERANCE, atol=_TOLERANCE)
    look(0.0, problem)
    for t, state in _steps(solver):
        if not look(t, _unpacked(problem, state)) or calls >= EVALUATIONS:
            return


def _conditioning(deq: Subject, sketch: Sketch) -> None:
    """The relative error of ẑ in the 1-norm at the worst data point, against 1/(1−γ), with what is allowed there."""

    def look(problem: SoftmaxProblem) -> tuple[float, float]:
        truth, z = judge(problem, deq.claims, deq.dtype), deq.equilibrium(problem)
        size = truth.states(truth.z)
        return float((truth.error(z) / size).max()), float((truth.z_error.total / size).max())

    sketch.where = "m = 4, n = 2"
    _towards_one(deq, sketch, "‖ẑ − z*‖/‖z*‖", look)


def _adjoint(deq: Subject, sketch: Sketch) -> None:
    """The same of the adjoint Λ̂ for a cotangent of ones, in the maximum norm."""

    def look(problem: SoftmaxProblem) -> tuple[float, float]:
        cotangent = np.ones(problem.states)
        truth, (adjoint, status) = judge(problem, deq.claims, deq.dtype, cotangent), deq.adjoint(problem, cotangent)
        heed(status)
        size, error = truth.adjoints(truth.adjoint), truth.adjoints(adjoint - truth.adjoint)
        return float((error / size).max()), float((truth.adjoint_error.total / size).max())

    sketch.where = "m = 4, n = 2, for a cotangent of ones"
    _towards_one(deq, sketch, "‖Λ̂ − Λ‖/‖Λ‖", look)


def _towards_one(
    deq: Subject, sketch: Sketch, name: str, look: Callable[[SoftmaxProblem], tuple[float, float]]
) -> None:
    """What ``look`` measures and what is allowed, for γ nearer and nearer to 1."""
    seen, allowed = sketch.curve(name, MEASURED), sketch.curve("allowed", ALLOWED)
    for gamma in NEAR_ONE:
        problem = deq.rounded(_standard(gamma))
        try:
            error, bound = look(problem)
        except Reported as reported:  # honest, and no point in the picture
            sketch.note = sketch.note or f"from γ = {gamma:.5g} on {reported}"
            continue
        at = 1.0 / (1.0 - problem.gamma)
        seen.points.append((at, error))
        allowed.points.append((at, bound))


def _trace(deq: Subject, sketch: Sketch) -> None:
    """Residuals by iteration as shares of the first, beside γᵏ, the rate of plain iteration (theory: picard)."""
    sketch.where = "m = 4, n = 2"
    for gamma in RATES:
        problem = deq.rounded(_standard(gamma))
        trace = deq.solve(problem, layer=deq.traced()).solution.trace or []
        first = trace[0] if trace and trace[0] > 0.0 else 1.0
        shares = [(float(k), r / first) for k, r in enumerate(trace[:STEPS_KEPT]) if np.isfinite(r)]
        sketch.curve(f"γ = {gamma:g}", MEASURED).points.extend(shares)
        promised = [(k, float(problem.gamma**k)) for k, _ in shares]
        sketch.curve(f"{gamma:g}ᵏ", THEORY).points.extend(promised)


def _standard(gamma: float) -> SoftmaxProblem:
    """The same problem at every γ, its entries of size one."""
    draws = np.random.default_rng(0)
    A, Phi = draws.standard_normal((4, 4)), draws.standard_normal((4, 2))
    return SoftmaxProblem(A, np.ones((1, 4)), Phi, np.zeros((1, 2)), gamma, Squared())


def _orthonormal(m: int, p: int, n: int, gamma: float) -> SoftmaxProblem:
    """A problem to be trained, Φ (m, n) with orthonormal rows."""
    draws = np.random.default_rng(0)
    Phi = np.linalg.qr(draws.standard_normal((n, m)))[0].T
    A, B, Y = (draws.standard_normal(shape) for shape in ((m, m), (p, m), (p, n)))
    return SoftmaxProblem(A, B, Phi, Y, gamma, Squared())


def _packed(blocks: dict[str, Array]) -> Array:
    return np.concatenate([np.ravel(blocks["A"]), np.ravel(blocks["B"])])


def _unpacked(problem: SoftmaxProblem, state: Array) -> SoftmaxProblem:
    split = problem.A.size
    return replace(problem, A=state[:split].reshape(problem.A.shape), B=state[split:].reshape(problem.B.shape))


def _bent() -> SoftmaxProblem:
    """A start from which A moves the shallow model as much as B does, from W = (3, −5), with the optimum at (1, 1)."""
    even = _orthonormal(m=2, p=1, n=3, gamma=0.6)
    turned = replace(even, A=np.array([[1.0, -1.0], [-1.0, 1.0]]), Phi=0.5 * even.Phi)
    B = np.array([[3.0, -5.0]]) @ ClosedForm(turned).U
    return replace(turned, B=B, Y=np.array([[1.0, 1.0]]) @ turned.Phi)


_TRAINED, _UNTIL = _bent(), 2.0
"""The problem of the path, and the time that it is followed for: nearly all of the way."""

_TOLERANCE = 1e-3
"""Of the integrator: below what a line in a picture can show, and above the noise of most gradients."""

_BETWEEN = 4

SKETCHES: dict[str, tuple[Callable[[Subject], bool], Callable[[Subject, Sketch], None]]] = {
    "conditioning": (lambda s: s.is_layer, _conditioning),
    "adjoint": (lambda s: s.is_layer and s.claims.backward is not None, _adjoint),
    "trace": (lambda s: hasattr(s.implementation, "traced"), _trace),
    "decay": (lambda s: s.claims.backward is not None, _decay),
    "path": (lambda s: s.claims.backward is not None, _path),
}
"""By name: whether a target claims what the sketch needs, and what draws it."""
