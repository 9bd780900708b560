"""deqverify: property-based verification of deep equilibrium models.

Names are imported when first used: importing the package pulls in neither a framework nor Hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqverify import losses as losses
    from deqverify.check import check_deq as check_deq
    from deqverify.check import parametrize_with_laws as parametrize_with_laws
    from deqverify.claims import Accuracy as Accuracy
    from deqverify.claims import Claims as Claims
    from deqverify.implementations.wrapped_jax import wrap_jax as wrap_jax
    from deqverify.implementations.wrapped_torch import wrap_torch as wrap_torch
    from deqverify.law import laws as laws
    from deqverify.problem import CellProblem as CellProblem
    from deqverify.problem import SoftmaxProblem as SoftmaxProblem
    from deqverify.wrapped_problem import WrappedProblem as WrappedProblem

_HOMES = {
    "Accuracy": "deqverify.claims",
    "Claims": "deqverify.claims",
    "CellProblem": "deqverify.problem",
    "SoftmaxProblem": "deqverify.problem",
    "check_deq": "deqverify.check",
    "laws": "deqverify.law",
    "losses": "deqverify.losses",
    "parametrize_with_laws": "deqverify.check",
    "WrappedProblem": "deqverify.wrapped_problem",
    "wrap_torch": "deqverify.implementations.wrapped_torch",
    "wrap_jax": "deqverify.implementations.wrapped_jax",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deqverify' has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return module if name == "losses" else getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
