"""Claims as options of a target: ``mine:solve[rtol=1e-6,atol=0,backward=none]``, for what has nowhere else to say
them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from deqverify.claims import Accuracy, Claims

_NUMBERS = ("rtol", "atol", "eps")
_RULE = (*_NUMBERS, "per", "norm", "of")
_LISTS = ("dtypes", "devices")
_DEVICES = ("cpu", "cuda")
_DIFFERENTIATED = ("torch", "jax")
_FLAGS = tuple(field.name for field in fields(Claims) if isinstance(field.default, bool))
_WORDS = {"yes": True, "true": True, "no": False, "false": False}
BACKWARD = "backward."
"""Begins the keys of a rule for the backward pass that is another one than the forward pass's."""

FRAMEWORK = "framework"
"""The option that says whose arrays a plain function works on; not a claim."""

KEYS = (*_RULE, "backward", *(BACKWARD + key for key in _RULE), *_LISTS, *_FLAGS, FRAMEWORK)
"""Every key. The accuracies hold for both passes, as long as no key of the backward pass says otherwise."""


def claimed(options: Sequence[str], start: Claims) -> Claims:
    """``start`` with what ``options`` (``key=value``) say; ``rtol`` or ``atol`` takes the place of both tolerances.

    ValueError, with the key and what it takes, for an unknown one, one that comes twice, or a bad value.
    """
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = (part.strip() for part in option.partition("="))
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"there is no option {key!r}{meant}; a function takes its claims: {', '.join(KEYS)}")
        if not equals or not value:
            raise ValueError(f"{key}: takes a value, as in {_example(key)}")
        if key in given:
            raise ValueError(f"{key}: is given twice")
        given[key] = value
    if given.get(FRAMEWORK, "torch") not in _DIFFERENTIATED:
        known = " or ".join(_DIFFERENTIATED)
        raise ValueError(f"framework: takes {known}, which differentiate a function, got {given[FRAMEWORK]!r}")
    changes: dict[str, Any] = {key: _flag(key, given[key]) for key in _FLAGS if key in given}
    changes |= {key: tuple(given[key].split("+")) for key in _LISTS if key in given}
    for device in changes.get("devices", ()):
        if device not in _DEVICES:
            raise ValueError(f"devices: takes some of {' and '.join(_DEVICES)}, joined by +, got {device!r}")
    shared = {key: given[key] for key in _RULE if key in given}
    changes["forward"] = _rule(shared, start.forward, "")
    changes["backward"] = _backward(given, shared, start)
    return replace(start, **changes)


def framework_of(options: Sequence[str]) -> str:
    """The framework that ``options`` name for a plain function, PyTorch where they name none."""
    pairs = [option.partition("=") for option in options]
    named = [value.strip() for key, _, value in pairs if key.strip() == FRAMEWORK]
    return named[0] if named else "torch"


def _backward(given: dict[str, str], shared: dict[str, str], start: Claims) -> Accuracy | None:
    own = {key.removeprefix(BACKWARD): value for key, value in given.items() if key.startswith(BACKWARD)}
    if "backward" in given:
        if given["backward"] != "none":
            raise ValueError(f"backward: takes none, for a forward pass alone, got {given['backward']!r}")
        if own:
            raise ValueError(f"backward=none: contradicts {BACKWARD}{next(iter(own))}; leave one of them out")
        return None
    if start.backward is None and not own:
        return None
    return _rule(own, _rule(shared, start.backward or start.forward, ""), BACKWARD)


def _rule(given: dict[str, str], start: Accuracy, prefix: str) -> Accuracy:
    changes: dict[str, Any] = {"rtol": 0.0, "atol": 0.0} if {"rtol", "atol"} & set(given) else {}
    for key, value in given.items():
        changes[key] = _number(prefix + key, value) if key in _NUMBERS else value
    try:
        return replace(start, **changes)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{key}: takes a number, as in {key}=1e-6, got {value!r}") from None


def _flag(key: str, value: str) -> bool:
    if value not in _WORDS:
        raise ValueError(f"{key}: takes yes or no, got {value!r}")
    return _WORDS[value]


_EXAMPLES = {
    "per": "batch",
    "norm": "rms",
    "of": "value",
    "backward": "none",
    "dtypes": "float64+float32",
    "devices": "cpu+cuda",
    FRAMEWORK: "jax",
}


def _example(key: str) -> str:
    plain = key.removeprefix(BACKWARD)
    return f"{key}={_EXAMPLES.get(plain, '1e-6' if plain in _NUMBERS else 'no')}"
