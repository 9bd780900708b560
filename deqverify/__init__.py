"""deqverify: property-based verification of deep equilibrium models.

What is public stands here, in ``__all__`` (docs/api.md has a line for each): import it from ``deqverify`` itself. What
the packages ``cells``, ``losses``, ``reference`` and ``strategies`` list in their ``__all__`` is public too. Every
other module and package is private and may change without notice.

Names are imported when first used: importing the package pulls in neither a framework nor Hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqverify import cells as cells
    from deqverify import losses as losses
    from deqverify import reference as reference
    from deqverify import strategies as strategies
    from deqverify.bounds import Bound as Bound
    from deqverify.check import VerificationError as VerificationError
    from deqverify.check import VerificationWarning as VerificationWarning
    from deqverify.check import check_deq as check_deq
    from deqverify.check import parametrize_with_laws as parametrize_with_laws
    from deqverify.claims import Accuracy as Accuracy
    from deqverify.claims import Claims as Claims
    from deqverify.comparison import Fact as Fact
    from deqverify.comparison import Measurement as Measurement
    from deqverify.comparison import compare as compare
    from deqverify.implementations.jax_base import JaxLayer as JaxLayer
    from deqverify.implementations.numpy_base import NumpyLayer as NumpyLayer
    from deqverify.implementations.protocol import Cotangents as Cotangents
    from deqverify.implementations.protocol import Layer as Layer
    from deqverify.implementations.protocol import Model as Model
    from deqverify.implementations.protocol import Solution as Solution
    from deqverify.implementations.protocol import Status as Status
    from deqverify.implementations.subject import Subject as Subject
    from deqverify.implementations.torch_base import TorchFixedPoint as TorchFixedPoint
    from deqverify.implementations.torch_base import TorchLayer as TorchLayer
    from deqverify.implementations.wrapped_jax import wrap_jax as wrap_jax
    from deqverify.implementations.wrapped_torch import wrap_torch as wrap_torch
    from deqverify.problem import CellProblem as CellProblem
    from deqverify.problem import SoftmaxProblem as SoftmaxProblem
    from deqverify.properties.common import any_problem as any_problem
    from deqverify.properties.common import judged as judged
    from deqverify.registry import law as law
    from deqverify.registry import laws as laws
    from deqverify.running.plan import Report as Report
    from deqverify.running.results import Result as Result
    from deqverify.running.results import Verdict as Verdict
    from deqverify.wrapped_problem import WrappedProblem as WrappedProblem

_HOMES = {
    "Accuracy": "claims",
    "Bound": "bounds",
    "CellProblem": "problem",
    "Claims": "claims",
    "Cotangents": "implementations.protocol",
    "Fact": "comparison",
    "JaxLayer": "implementations.jax_base",
    "Layer": "implementations.protocol",
    "Measurement": "comparison",
    "Model": "implementations.protocol",
    "NumpyLayer": "implementations.numpy_base",
    "Report": "running.plan",
    "Result": "running.results",
    "SoftmaxProblem": "problem",
    "Solution": "implementations.protocol",
    "Status": "implementations.protocol",
    "Subject": "implementations.subject",
    "TorchFixedPoint": "implementations.torch_base",
    "TorchLayer": "implementations.torch_base",
    "Verdict": "running.results",
    "VerificationError": "check",
    "VerificationWarning": "check",
    "WrappedProblem": "wrapped_problem",
    "any_problem": "properties.common",
    "cells": "cells",
    "check_deq": "check",
    "compare": "comparison",
    "judged": "properties.common",
    "law": "registry",
    "laws": "registry",
    "losses": "losses",
    "parametrize_with_laws": "check",
    "reference": "reference",
    "strategies": "strategies",
    "wrap_jax": "implementations.wrapped_jax",
    "wrap_torch": "implementations.wrapped_torch",
}
"""The module of each public name; a package is its own."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":  # it stands in pyproject.toml alone
        return version("deqverify")
    if name not in _HOMES:
        raise AttributeError(f"module 'deqverify' has no attribute {name!r}")
    try:
        module = import_module(f"deqverify.{_HOMES[name]}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("torch", "jax"):
            raise
        fix = f"pip install 'deqverify[{missing}]'"
        raise ModuleNotFoundError(f"deqverify.{name} needs {missing}; {fix}", name=missing) from error
    return module if name == _HOMES[name] else getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
