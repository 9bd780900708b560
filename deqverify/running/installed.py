"""What is installed of the packages that a verdict depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from deqverify.implementations.loading import installed

FRAMEWORKS = ("numpy", "scipy", "torch", "jax", "jaxlib")
LIBRARIES = ("torchdeq", "deepinv", "torchopt", "xitorch", "jaxopt", "optimistix", "lineax", "equinox")
PACKAGES = ("deqverify", "hypothesis", "python-flint", *FRAMEWORKS, *LIBRARIES)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a verdict depends on, those of third parties' adapters among them."""
    found = {"python": platform.python_version()}
    found |= {point.dist.name: point.dist.version for point in installed().values() if point.dist}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
