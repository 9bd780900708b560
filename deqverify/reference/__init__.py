"""The reference DEQ: direct, one LU used again transposed; iterative, each solve certified; fast; and for any cell.

Public: what ``__all__`` lists.
"""

from __future__ import annotations

from typing import Any

__all__ = ["reference", "solve"]

FRAMEWORKS = ("torch", "numpy", "jax")
SPLITTINGS = ("forward-backward", "peaceman-rachford")
METHODS = ("picard", "mass", "newton", *SPLITTINGS)
THROUGH = "straight-through"
FAST = ("lu", "mass", "mixed", "mixedlu", "batched")


def reference(*options: str) -> Any:
    """``reference[options]``: a framework, ``torch`` (default), ``numpy`` or ``jax``, and a method.

    Without a method the solve is direct; ``picard`` iterates, and is capped near γ = 1; ``mass`` iterates with the mass
    corrected, or solves directly where that gains nothing; ``newton`` solves any cell, with a dense adjoint;
    ``forward-backward`` and ``peaceman-rachford`` split the monotone cell. Only the direct solve, ``newton`` and
    ``fast`` have a JAX. ``fast`` takes the quickest method for each problem, in PyTorch, or the one named beside it:
    ``lu``, ``mass``, ``mixed`` (narrow products), ``mixedlu`` (a narrow LU), or ``batched`` (the solver of many
    problems); ``fast,jax`` is an LU, compiled, its adjoint written out. ``bits=8`` is the direct solve with weights of
    eight bits, in PyTorch and NumPy; with ``straight-through`` autograd passes through the quantiser, in PyTorch.
    ``worst`` errs by all that it claims, so that bounds can be seen to hold (:mod:`deqverify.reference.worst`).
    ValueError for anything else.
    """
    if any(option == THROUGH or option.startswith("bits") for option in options):
        return _quantised(*options)
    if "worst" in options:
        from deqverify.reference.worst import worst

        return worst(*(option for option in options if option != "worst"))
    if "fast" in options:
        return _fast(*(option for option in options if option != "fast"))
    for option in options:
        if option not in (*FRAMEWORKS, *METHODS):
            known = ", ".join((*FRAMEWORKS, *METHODS, "bits=8", THROUGH, "fast", "worst"))
            raise ValueError(f"reference has no option {option!r}; use some of {known}")
    framework = _one_of(FRAMEWORKS, options) or "torch"
    method = _one_of(METHODS, options)
    if method == "newton":
        from deqverify.reference.newton import NewtonLayer

        return NewtonLayer(framework)
    if method and framework == "jax":
        raise ValueError(f"reference[{method}] is not written for jax; use torch, numpy or reference[newton,jax]")
    if method == "picard":
        from deqverify.reference.iterative import PicardLayer

        return PicardLayer(framework)
    if method in SPLITTINGS:
        from deqverify.reference.splitting import SplittingLayer

        return SplittingLayer(framework, method)  # type: ignore[arg-type]
    direct = _direct(framework)
    if method == "mass":
        from deqverify.reference.iterative import MassCorrectedLayer

        return MassCorrectedLayer(direct)
    return direct


def __getattr__(name: str) -> Any:
    """``solve``, imported when first used: NumPy's reference needs no PyTorch."""
    if name == "solve":
        from deqverify.reference.fast import solve

        return solve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _one_of(known: tuple[str, ...], options: tuple[str, ...]) -> str | None:
    chosen = sorted({option for option in options if option in known})
    if len(chosen) > 1:
        raise ValueError(f"reference takes one of {' and '.join(chosen)}, not both")
    return chosen[0] if chosen else None


def _fast(*options: str) -> Any:
    for option in options:
        if option not in (*FAST, "torch", "jax"):
            known = ", ".join((*FAST, "jax"))
            raise ValueError(f"reference[fast] has no option {option!r}; use one of {known}, or none")
    if _one_of(FRAMEWORKS, options) == "jax":
        if method := _one_of(FAST, options):
            raise ValueError(f"reference[fast,{method}] is not written for jax; use torch, or reference[fast,jax]")
        from deqverify.reference.jax_fast import JaxFast

        return JaxFast()
    from deqverify.reference.fast.layer import BatchedLayer, FastLayer

    method = _one_of(FAST, options)
    return BatchedLayer() if method == "batched" else FastLayer(method)  # type: ignore[arg-type]


def _quantised(*options: str) -> Any:
    from deqverify.reference.quantised import NumpyQuantised, bits_of

    numbers = [bits_of(option) for option in options if option.startswith("bits")]
    others = [option for option in options if not option.startswith("bits") and option not in (THROUGH, *FRAMEWORKS)]
    if others:
        raise ValueError(
            f"reference[bits=8] takes a framework and {THROUGH}, and solves directly: leave {others[0]!r} out"
        )
    if len(numbers) != 1:
        fix = f"write reference[{THROUGH},bits=8]" if not numbers else "give bits once"
        raise ValueError(f"reference[{','.join(options)}]: takes one number of bits; {fix}")
    framework, (bits,) = _one_of(FRAMEWORKS, options) or "torch", numbers
    if framework == "jax":
        raise ValueError("reference[bits=8] is not written for jax; use torch or numpy")
    if framework == "numpy":
        if THROUGH in options:
            raise ValueError(
                f"reference[{THROUGH}] is autograd's, in torch; reference[bits={bits},numpy] tells A the same"
            )
        return NumpyQuantised(bits)
    from deqverify.reference.torch_quantised import StraightThrough, TorchQuantised

    return StraightThrough(bits) if THROUGH in options else TorchQuantised(bits)


def _direct(framework: str) -> Any:
    if framework == "numpy":
        from deqverify.reference.numpy_direct import NumpyDirect

        return NumpyDirect()
    if framework == "jax":
        from deqverify.reference.jax_direct import JaxDirect

        return JaxDirect()
    from deqverify.reference.torch_direct import TorchDirect

    return TorchDirect()
