"""What is public stands in one place, and a page has a line for each name."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import deqverify

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PUBLIC_PACKAGES = {"cells", "losses", "reference", "strategies"}


def test_the_page_has_one_line_for_each_public_name() -> None:
    listed = re.findall(r"^\| `(\w+)` \| \S.*\|$", PAGE, flags=re.MULTILINE)
    assert sorted(listed) == deqverify.__all__


ALL_OF_THEM = """
import importlib, pkgutil, types
import deqverify

def public():
    found = {}
    for name in deqverify.__all__:
        try:
            found[name] = getattr(deqverify, name)
        except ModuleNotFoundError as error:  # a framework that is not installed
            if (error.name or "deqverify").startswith("deqverify"):
                raise
    return found

first = public()
for module in pkgutil.walk_packages(deqverify.__path__, "deqverify."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # a library of which this is the adapter
            if (error.name or "deqverify").startswith("deqverify"):
                raise
again = public()
print([name for name in first if first[name] is not again[name]])
print(sorted(name for name, found in again.items() if isinstance(found, types.ModuleType)))
"""


def test_a_public_name_is_no_module_that_hides_it_once_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", ALL_OF_THEM], capture_output=True, text=True, check=True)
    hidden, packages = map(ast.literal_eval, done.stdout.splitlines()[-2:])
    assert hidden == []
    assert set(packages) == PUBLIC_PACKAGES


def test_each_package_says_whether_it_is_private() -> None:
    packages = [module.name for module in pkgutil.walk_packages(deqverify.__path__, "deqverify.") if module.ispkg]
    assert "deqverify.running" in packages
    for name in [*packages, "deqverify.properties"]:
        said = importlib.import_module(name).__doc__ or ""
        public = name.removeprefix("deqverify.") in PUBLIC_PACKAGES
        assert ("\n\nPublic: what ``__all__`` lists.\n" in f"{said}\n") == public, name
        assert ("\n\nPrivate: what of it is public stands in ``deqverify`` itself.\n" in f"{said}\n") != public, name
        assert not public or importlib.import_module(name).__all__


def test_the_examples_of_the_documentation_use_what_is_public() -> None:
    """But for the page that shows how a cell is added, which is a file of ours."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        if page.name == "add-a-cell.md":
            continue
        for snippet in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for node in ast.walk(ast.parse(snippet)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deqverify"):
                    assert node.module == "deqverify", f"{page.name}: from {node.module}"
                    assert {alias.name for alias in node.names} <= set(deqverify.__all__)
