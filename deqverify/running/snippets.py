"""The lines that a violation's snippet begins with: where its target is found again, from any folder."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deqverify.implementations.loading import TargetError, parse


def finding_target(target: str) -> list[str]:
    """What lets ``target`` be imported: nothing, unless it is a module of one's own beside one's work."""
    try:
        name = parse(target).name
    except TargetError:
        return []
    return finding_module(name.partition(":")[0]) if ":" in name else []


def finding_object(deq: Any) -> list[str]:
    """What makes ``deq`` the object given to ``check_deq``: an import where a module holds it, else a clear error."""
    module, name = _place(deq)
    if module == "__main__" and (script := _guarded_script()):
        path = f"import runpy, sys; sys.path.insert(0, {str(script.parent)!r})"
        return [path, "", f'deq = runpy.run_path({str(script)!r})["{name}"]', ""]
    if module in (None, "__main__"):
        what = getattr(deq, "__name__", type(deq).__name__)
        return [f'assert "deq" in globals(), "define deq first: the object given to check_deq, {what}"', ""]
    return [*finding_module(str(module)), f"from {module} import {name}{'' if name == 'deq' else ' as deq'}", ""]


def _place(deq: Any) -> tuple[str | None, str]:
    """The module that holds ``deq`` and its name there, the module of its definition first; (None, "") for none."""
    own = getattr(deq, "__module__", None), type(deq).__module__
    others = (module for module in list(sys.modules) if module not in (*own, "__main__", "__mp_main__"))
    for module in (*own, *others, "__main__"):
        names = getattr(sys.modules.get(str(module)), "__dict__", {})
        for name, value in list(names.items()):
            if value is deq and isinstance(name, str) and name.isidentifier():
                return str(module), name
    return None, ""


def _guarded_script() -> Path | None:
    """The script that is running, if running it again under another name only defines things."""
    try:
        script = Path(sys.modules["__main__"].__file__ or "").resolve()
        return script if "__main__" in script.read_text(encoding="utf-8") else None
    except (AttributeError, OSError, UnicodeDecodeError):  # a notebook, a prompt, -c
        return None


def finding_module(module: str) -> list[str]:
    """A line that puts the folder of ``module`` on the path, unless it is installed and found from anywhere."""
    top = module.partition(".")[0]
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    places = [Path(place).parent for place in (spec and spec.submodule_search_locations) or ()]
    if spec and spec.has_location and spec.origin and not places:
        places = [Path(spec.origin).parent]
    if not places or top in _distributed():
        return []
    folder = places[0].resolve()
    if any(folder.is_relative_to(Path(home).resolve()) for home in sysconfig.get_paths().values()):
        return []
    return [f"import sys; sys.path.insert(0, {str(folder)!r})", ""]


@cache
def _distributed() -> frozenset[str]:
    """The modules of installed distributions, those installed in place among them."""
    return frozenset(packages_distributions())
