"""What a user hands over for a DEQ, made an implementation, or refused with what to hand over instead."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from deqverify.claims import Claims
from deqverify.frameworks import FRAMEWORKS
from deqverify.implementations.protocol import OPTIONAL, Layer, Model


def as_implementation(candidate: Any, framework: str = "torch") -> Any:
    """``candidate`` itself if it is a layer or a model; a layer of ``framework``, PyTorch or JAX, around it if it is a
    plain function.

    TypeError, with what to pass instead, for anything else and for attributes that are not what the protocol says.
    """
    if isinstance(candidate, type):
        refuse_module_class(candidate)
        name = candidate.__name__
        raise TypeError(f"deq: got the class {name}; pass an instance, as in check_deq({name}())")
    if isinstance(candidate, Layer | Model):
        _check_attributes(candidate)
        return candidate
    if is_module(candidate):
        raise TypeError(_MODULE.format(type(candidate).__name__))
    if callable(getattr(candidate, "vjp", None)):
        missing = [name for name in ("name", "framework", "claims") if not hasattr(candidate, name)]
        raise TypeError(
            f"deq: {type(candidate).__name__} has vjp and lacks {' and '.join(missing)}; "
            'a layer has name = "mine", framework = "torch", "jax" or "numpy", and claims = Claims(…)'
        )
    if callable(candidate):
        _check_call(candidate)
        if framework == "jax":
            from deqverify.implementations.jax_base import JaxFixedPoint

            return JaxFixedPoint(candidate)
        from deqverify.implementations.torch_base import TorchFixedPoint

        return TorchFixedPoint(candidate)
    raise TypeError(
        f"deq: {candidate!r} is not a DEQ; give it name, framework, claims and vjp "
        "(deqverify.implementations.protocol.Layer), subclass TorchLayer, or pass a function, as in "
        "def solve(step, z0): return z"
    )


_MODULE = (
    "deq: got a {}, a torch.nn.Module with weights of its own; wrap it with its cell, "
    "wrap_torch(module, cell=module.f, example=x), or pass its solver alone, which is judged on cells of this suite, "
    "as in def solve(step, z0): return module.solver(step, z0)"
)


def _modules() -> tuple[type, ...]:
    torch = sys.modules.get("torch")  # a module of it exists only where it was imported
    return () if torch is None else (torch.nn.Module,)


def is_module(candidate: Any) -> bool:
    """Whether ``candidate`` is a ``torch.nn.Module`` that is no layer besides."""
    return isinstance(candidate, _modules()) and not isinstance(candidate, Layer | Model)


def refuse_module_class(candidate: Any) -> None:
    """TypeError for a class of modules that are no layers besides: there is no point in building one."""
    if not isinstance(candidate, type) or not issubclass(candidate, _modules()):
        return
    if not hasattr(candidate, "vjp") and not hasattr(candidate, "value_and_grad"):
        raise TypeError(_MODULE.format(candidate.__name__))


def _check_attributes(implementation: Any) -> None:
    """TypeError, naming the attribute, for one that is not what the protocol says."""
    if not isinstance(implementation.claims, Claims):
        raise TypeError(f"claims: is {implementation.claims!r}; give it deqverify.Claims(…)")
    if not isinstance(implementation, Layer):
        return
    if implementation.framework not in FRAMEWORKS:
        known = " or ".join(f'"{name}"' for name in FRAMEWORKS)
        raise TypeError(f"framework: is {implementation.framework!r}; write {known}")
    for name, without in OPTIONAL.items():
        if not callable(method := getattr(implementation, name, _call)):
            raise TypeError(f"{name}: is {method!r}; leave the attribute out where the layer {without}")


def _call(step: Any, z0: Any) -> Any:
    """How a plain function is called."""


def _check_call(solve: Any) -> None:
    try:
        signature = inspect.signature(solve)
    except (TypeError, ValueError):  # written in C, without a signature
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        name = getattr(solve, "__name__", type(solve).__name__)
        raise TypeError(
            f"deq: {name}{signature} cannot be called as solve(step, z0) ({error}); for one that needs more, "
            f"def solve(step, z0): return {name}(step, z0, …)"
        ) from error
