"""What a law may need of an implementation, by name."""

from __future__ import annotations

from collections.abc import Callable

from deqverify.implementations.subject import Subject

SPLITTINGS = ("forward-backward", "peaceman-rachford")
"""The iterations that a monotone cell may be claimed to be solved by."""


def _whole(subject: Subject) -> bool:
    """Whether it is a layer with a cell of its own, which takes no other."""
    return getattr(subject.implementation, "whole", False)


NEEDS: dict[str, tuple[Callable[[Subject], bool], str]] = {
    "equilibrium": (lambda s: s.is_layer, "it is a whole model and shows no equilibrium"),
    "pull": (lambda s: s.is_layer and s.claims.backward is not None, "no exact pull-back is claimed"),
    "gradient": (lambda s: s.claims.backward is not None, "no exact gradient is claimed"),
    "relative": (lambda s: s.claims.forward.relative, "its accuracy is claimed in absolute terms"),
    "starts": (lambda s: s.claims.starts, "it takes no start"),
    "separable": (lambda s: s.claims.separable, "batch separability is not claimed"),
    "status": (lambda s: s.claims.status, "no status is claimed"),
    "solves": (lambda s: s.claims.solves, "it is not claimed that well-conditioned problems are solved"),
    "deterministic": (lambda s: s.claims.deterministic, "it is not claimed that the same call gives the same answer"),
    "empty": (lambda s: s.claims.empty, "a batch of no data points is not claimed to be legal"),
    "repeated pulls": (lambda s: s.claims.repeated_pulls, "it is not claimed that a pull may be called again"),
    "threads": (lambda s: s.claims.threads, "it is not claimed that two threads may call at once"),
    "copies": (lambda s: s.claims.copies, "deep copies are not claimed"),
    "pickles": (lambda s: s.claims.pickles, "it is not claimed that it can be pickled"),
    "modes": (
        lambda s: s.claims.modes and hasattr(s.implementation, "mode"),
        "training and evaluation mode are not claimed, or it offers no way to change between them",
    ),
    "recording": (
        lambda s: s.is_layer and bool(s.framework.without_gradient),
        "its framework records no gradients that could be left out",
    ),
    "freezing": (
        lambda s: s.is_layer and getattr(s.implementation, "freezes", False),
        "it gives the gradient in every block, whichever are wanted",
    ),
    "mutable arrays": (
        lambda s: s.is_layer and s.framework.mutable,
        "its framework's arrays cannot be written into",
    ),
    "layouts": (lambda s: s.is_layer and bool(s.framework.layouts), "its framework says nothing of memory layouts"),
    "limited": (lambda s: hasattr(s.implementation, "limited"), "it offers no way to lower its iteration cap"),
    "trace": (
        lambda s: s.claims.iteration in ("picard", "mass-corrected") and hasattr(s.implementation, "traced"),
        "no iteration of a known rate is claimed, or it offers no trace",
    ),
    "splitting": (
        lambda s: s.claims.iteration in SPLITTINGS and s.claims.starts and hasattr(s.implementation, "traced"),
        "no operator splitting is claimed, or it takes no start or offers no trace",
    ),
    "traced": (lambda s: hasattr(s.implementation, "traced"), "it offers no trace"),
    "jvp": (lambda s: hasattr(s.implementation, "jvp"), "it offers no derivative along a tangent"),
    "second order": (
        lambda s: hasattr(s.implementation, "second_order") and not _whole(s),
        "it offers no derivative of its gradient, or is a whole layer, for which no oracle knows one",
    ),
    "cell": (
        lambda s: s.own_cell is None or s.own_cell.given,
        "its cell was not given, only the layer: pass cell=f to have this judged",
    ),
    "probe": (
        lambda s: not _whole(s),
        "a whole layer shows its own gradients alone, and the adjoint is none of them",
    ),
    "start gradient": (
        lambda s: hasattr(s.implementation, "start_gradient") and not _whole(s),
        "it shows no gradient in its start, or is a whole layer, for which no bound of one is known",
    ),
    "grid": (lambda s: s.claims.bits is not None, "it is not claimed that its weights are quantised"),
    "any weights": (
        lambda s: s.claims.bits is None,
        "its weights are quantised, which what this law does to A changes",
    ),
    "float64": (lambda s: s.dtype == "float64", "judged in float64 only"),
}
"""What a law may need of an implementation: how that is seen, and the sentence for when it is missing."""
