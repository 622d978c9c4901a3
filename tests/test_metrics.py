"""Scores against closed forms; a wrong prediction is found out, and a right one has the calibration of its floor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

import bayesmeta as bm
from bayesmeta.diagnose.metrics import score, score_table
from bayesmeta.errors import DataError, NotAvailableError, OptionError
from tests.scenarios import SCENARIOS


@dataclass(frozen=True)
class Level:
    """Tasks whose observations are level + N(0, 1), the level known only to N(0, shared²): correlated in a task."""

    tasks: int = 60
    m: int = 5
    shared: float = 1.0
    claimed: float = 1.0
    exact: bool = True

    @property
    def mean(self) -> Tensor:
        return torch.zeros(self.tasks, self.m, dtype=torch.float64)

    @property
    def _sd(self) -> float:
        return self.claimed * math.sqrt(1 + self.shared**2)

    def _normal(self) -> torch.distributions.Normal:
        return torch.distributions.Normal(self.mean, self._sd)

    def quantile(self, q: Any) -> Tensor:
        return torch.stack([self._normal().icdf(torch.tensor(level).double()) for level in q])

    def cdf(self, y: Any) -> Tensor:
        if not self.exact:
            raise NotAvailableError("by draws")
        below: Tensor = self._normal().cdf(y)
        return below

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed + 17)
        level = self.shared * torch.randn(n, self.tasks, 1, generator=generator, dtype=torch.float64)
        noise = torch.randn(n, self.tasks, self.m, generator=generator, dtype=torch.float64)
        return self.claimed * (level + noise)

    def log_prob(self, y: Any, *, pointwise: bool = False) -> Tensor:
        each: Tensor = self._normal().log_prob(y)
        if pointwise:
            return each
        covariance = self.claimed**2 * (torch.eye(self.m) + self.shared**2 * torch.ones(self.m, self.m)).double()
        together: Tensor = torch.distributions.MultivariateNormal(torch.zeros(self.m).double(), covariance).log_prob(y)
        return together


def _data(right: Level, seed: int) -> Tensor:
    return right.sample(1, seed=1000 + seed)[0]


def test_the_table_has_the_averages_and_their_errors_over_tasks() -> None:
    right = Level()
    y = _data(right, 1)

    result = score(right, y, level=0.8)

    sd = math.sqrt(2)
    z = y / sd
    nll = 0.5 * z**2 + math.log(sd) + 0.5 * math.log(2 * math.pi)
    table = result.table
    assert result["nll"] == pytest.approx(float(nll.mean()))
    assert result["nll_joint"] == pytest.approx(float(-right.log_prob(y).mean() / 5))
    assert result["rmse"] == pytest.approx(float(y.square().mean().sqrt()))
    assert result["coverage"] == pytest.approx(float((z.abs() < 1.2815515655446004).double().mean()))
    assert result["width"] == pytest.approx(2 * 1.2815515655446004 * sd)
    expected = float(nll.mean(1).std() / math.sqrt(60))
    assert table["standard_error"]["nll"] == pytest.approx(expected)
    assert table["perfect"]["coverage"] == 0.8
    assert list(result.per_task.columns) == ["n", "nll", "nll_joint", "crps", "mse", "coverage", "width"]
    assert torch.allclose(result.pit, torch.special.ndtr(z).reshape(-1))


def test_ragged_tasks_count_by_their_observations() -> None:
    """Against the mean and the cluster-robust error of the pooled observations."""
    right = Level(tasks=3, m=2)
    y = torch.tensor([[1.0, 2.0], [3.0, math.nan], [0.5, -1.0]], dtype=torch.float64)

    class Ragged:
        names = ("a", "b", "c")
        mean = torch.where(torch.isnan(y), math.nan, 0.0)
        quantile = staticmethod(right.quantile)
        sample = staticmethod(right.sample)

        @staticmethod
        def log_prob(values: Any, *, pointwise: bool = False) -> Tensor:
            return right.log_prob(torch.nan_to_num(y), pointwise=pointwise)

    result = score(Ragged(), [[1.0, 2.0], [3.0], [0.5, -1.0]])

    errors = np.array([[1.0, 2.0], [3.0, np.nan], [0.5, -1.0]]) ** 2
    mean = np.nanmean(errors)
    totals = np.nansum(errors - mean, axis=1)
    assert result["rmse"] == pytest.approx(math.sqrt(mean))
    expected = math.sqrt((totals**2).sum() * 3 / 2) / 5 / (2 * math.sqrt(mean))
    assert result.table["standard_error"]["rmse"] == pytest.approx(expected)
    assert list(result.per_task["n"]) == [2, 1, 2]


def test_standard_errors_are_those_of_repetitions() -> None:
    """With observations that agree within a task, an error over observations would be 2 times too small."""
    right = Level(tasks=40, m=8, shared=2.0)

    results = [score(right, _data(right, k), draws=20).table for k in range(60)]

    for metric in ("nll", "coverage", "crps", "rmse"):
        values = np.array([table["value"][metric] for table in results], dtype=float)
        claimed = np.array([table["standard_error"][metric] for table in results], dtype=float)
        ratio = math.sqrt(float((claimed**2).mean())) / values.std(ddof=1)
        assert 0.7 < ratio < 1.4, (metric, ratio)


def test_crps_by_draws_is_the_closed_form_up_to_their_number() -> None:
    """Over repetitions of the draws, which have a standard error of their own."""
    right = Level(tasks=200, m=5)
    y = _data(right, 2)

    found = torch.tensor([score(right, y, draws=100, seed=seed)["crps"] for seed in range(20)])

    assert abs(float(found.mean()) - _closed_form(y, math.sqrt(2))) < 4 * float(found.std()) / math.sqrt(20)


def _closed_form(y: Tensor, sd: float) -> float:
    z = y / sd
    density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    return float((sd * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))).mean())


@pytest.mark.parametrize("exact", [True, False])
def test_a_right_prediction_has_the_calibration_error_of_its_floor(exact: bool) -> None:
    """Over repetitions, with observations that agree within tasks; a claim of a third of the spread is found out."""
    right = Level(tasks=25, m=8, exact=exact)
    results = [score(right, _data(right, k), draws=200) for k in range(40)]
    errors = torch.tensor([one.ece for one in results])
    floor, spread = results[0].ece_floor, results[0].ece_spread

    assert abs(float(errors.mean()) - floor) < 4 * float(errors.std()) / math.sqrt(40)
    assert 0.6 < float(errors.std()) / spread < 1.6

    bold = score(replace(right, claimed=0.3), _data(right, 0), draws=200)
    assert bold.ece > bold.ece_floor + 4 * bold.ece_spread


def test_the_floor_knows_that_observations_of_a_task_agree() -> None:
    alone, together = Level(tasks=25, m=8, shared=0.0), Level(tasks=25, m=8, shared=3.0)

    floors = [score(one, _data(one, 0), draws=200).ece_floor for one in (alone, together)]

    assert floors[1] > 1.5 * floors[0]


def _coins(count: int, bias: float, seed: int) -> tuple[Any, Tensor]:
    """Probabilities and outcomes; the prediction is off by `bias` on the logit scale."""
    generator = torch.Generator().manual_seed(seed)
    probability = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    y = torch.bernoulli(torch.sigmoid(torch.logit(probability) + bias), generator=generator)

    class Coins:
        mean = probability

        @staticmethod
        def quantile(q: Any) -> Tensor:
            return torch.stack([(probability > 1 - level).double() for level in q])

        @staticmethod
        def sample(n: int = 1000, seed: int = 0) -> Tensor:
            own = torch.Generator().manual_seed(seed)
            return torch.bernoulli(probability.expand(n, -1, -1), generator=own)

        @staticmethod
        def log_prob(y: Any, *, pointwise: bool = False) -> Tensor:
            values: Tensor = torch.distributions.Bernoulli(probability).log_prob(y)
            return values if pointwise else values.sum(1)

    return Coins(), y


def test_probabilities_have_the_binned_error_and_its_floor() -> None:
    """A perfect model of 500 predictions has an error of some .05 in 15 bins, one of 3,000 of .02."""
    small, large = (score(*_coins(count, 0.0, 5), draws=1000) for count in (500, 3000))
    wrong = score(*_coins(3000, 1.0, 5), draws=1000)

    assert small.ece < small.ece_floor + 4 * small.ece_spread
    assert large.ece < large.ece_floor + 4 * large.ece_spread
    assert 0.03 < small.ece_floor < 0.07
    assert small.ece_floor / large.ece_floor == pytest.approx(math.sqrt(6), rel=0.2)
    assert wrong.ece > wrong.ece_floor + 10 * wrong.ece_spread


@dataclass(frozen=True)
class Counts:
    """Independent counts, said to have that rate."""

    rate: float
    size: int

    @property
    def mean(self) -> Tensor:
        return torch.full((self.size, 1), self.rate, dtype=torch.float64)

    def quantile(self, q: Any) -> Tensor:
        return torch.stack([torch.as_tensor(stats.poisson(self.rate).ppf(level)).expand(self.size, 1) for level in q])

    def sample(self, n: int = 1000, seed: int = 0) -> Tensor:
        return torch.poisson(self.mean.expand(n, -1, -1), generator=torch.Generator().manual_seed(seed))

    def log_prob(self, y: Any, *, pointwise: bool = False) -> Tensor:
        values: Tensor = torch.distributions.Poisson(self.mean).log_prob(y)
        return values if pointwise else values.sum(1)


def test_pit_of_discrete_observations_is_uniform_too() -> None:
    right = Counts(1.3, 3000)
    result = score(right, right.sample(1, seed=1)[0], draws=400)

    gap = (result.pit.sort().values - (torch.arange(3000) + 0.5) / 3000).abs().max()
    assert float(gap) < 1.95 / math.sqrt(3000)  # Kolmogorov-Smirnov at 1 in 1,000
    assert result.ece < result.ece_floor + 4 * result.ece_spread


@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_the_floor_of_counts_is_what_right_predictions_have(rate: float) -> None:
    right = Counts(rate, 200)
    found = [score(right, right.sample(1, seed=seed)[0], draws=200, seed=seed) for seed in range(100, 130)]
    errors = np.array([one.ece for one in found])
    wrong = score(right, Counts(1.5 * rate, 200).sample(1, seed=7)[0], draws=200)

    assert found[0].ece_floor == pytest.approx(errors.mean(), abs=4 * errors.std() / math.sqrt(30))
    assert wrong.ece > wrong.ece_floor + 3 * wrong.ece_spread
    spread = found[0].reference[:, 49].std()  # type: ignore[index]
    assert float(spread) == pytest.approx(math.sqrt(0.25 / 200), rel=0.2)


def test_intervals_of_counts_hold_more_than_their_level() -> None:
    right = Counts(0.5, 2000)
    found = score(right, right.sample(1, seed=1)[0])
    lower, upper = stats.poisson(0.5).ppf([0.05, 0.95])
    promised = stats.poisson(0.5).cdf(upper) - stats.poisson(0.5).cdf(lower - 1)

    assert found.table.loc["coverage", "perfect"] == pytest.approx(promised, abs=0.002)
    assert found["coverage"] == pytest.approx(promised, abs=4 * math.sqrt(promised * (1 - promised) / 2000))
    assert score(Level(), _data(Level(), 3)).table.loc["coverage", "perfect"] == 0.9


def test_a_paired_difference_is_sharper_than_two_errors() -> None:
    right = Level()
    y = _data(right, 3)
    good, bold = score(right, y), score(replace(right, claimed=0.7), y)

    table = bold.minus(good)
    difference, error = (table[name].to_dict() for name in ("difference", "standard_error"))

    assert difference["nll"] == pytest.approx(bold["nll"] - good["nll"])
    assert difference["nll"] > 2 * error["nll"]
    assert error["mse"] == 0.0
    with pytest.raises(DataError, match="different tasks or observations"):
        good.minus(score(Level(tasks=59), y[:59]))


def test_learners_side_by_side() -> None:
    right = Level()
    y = _data(right, 3)

    table = score_table({"right": score(right, y), "bold": score(replace(right, claimed=0.5), y)}, ("nll", "ece"))

    assert list(table.index) == ["right", "bold"]
    assert list(table.columns) == ["nll", "nll_se", "ece", "ece_se"]
    assert isinstance(table, pd.DataFrame)


def test_a_posterior_predictive_is_scored_as_it_is() -> None:
    """Exact by mixtures of normals; without them, by draws, the same up to their number."""
    scenario = SCENARIOS["correlated"]()
    posterior = bm.fit(scenario.hierarchy, scenario.tasks, bm.Laplace(), progress=False)
    renamed = posterior.tasks[:6].with_names([f"new {k}" for k in range(6)])
    support, query = renamed.split(1, seed=1)
    predictive = posterior.adapt(support, draws=60).predict(query)
    result = score(predictive, query)

    class ByDraws:
        names, mean = predictive.names, predictive.mean
        quantile, sample, log_prob = predictive.quantile, predictive.sample, predictive.log_prob

    drawn = score(ByDraws(), query, draws=4000)
    assert list(result.per_task.index) == [task.name for task in query if task.n]
    assert result["nll"] == drawn["nll"]
    assert drawn["crps"] == pytest.approx(result["crps"], rel=0.03)
    assert torch.allclose(drawn.pit, result.pit, atol=4 * 0.5 / math.sqrt(4000))
    assert result._repr_html_().startswith("<table")
    assert f"{query.n_observations} observations of {len(result.per_task)} tasks" in repr(result)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"level": 1.0}, OptionError, "level must lie between 0 and 1"),
        ({"draws": 5}, OptionError, "draws must be a whole number of at least 20"),
        ({"y": torch.zeros(59, 5)}, DataError, "y is for 59 tasks, predicted are 60"),
        ({"y": torch.zeros(60, 6)}, DataError, "task '0': y has shape"),
        ({"y": torch.zeros(60)}, DataError, r"y has one number per task.*y\[:, None\]"),
        ({"y": ["a"] * 60}, DataError, "y: wanted numbers, one array per task"),
        ({"draws": 100.0}, OptionError, "draws must be a whole number of at least 20, got 100.0"),
    ],
)
def test_what_cannot_be_scored(change: dict[str, Any], error: type[Exception], match: str) -> None:
    right = Level()
    arguments = {"y": _data(right, 0)} | change
    with pytest.raises(error, match=match):
        score(right, **arguments)


def test_numbers_are_no_probabilities_of_outcomes_that_happen_to_be_zero_or_one() -> None:
    x = torch.randn(6, 12, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tasks = bm.Tasks.from_arrays(x, (x.squeeze(-1) > 0).double())
    posterior = bm.fit(bm.families.linear(tasks), tasks, bm.Laplace(draws=300), progress=False)
    support, query = tasks.with_names([f"new {k}" for k in range(6)]).split(4)
    found = bm.score(posterior.adapt(support).predict(query), query)
    assert 0 <= found["ece"] <= 1
