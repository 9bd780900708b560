"""The reference DEQ: direct, one LU used again transposed; and iterative, each solve certified."""

from __future__ import annotations

from typing import Any

FRAMEWORKS = ("torch", "numpy")
METHODS = ("picard", "mass")


def reference(*options: str) -> Any:
    """``reference[options]``: a framework, ``torch`` (default) or ``numpy``, and a method.

    Without a method the solve is direct; ``picard`` iterates, and is capped near γ = 1; ``mass`` iterates with the mass
    corrected, or solves directly where that gains nothing. ValueError for anything else.
    """
    for option in options:
        if option not in (*FRAMEWORKS, *METHODS):
            raise ValueError(f"reference has no option {option!r}; use some of {', '.join(FRAMEWORKS + METHODS)}")
    framework = _one_of(FRAMEWORKS, options) or "torch"
    method = _one_of(METHODS, options)
    if method == "picard":
        from deqverify.reference.iterative import PicardLayer

        return PicardLayer(framework)
    direct = _direct(framework)
    if method == "mass":
        from deqverify.reference.iterative import MassCorrectedLayer

        return MassCorrectedLayer(direct)
    return direct


def _one_of(known: tuple[str, ...], options: tuple[str, ...]) -> str | None:
    chosen = sorted({option for option in options if option in known})
    if len(chosen) > 1:
        raise ValueError(f"reference takes one of {' and '.join(chosen)}, not both")
    return chosen[0] if chosen else None


def _direct(framework: str) -> Any:
    if framework == "numpy":
        from deqverify.reference.numpy_direct import NumpyDirect

        return NumpyDirect()
    from deqverify.reference.torch_direct import TorchDirect

    return TorchDirect()
