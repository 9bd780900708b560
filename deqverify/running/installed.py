"""What is installed of the packages that a verdict depends on, this one's sources among them."""

from __future__ import annotations

import hashlib
import inspect
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from deqverify.implementations.loading import installed
from deqverify.registry import entry_points_of_laws, laws

FRAMEWORKS = ("numpy", "scipy", "torch", "jax", "jaxlib")
LIBRARIES = ("torchdeq", "deepinv", "torchopt", "xitorch", "jaxopt", "optimistix", "lineax", "equinox")
PACKAGES = ("deqverify", "hypothesis", "python-flint", *FRAMEWORKS, *LIBRARIES)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a verdict depends on, those with adapters or laws of others among
    them."""
    found = {"python": platform.python_version()}
    points = (*installed().values(), *entry_points_of_laws())
    found |= {point.dist.name: point.dist.version for point in points if point.dist}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def fingerprint() -> str:
    """A digest of the suite's own sources and of all laws': measurements of one bound say nothing of another."""
    digest = hashlib.sha256()
    for package in ("deqverify", "deqverify.properties"):
        root = Path(str(files(package)))
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}".encode() + path.read_bytes())
    others = {law.home: Path(inspect.getfile(law.body)) for law in laws().values() if not law.ours}
    for home, path in sorted(others.items()):
        digest.update(home.encode() + (path.read_bytes() if path.is_file() else b""))  # a notebook has no file
    return digest.hexdigest()[:12]
