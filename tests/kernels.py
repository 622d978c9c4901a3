"""One notebook at a time: kernels that start side by side may choose the same free ports, and one of them dies."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

__all__ = ["OneKernel"]

LOCK = Path(tempfile.gettempdir()) / f"bayesmeta-notebooks-{os.getuid()}.lock"


class OneKernel:
    """Processes of a test run wait for each other's notebooks."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Hold the lock while a notebook runs."""
        if item.path.suffix != ".ipynb":
            return (yield)
        with LOCK.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            return (yield)
