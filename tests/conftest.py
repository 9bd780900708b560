"""For all tests: what they draw does not depend on the modules that are loaded, nor on their order; and a browser."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from deqverify.running.compiling import kept_compiled
from deqverify.seeding import without_local_constants


def pytest_configure(config: pytest.Config) -> None:
    os.environ.update(kept_compiled())  # compiled by one worker of pytest, found by the other
    stack = ExitStack()
    stack.enter_context(without_local_constants())
    config.add_cleanup(stack.close)


@pytest.fixture(autouse=True)
def _width_of_jax() -> Iterator[None]:
    """JAX keeps 64 bits switched on for the whole process: the next test finds them as this one did."""
    before = sys.modules["jax"].config.jax_enable_x64 if "jax" in sys.modules else False
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_x64", before)


PATIENCE = 300_000
"""Milliseconds: what is asked is whether a page is readable, and not how soon on a loaded machine."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window; the tests that need it are skipped where it, or what drives it, is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'deqverify[browser]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # No sandbox: containers run as root. The pages are our own.
        running = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=PATIENCE)
        yield running
        running.close()
