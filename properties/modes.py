"""The framework's modes and the layer's own make no difference to the equilibrium. Judged against a plain call, both
allowed their error."""

from __future__ import annotations

from deqverify.properties.calls import SAME_BITS, Evidence, Reply, agree, plain_call, reply
from deqverify.properties.common import any_problem, judged
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from deqverify.dtypes import Array
from deqverify.frameworks.base import freezing
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.registry import law


@law(
    statement="the equilibrium is the same where no gradient is recorded",
    source="the protocol; PyTorch, torch.no_grad and torch.inference_mode; JAX, a call without jax.vjp",
    needs=("equilibrium", "recording"),
    rests_on=("existence",),
    anomaly="another equilibrium without gradients",
    at_stake="Validation and deployment run another model than training, or do not run.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=lambda deq: any_problem(mode=lambda problem: st.sampled_from(sorted(deq.framework.without_gradient)[::-1]))(
        deq
    ),
)
def no_gradient(deq: Subject, problem: Problem, mode: str) -> Evidence:
    """z (n, *state) inside each of the framework's modes that record no gradient, against z outside.

    Bound: twice ``Errors.z``. Catches solvers that take other branches where nothing requires a gradient, and hooks
    registered on what has no graph.
    """
    expected = plain_call(deq.fresh(), problem, None)
    if expected is None:
        return
    used, native = deq.fresh(), deq.parameters(problem) | {"x": deq.native(problem.x)}
    with deq.framework.without_gradient[mode]():
        found = reply(used, problem, None, native)
    yield from agree(f"in {mode}", found, expected, judged(deq, problem, near=expected.z), whatever=True)


def _some_blocks(problem: Problem) -> SearchStrategy[tuple[str, ...]]:
    """Blocks that are frozen: the inputs, as of data, one of the others, or all but one."""
    every = problem.pulled_blocks
    others = [tuple(name for name in every if name != kept) for kept in every]
    return st.sampled_from(list(dict.fromkeys([("x",), *((name,) for name in every), *filter(None, others)])))


@law(
    statement="a gradient is the same where none is wanted in other blocks",
    source="the protocol; PyTorch, requires_grad; JAX, the arguments in which jax.vjp differentiates",
    needs=("equilibrium", "pull", "freezing"),
    rests_on=("existence", "adjoint-certificate", "gradient-theta", "gradient-x"),
    anomaly="wrong gradients where some are frozen",
    at_stake="Weights are trained on data, which wants no gradient, and fine-tuned while others are frozen.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=any_problem(cotangent=True, blocks=_some_blocks),
)
def frozen(deq: Subject, problem: Problem, cotangent: Array, blocks: tuple[str, ...]) -> Evidence:
    """z (n, *state) and the pull where no gradient is wanted in ``blocks``, against those where it is in all.

    Bound: twice ``Errors.z`` and twice ``Errors.pulled``. Catches backward passes that solve their equation only where
    the inputs want a gradient, and places of gradients that move when one is missing.
    """
    expected = plain_call(deq.fresh(), problem, cotangent)
    if expected is None:
        return
    with freezing(blocks):
        found = reply(deq.fresh(), problem, cotangent)
    wanted = Reply(found.z, {name: array for name, array in found.gradient.items() if name not in blocks})
    truth = judged(deq, problem, cotangent, expected.z)
    yield from agree(f"with {', '.join(blocks)} frozen", wanted, expected, truth)


@law(
    statement="training and evaluation mode give the same equilibrium, and training mode can be entered again",
    source="the implementation's own claim; theory: contraction, there is only one equilibrium",
    needs=("equilibrium", "modes"),
    rests_on=("existence", "deterministic"),
    anomaly="another equilibrium in evaluation mode",
    at_stake="What is deployed is not what was trained.",
    judges_crashes=True,
    loose=SAME_BITS,
    draws=any_problem(cotangent=True),
)
def modes(deq: Subject, problem: Problem, cotangent: Array) -> Evidence:
    """z (n, *state) in evaluation mode against z in training mode, then z and its pull back in training mode.

    The pull in evaluation mode is judged where ``evaluation_gradient`` is claimed. Bound: twice ``Errors.z`` and
    twice ``Errors.pulled``. Catches dropout left on in the iteration, other caps or tolerances at test time, and modes
    that are not left again.
    """
    expected = plain_call(deq.fresh(), problem, cotangent)
    if expected is None:
        return
    truth, used = judged(deq, problem, cotangent, expected.z), deq.fresh()
    with used.evaluating() as evaluating:
        found = reply(evaluating, problem, cotangent if deq.claims.evaluation_gradient else None)
    yield from agree("in evaluation mode", found, expected, truth, whatever=True)
    yield from agree("back in training mode", reply(used, problem, cotangent), expected, truth)
