"""Targets that misbehave in every way that a target can, for the tests of the running layer."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
import unittest
from pathlib import Path
from typing import Any

import pytest

from deqverify.implementations.protocol import Solution, Status
from deqverify.reference.torch_direct import TorchDirect


class _Misbehaving(TorchDirect):
    def __init__(self) -> None:
        self.name = type(self).__name__

    def misbehave(self) -> None:
        raise NotImplementedError

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        self.misbehave()
        return super().equilibrium(cell, theta, x, z0)


class Raising(_Misbehaving):
    def misbehave(self) -> None:
        raise ArithmeticError("no such equilibrium")


class Exiting(_Misbehaving):
    def misbehave(self) -> None:
        sys.exit(3)


class Skipping(_Misbehaving):
    def misbehave(self) -> None:
        raise unittest.SkipTest("not today")


class PytestSkipping(_Misbehaving):
    def misbehave(self) -> None:
        pytest.skip("not today")


class Hanging(_Misbehaving):
    def misbehave(self) -> None:
        while True:
            time.sleep(0.01)


class HangingHard(_Misbehaving):
    """Swallows the clock's exception, as a loop in C would."""

    def misbehave(self) -> None:
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(0.01)


class Dying(_Misbehaving):
    def misbehave(self) -> None:
        ctypes.string_at(0)


class Printing(_Misbehaving):
    def misbehave(self) -> None:
        print(f"hello from the target, {os.environ.get('OPENBLAS_CORETYPE', 'on this processor')}")


class WrongShape(TorchDirect):
    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        solution = super().equilibrium(cell, theta, x, z0)
        solution.z = solution.z.sum(dim=0)
        return solution


def sound() -> TorchDirect:
    return TorchDirect()


class Sleeping(TorchDirect):
    """Sound; its first call in a process sleeps, after its process id was written into the folder, until the time is
    over or there is a file "awake" in that folder.

    Stands for work that needs a worker for some time and no processor.
    """

    def __init__(self, seconds: str, folder: str = ""):
        self._seconds, self._folder = float(seconds), folder

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        if self._folder:
            (Path(self._folder) / f"{os.getpid()}").touch()
        until = time.monotonic() + self._seconds
        while (left := until - time.monotonic()) > 0 and not (self._folder and Path(self._folder, "awake").exists()):
            time.sleep(min(left, 0.1))
        self._seconds = 0.0
        return super().equilibrium(cell, theta, x, z0)


def broken_factory() -> TorchDirect:
    raise RuntimeError("no licence")


def solve(step: Any, z0: Any) -> Solution:
    """A user's own solver as a plain function: unrolled, long enough for its gradient to converge too."""
    z = z0
    for _ in range(400):
        z = step(z)
    near = (step(z) - z).norm(dim=1) <= 1e-12 * z.norm(dim=1)
    return Solution(z, Status.CONVERGED if bool(near.all()) else Status.CAPPED)


not_a_deq = 42
