"""What every test run has: one thread per process, and a guard against leaked global state."""

from __future__ import annotations

import os

import pytest

# Before torch is loaded: test processes are the parallelism.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure(config: pytest.Config) -> None:
    """Register the guard as a plugin, so that it watches the examples in docstrings too."""
    from tests.leaks import LeakGuard

    config.pluginmanager.register(LeakGuard(), "leak-guard")
