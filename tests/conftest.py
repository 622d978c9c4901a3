"""What every test run has: one thread per process, one notebook at a time, and a guard against leaked global state."""

from __future__ import annotations

import os

import pytest

# Before torch is loaded: test processes are the parallelism.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure(config: pytest.Config) -> None:
    """Register plugins, so that they see the examples in docstrings and the notebooks too."""
    from tests.kernels import OneKernel
    from tests.leaks import LeakGuard

    config.pluginmanager.register(LeakGuard(), "leak-guard")
    config.pluginmanager.register(OneKernel(), "one-kernel")
