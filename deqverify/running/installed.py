"""What is installed of the packages that a verdict depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("deqverify", "hypothesis", "numpy", "scipy", "python-flint", "torch", "torchdeq")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a verdict depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
