"""Names as they were given, and those that are known: which one is meant, and which may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


def near(name: str, known: Mapping[str, object]) -> list[str]:
    """Names that may be meant by ``name``, at most three."""
    return get_close_matches(name, known, n=3) or list(known)[:3]


def the_one(kind: str, names: Sequence[str], known: Mapping[str, T]) -> T:
    """That of ``known`` which the target ``kind[…]`` with the options ``names`` means.

    ValueError, with near matches, for no name, for several, and for one that is not known.
    """
    if len(names) != 1 or names[0] not in known:
        first, *others = near(names[0] if len(names) == 1 else "", known)
        examples = f"{kind}[{first}]{' or ' if others else ''}{', '.join(others)}"
        given = f"got {', '.join(names)}" if names else "none is given"
        raise ValueError(f"{kind}: name one of the {len(known)}, as {examples}; {given}")
    return known[names[0]]
