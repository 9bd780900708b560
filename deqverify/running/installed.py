"""What is installed of the packages that a verdict depends on, this one's sources among them."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from deqverify.implementations.loading import installed

FRAMEWORKS = ("numpy", "scipy", "torch", "jax", "jaxlib")
LIBRARIES = ("torchdeq", "torchopt", "xitorch", "jaxopt", "optimistix", "lineax", "equinox")
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


def fingerprint() -> str:
    """A digest of the suite's own sources, laws included: measurements of one bound say nothing of another."""
    digest = hashlib.sha256()
    for package in ("deqverify", "deqverify.properties"):
        root = Path(str(files(package)))
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
