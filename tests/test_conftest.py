"""The guards of the test run can fail: each leak is caught, and a wrong shape is."""

from __future__ import annotations

# Loaded here, because an inner run forgets what it was the first to load, and torch cannot be loaded twice.
import matplotlib  # noqa: F401
import numpy  # noqa: F401
import pyro  # noqa: F401
import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from tests.leaks import STATES
from tests.shape_check import check

PREAMBLE = """
import os, numpy, pytest, torch, pyro, matplotlib
"""

LEAKS = {
    "the working directory": "os.chdir('/')",
    "numpy's random state": "numpy.random.rand()",
    "torch's random state": "torch.rand(())",
    "torch's default dtype": "torch.set_default_dtype(torch.float64)",
    "torch's default device": "torch.set_default_device('meta')",
    "torch's number of threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch's grad mode": "torch.set_grad_enabled(False)",
    "the validation default of torch.distributions": (
        "torch.distributions.Distribution.set_default_validate_args(False)"
    ),
    "Pyro's settings": "pyro.enable_validation(False)",
    "Pyro's param store": "pyro.param('leaked', torch.zeros(()))",
    "matplotlib's rcParams": "matplotlib.rcParams['lines.linewidth'] = 7.0",
}


@pytest.fixture
def guarded(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty test run with the same guard, in this process."""
    pytester.makeconftest(
        """
        from tests import leaks

        def pytest_configure(config):
            config.addinivalue_line("markers", "changes_rng: may draw")
            config.pluginmanager.register(leaks.LeakGuard(), "inner-guard")
        """
    )
    return pytester


def test_every_state_has_a_leak_to_show() -> None:
    assert {state.name for state in STATES} == set(LEAKS)


@pytest.mark.parametrize("state", LEAKS)
def test_a_leak_fails_the_test_that_made_it(guarded: pytest.Pytester, state: str) -> None:
    guarded.makepyfile(f"{PREAMBLE}\ndef test_leaks():\n    {LEAKS[state]}\n\ndef test_after():\n    pass\n")

    result = guarded.runpytest_inprocess("-p", "no:cacheprovider")

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines([f"*test_leaks changed*{state}*"])


def test_a_leak_of_a_fixture_is_caught(guarded: pytest.Pytester) -> None:
    guarded.makepyfile(
        f"{PREAMBLE}\n"
        "@pytest.fixture(scope='module')\ndef drawn():\n    return torch.rand(())\n\n"
        "def test_leaks(drawn):\n    pass\n"
    )

    guarded.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1, errors=1)


@pytest.mark.changes_rng  # the inner test that is marked does draw
def test_a_test_that_restores_passes(guarded: pytest.Pytester) -> None:
    guarded.makepyfile(
        f"{PREAMBLE}\n"
        "def test_restores(monkeypatch, tmp_path):\n"
        "    monkeypatch.chdir(tmp_path)\n"
        "    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):\n"
        "        torch.rand(())\n\n"
        "@pytest.mark.changes_rng\ndef test_may_draw():\n    torch.rand(())\n"
    )

    guarded.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_wrong_shapes_are_caught() -> None:
    @jaxtyped(typechecker=check)
    def total(x: Float[Tensor, "T n"], name: str = "") -> Float[Tensor, " T"]:
        return x.sum(0) if name == "wrong" else x.sum(1)

    assert total(torch.ones(2, 3)).shape == (2,)
    with pytest.raises(TypeCheckError, match="parameters"):
        total(torch.ones(2))
    with pytest.raises(TypeCheckError, match="return value"):
        total(torch.ones(2, 3), name="wrong")


def test_only_shapes_are_checked() -> None:
    @jaxtyped(typechecker=check)
    def scaled(x: Float[Tensor, " n"], factor: float) -> Float[Tensor, " n"]:
        return x * factor

    assert torch.equal(scaled(torch.ones(2), 2), torch.full((2,), 2.0))
