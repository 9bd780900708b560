"""Cells that know a translation or an order of nodes or tokens: what is moved comes out moved."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flint import ctx

from tests.cell_examples import CELLS, NARROW, evaluated, mid, pairs, point, sample, to_balls

LEAST = 30
"""So many are tried at the least."""


def moved(name: str, at: Any, function: Callable[[Any], Any]) -> Any:
    """The point with its sites, nodes or tokens moved by ``function``, which acts on axis 1; a graph's matrix too."""
    theta = dict(at.theta)
    if name == "graph":
        theta["adjacency"] = function(function(theta["adjacency"][None])[0].T[None])[0].T
    return at._replace(theta=theta, x=function(at.x), z=function(at.z), cotangent=function(at.cotangent))


MOVES: dict[str, Callable[[Any], Any]] = {
    "conv": lambda v: np.roll(v, (1, 2), axis=(2, 3)),
    "graph": lambda v: np.roll(v[:, ::-1], 1, axis=1),
    "attention": lambda v: np.roll(v[:, ::-1], 1, axis=1),
}


@pytest.mark.parametrize("name", list(MOVES))
def test_moving_sites_nodes_or_tokens_moves_the_answer(name: str) -> None:
    cell, move, moving = CELLS[name], MOVES[name], 0
    # As many as it takes until ten are seen to move: one image or node alone does not, and a seed draws in clusters.
    for noise, drawn in enumerate(itertools.chain.from_iterable(sample(name, number=number) for number in range(5))):
        with ctx.workprec(200):
            at = point(cell, drawn, noise).mapped(to_balls)
            plain, after = evaluated(cell, at), evaluated(cell, moved(name, at, move))
            for part in ("step", "pull x", "pull z"):
                for one, other in pairs(after[part], move(plain[part])):
                    assert one.overlaps(other)
                    assert float((one - other).rad()) <= NARROW * (1.0 + np.abs(mid(plain[part])).max())
            moving += not all(one.overlaps(other) for one, other in pairs(after["step"], plain["step"]))
        if noise + 1 >= LEAST and moving >= 10:
            return
    pytest.fail("moving must change something")
