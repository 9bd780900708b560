"""Who takes part: every installed target, and plain baselines and libraries through a few lines each."""

from __future__ import annotations

from importlib import import_module

from deqverify.benchmarking import targets
from deqverify.benchmarking.contenders import Contender
from deqverify.implementations.loading import installed

VARIANTS = {
    "reference": (
        "reference",
        "reference[numpy]",
        "reference[mass]",
        "reference[picard]",
        "reference[fast]",
    ),
    "torchdeq": ("torchdeq[ift]", "torchdeq[ift,anderson]", "torchdeq[ift,broyden]"),
}
"""Options that an installed name takes part with; a name that is not listed takes part as it is."""

BASELINES = {
    "torch-solve": "baselines_torch",
    "torch-unrolled": "baselines_torch",
    "xitorch[broyden1]": "baselines_torch",
    "xitorch[anderson]": "baselines_torch",
    "jax-solve": "baselines_jax",
    "jaxopt[picard]": "baselines_jax",
    "jaxopt[anderson]": "baselines_jax",
    "optimistix[picard]": "baselines_jax",
    "scipy-root[anderson]": "baselines_numpy",
    "scipy-root[krylov]": "baselines_numpy",
    "scipy-fixed-point": "baselines_numpy",
    "scipy-gmres": "baselines_numpy",
}
"""Names, and the module beside this one that makes each; written out, so that listing imports no library."""


def fixed_names() -> tuple[str, ...]:
    """This project's own names: they depend on nothing installed, as the parameters of a benchmark must not."""
    return (*(name for names in VARIANTS.values() for name in names), *BASELINES)


def names() -> tuple[str, ...]:
    """All who can take part here: the fixed names and every installed target of a third party."""
    return (*fixed_names(), *(name for name in sorted(installed()) if name not in VARIANTS))


def contender(name: str) -> Contender:
    """The contender ``name``: a baseline, or any target that ``deqverify run`` takes. Unavailable where a target can't
    be loaded."""
    if name in BASELINES:
        found: Contender = import_module(f"deqverify.benchmarking.{BASELINES[name]}").contender(name)
        return found
    return targets.contender(name)
