"""What the tests draw does not depend on the modules that are loaded, nor on their order."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from deqverify.seeding import without_local_constants


def pytest_configure(config: pytest.Config) -> None:
    stack = ExitStack()
    stack.enter_context(without_local_constants())
    config.add_cleanup(stack.close)
