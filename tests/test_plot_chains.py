"""Pictures of how draws came about: chains and their ranks through ArviZ, and curves of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import bayesmeta as bm
from bayesmeta.draws import Draws
from bayesmeta.errors import NotAvailableError, OptionError, UnknownNameError
from bayesmeta.plot import elbo, rank, trace
from bayesmeta.plot.style import BLUE, LIGHT, RED
from tests.plot_records import check, record
from tests.plotted import COUNTS, levels, lines
from tests.truth import Array


@pytest.fixture(autouse=True)
def figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def chained(posterior: bm.Posterior, chains: int = 2) -> bm.Posterior:
    """The same draws as so many chains of NUTS."""
    u = posterior.draws.u
    cut = u.reshape(chains, -1, u.shape[-1])
    stats = {name: np.zeros(cut.shape[:2]) for name in ("energy", "diverging")}
    stats["diverging"] = stats["diverging"].astype(bool)
    draws = Draws(cut, stats)
    info = replace(posterior.info, effective_size=None)
    return bm.Posterior(posterior.hierarchy, posterior.tasks, posterior.collapsed, draws, info)


def trained(curves: dict[str, Array]) -> Draws:
    return Draws(torch.zeros(1, 4, 1, dtype=torch.float64), curves=curves)


# --- chains ---------------------------------------------------------------------------------------------------


def test_a_trace_is_the_draws_of_each_chain_in_their_order() -> None:
    posterior = chained(lines(85))
    panels = trace(posterior)
    left, right = (check(panel) for panel in panels[0])
    drawn = [line.y for line in right.of("line") if len(line.y) == 50]

    assert panels.shape == (5, 2)
    assert (left.xlabel, left.ylabel, right.xlabel, right.ylabel) == ("mu[0]", "density", "draw", "mu[0]")
    np.testing.assert_allclose(drawn, posterior.phi["mu"][:, 0].reshape(2, 50).numpy())
    assert panels[0, 0].figure._suptitle.get_text() == "a line for each chain"


def test_draws_that_form_no_chain_are_called_so() -> None:
    panels = trace(levels(3))

    assert panels[0, 0].figure._suptitle.get_text() == "independent draws, which form no chain"
    check(panels[1, 1])


@pytest.mark.parametrize("count", COUNTS)
def test_of_many_numbers_an_even_spread_is_drawn(count: int) -> None:
    posterior = chained(levels(count))
    panels = trace(posterior, level="theta")
    said = panels[0, 0].figure._suptitle.get_text()

    assert len(panels) == min(count, 8)
    assert record(panels[-1, 1]).ylabel == f"theta[{count - 1}]"
    assert (f"8 of {count:,} numbers, evenly spread" in said) == (count > 8)
    check(rank(posterior, level="theta")[0, 0])


def test_ranks_of_chains_that_differ_are_not_uniform() -> None:
    posterior = chained(levels(85))
    apart = bm.Posterior(
        posterior.hierarchy,
        posterior.tasks,
        posterior.collapsed,
        replace(posterior.draws, u=posterior.draws.u + torch.tensor([0.0, 9.0])[:, None, None]),
        posterior.info,
    )

    def tallest(one: bm.Posterior) -> float:
        panels = rank(one, sites="mu")
        assert record(panels[0, 0]).title == "mu"
        bars = [np.ptp(item.y) for item in check(panels[0, 0]).of("patch")]
        return max(bars) / float(np.mean(bars))

    assert tallest(apart) > tallest(posterior)


def test_chains_that_cannot_be_drawn_are_refused() -> None:
    posterior = levels(3)
    wrong: Any = "fi"

    with pytest.raises(NotAvailableError, match="the draws of 'laplace' are one chain, and ranks compare several"):
        rank(posterior)
    with pytest.raises(OptionError, match="unknown level 'fi'; valid: 'phi', 'theta'"):
        trace(posterior, level=wrong)
    with pytest.raises(UnknownNameError, match="unknown site 'sigma'; valid: 'mu', 'tau'"):
        trace(posterior, sites="sigma")
    with pytest.raises(NotAvailableError, match="there are 2 draws in a chain; a trace needs 4"):
        trace(chained(levels(3), 50))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("level", ["phi", "theta"])
def test_chains_are_drawn_in_axes_given(level: Literal["phi", "theta"]) -> None:
    _, panels = plt.subplots(1, 2)

    assert trace(levels(1), level=level, sites="mu" if level == "phi" else None, ax=panels)[0, 1] is panels[1]
    assert len(plt.get_fignums()) == 1


# --- training -------------------------------------------------------------------------------------------------


def test_the_elbo_is_drawn_with_what_smooths_it_and_its_first_cliff_is_cut_off() -> None:
    steps = np.arange(400.0)
    smooth = -10.0 - 1e5 * np.exp(-steps / 5)
    curves = {"elbo": smooth + np.sin(steps), "elbo_smooth": smooth, "elbo_slope": np.gradient(smooth)}
    panels = elbo(trained(curves))
    above, below = check(panels[0, 0], xlabel=False), check(panels[1, 0])

    np.testing.assert_allclose(above.of("line", BLUE, "smoothed")[0].y, smooth)
    np.testing.assert_allclose(above.of("line", LIGHT)[0].y, curves["elbo"])
    np.testing.assert_allclose(below.of("line", BLUE)[0].y, curves["elbo_slope"])
    assert -100 < above.ylim[0] < -10 < above.ylim[1]
    assert below.ylim[0] < 0 < below.ylim[1]
    assert (above.ylabel, below.xlabel, below.ylabel) == ("ELBO, nats", "step", "slope, nats per step")


def test_each_member_of_an_ensemble_is_a_line_and_steps_that_failed_are_gaps() -> None:
    values = np.linspace(-3, -1, 50)[:, None] + 0.1 * np.arange(4)
    values[7, 2] = np.nan
    watched = {"validation": values[::10], "looks": np.arange(0.0, 50, 10)}
    found = check(elbo(trained({"evidence": values, "learning_rate": np.ones(50), **watched}))[0, 0], xlabel=False)

    assert len(found.of("line", LIGHT)) == 4
    assert sorted(len(line.y) for line in found.of("line", LIGHT)) == [49, 50, 50, 50]
    assert len(found.of("line", RED, "tasks watched")[0].y) == 5
    assert found.ylabel == "log Z, nats per task"


def test_where_nothing_was_trained_there_is_no_curve() -> None:
    with pytest.raises(NotAvailableError, match="there is no curve of training: it is kept by"):
        elbo(levels(3))
    with pytest.raises(OptionError, match="got 1 axes for 2 panels"):
        elbo(trained({"evidence": np.zeros((5, 1))}), ax=[plt.subplots()[1]])
