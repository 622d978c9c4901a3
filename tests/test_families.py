"""Linear, logistic and Poisson families: against the gallery, brute force, and what is known of real data."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import bayesmeta as bm
from bayesmeta import shelf
from bayesmeta.errors import BayesmetaError, DataError, OptionError, UnknownNameError
from bayesmeta.evidence import Collapsed, Gram, Quadrature, choose
from bayesmeta.families import linear, logistic, poisson
from bayesmeta.families.design import Design
from bayesmeta.families.linear import moments
from bayesmeta.sites import quiet_pyro
from tests.references import rats, reference_draws

Build = Callable[[bm.Tasks], bm.Hierarchy]
NODES = 9
QUICK = bm.Laplace(draws=400, starts=1)


@functools.cache
def gallery(name: str) -> tuple[bm.Hierarchy, bm.Tasks]:
    model = shelf.load_model(shelf.path_of("model", name))
    return model.hierarchy, model.tasks()


def evidence(hierarchy: bm.Hierarchy, tasks: bm.Tasks) -> Collapsed:
    """The evidence that is right for any φ: by quadrature where it is not exact."""
    program = hierarchy.program(tasks)
    found = None if hierarchy.closed_form else Gram.find(program, tasks)
    return found or Quadrature(program, tasks, NODES)


def log_z(hierarchy: bm.Hierarchy, tasks: bm.Tasks, phi: dict[str, Any]) -> Tensor:
    """log Z of each task at these values of φ, (T,)."""
    found = evidence(hierarchy, tasks)
    values = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in phi.items()}
    with quiet_pyro(), torch.no_grad():
        return found.per_task(found.program.phi_at(values), found.data)


# ---------------------------------------------------------------------------------------------------------
# The gallery's models in one line: the same evidence at the same φ

L = [[1.0, 0.0], [-0.6, 0.8]]
URANIUM = 0.7  # slope


def _radon(tasks: bm.Tasks) -> tuple[bm.Hierarchy, dict[str, Any], dict[str, Any]]:
    level = 1.4 + URANIUM * float(tasks.context["log_uranium"].mean())
    ours = {"mu": [level], "tau": [0.2], "beta": [-0.6], "gamma": [URANIUM], "sigma": 0.8}
    theirs = {"mu_alpha": 1.4, "gamma": URANIUM, "beta": -0.6, "sigma_alpha": 0.2, "sigma_y": 0.8}
    return linear(tasks, slopes="none", origin="zero"), ours, theirs


def _sleepstudy(tasks: bm.Tasks) -> tuple[bm.Hierarchy, dict[str, Any], dict[str, Any]]:
    phi = {"mu": [251.0, 10.0], "tau": [25.0, 6.0], "L": L, "sigma": 25.0}
    return linear(tasks, correlated=True, origin="zero"), phi, phi


def _contraception(tasks: bm.Tasks) -> tuple[bm.Hierarchy, dict[str, Any], dict[str, Any]]:
    shared = {"mu": [-1.7, 0.8], "tau": [0.6, 0.8], "L": L}
    ours = {**shared, "beta": [-0.3, 1.1, 1.4, 1.3]}
    theirs = {**shared, "age": -0.3, "child": [1.1, 1.4, 1.3]}
    return logistic(tasks, slopes=["town"], correlated=True, origin="zero"), ours, theirs


def _baseball(tasks: bm.Tasks) -> tuple[bm.Hierarchy, dict[str, Any], dict[str, Any]]:
    return logistic(tasks, trials="at_bats"), {"mu": [-1.0], "tau": [0.3]}, {"mu": -1.0, "tau": 0.3}


def _seeds(tasks: bm.Tasks) -> tuple[bm.Hierarchy, dict[str, Any], dict[str, Any]]:
    strain, cucumber = (float(tasks.context[name].mean()) for name in ("strain", "cucumber"))
    ours = {"mu": [-0.4 + 0.1 * strain + 1.0 * cucumber], "tau": [0.3], "gamma": [1.0, 0.1]}
    theirs = {"alpha0": -0.4, "alpha1": 0.1, "alpha2": 1.0, "alpha12": 0.0, "sigma": 0.3}
    return logistic(tasks, trials="seeds"), ours, theirs


@pytest.mark.parametrize("name", ["radon", "sleepstudy", "contraception", "baseball", "seeds"])
def test_a_gallery_model_in_one_line_has_the_same_evidence(name: str) -> None:
    model, tasks = gallery(name)
    tasks = tasks[:15]
    family, ours, theirs = globals()[f"_{name}"](tasks)

    torch.testing.assert_close(log_z(family, tasks, ours), log_z(model, tasks, theirs), rtol=1e-8, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------
# Against brute force


def _wide(points: int = 6001) -> tuple[np.ndarray[Any, Any], float]:
    return np.linspace(-12.0, 12.0, points), 24.0 / (points - 1)


def _counts() -> bm.Tasks:
    """Counts with a predictor and an exposure, one task of one row."""
    generator = np.random.default_rng(3)
    frame = pd.DataFrame({"task": [0] * 5 + [1] * 4 + [2], "x": generator.normal(size=10)})
    frame["hours"], frame["y"] = generator.uniform(0.5, 3.0, 10), [3, 0, 1, 9, 2, 0, 0, 14, 5, 1]
    return bm.Tasks.from_frame(frame, task="task", x=["x", "hours"], y="y")


@pytest.mark.parametrize("overdispersed", [False, True])
def test_counts_against_a_sum_over_a_grid(overdispersed: bool) -> None:
    from scipy import stats

    tasks = _counts()
    hierarchy = poisson(tasks, exposure="hours", slopes="none", overdispersed=overdispersed, origin="zero")
    phi = {"mu": [0.2], "tau": [0.9], "beta": [0.5]} | ({"dispersion": 0.4} if overdispersed else {})
    theta, step = _wide()

    expected = []
    for task in tasks:
        x, hours, y = task.x[:, 0].numpy(), task.x[:, 1].numpy(), task.y.numpy()
        mean = hours * np.exp(theta[:, None] + 0.5 * x)
        law = stats.nbinom(1 / 0.4, 1 / (1 + 0.4 * mean)) if overdispersed else stats.poisson(mean)
        density = np.exp(law.logpmf(y).sum(1)) * stats.norm(0.2, 0.9).pdf(theta)
        expected.append(math.log(density.sum() * step))

    found = log_z(hierarchy, tasks, phi)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-4)


def test_which_road_the_families_take() -> None:
    _, sleep = gallery("sleepstudy")
    _, women = gallery("contraception")
    _, batters = gallery("baseball")

    def road(hierarchy: bm.Hierarchy, tasks: bm.Tasks) -> str:
        return type(choose(hierarchy.program(tasks), tasks)).__name__

    assert road(linear(sleep, correlated=True), sleep) == "Gram"
    assert road(linear(sleep, intercept=False), sleep) == "Gram"
    assert road(logistic(batters, trials="at_bats"), batters) == "Quadrature"
    assert road(logistic(women[:6]), women[:6]) == "Joint"
    assert road(poisson(_counts(), exposure="hours", slopes="none", overdispersed=True), _counts()) == "Quadrature"


def test_units_do_not_matter() -> None:
    """In other units of x and y the prior is the same one: densities differ by the same constant at every φ."""
    _, tasks = gallery("sleepstudy")
    other = bm.Tasks.from_lists([10 * task.x for task in tasks], [task.y / 1000 for task in tasks])
    scale = torch.tensor([1e-3, 1e-4], dtype=torch.float64)
    changes = []
    names = ("mu", "tau", "sigma")
    for point in (([290.0, 8.0], [30.0, 5.0], 20.0), ([260.0, 12.0], [12.0, 9.0], 33.0)):
        phi = {name: torch.tensor(value, dtype=torch.float64) for name, value in zip(names, point, strict=True)}
        moved = {"mu": scale * phi["mu"], "tau": scale * phi["tau"], "sigma": phi["sigma"] / 1000}
        totals = []
        for some, values in ((tasks, phi), (other, moved)):
            program = linear(some).program(some)
            with quiet_pyro():
                at = program.phi_at(values)
                found = Gram.find(program, some)
            assert found is not None
            totals.append(at.log_prior + found.total(at, found.data))
        changes.append(totals[1] - totals[0])

    torch.testing.assert_close(changes[0], changes[1], rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------
# Real data


def require_near(posterior: bm.Posterior, expected: dict[str, float], within: float) -> None:
    """Posterior means are so near, in posterior standard deviations."""
    table = posterior.summary()
    means, sds = table["mean"].to_dict(), table["sd"].to_dict()
    far = {
        name: (means[name], value) for name, value in expected.items() if abs(means[name] - value) > within * sds[name]
    }
    assert not far


def test_rats_are_those_of_stan() -> None:
    """Stan's model has other weak priors: its moments are met to a tenth of a standard deviation."""
    tasks = rats().tasks
    draws = reference_draws("rats_data-rats_model")
    posterior = bm.fit(linear(tasks), tasks, progress=False)

    assert posterior.info.gram
    names = {"mu_alpha": ("mu", 0), "mu_beta": ("mu", 1), "sigma_alpha": ("tau", 0), "sigma_beta": ("tau", 1)}
    found = {name: posterior.phi[site][:, k] for name, (site, k) in names.items()}
    found["sigma_y"] = posterior.phi["sigma"]
    for name, ours in found.items():
        theirs = draws[name]
        assert abs(float(ours.mean()) - theirs.mean()) < 0.15 * theirs.std(), name
        assert float(ours.std()) == pytest.approx(theirs.std(), rel=0.12), name


def test_sleepstudy_is_that_of_lme4() -> None:
    """Restricted maximum likelihood (Bates et al. 2015), each figure within half a posterior standard deviation."""
    _, tasks = gallery("sleepstudy")
    posterior = bm.fit(linear(tasks, correlated=True, origin="zero"), tasks, progress=False)
    expected = {"mu[0]": 251.405, "mu[1]": 10.467, "tau[0]": 24.74, "tau[1]": 5.92, "L[1,0]": 0.07, "sigma": 25.59}

    require_near(posterior, expected, 0.6)


def _epil() -> bm.Tasks:
    counts = bm.data.load("epil")
    counts["progabide"] = (counts["trt"] == "progabide").astype(float)
    counts["interaction"] = counts["progabide"] * counts["lbase"]
    context = ["lbase", "progabide", "interaction", "lage"]
    return bm.Tasks.from_frame(counts, task="subject", x=["V4"], y="y", context=context)


def _most_likely(tasks: bm.Tasks) -> dict[str, float]:
    """Maximum likelihood of a Poisson model with a random intercept, each integral by a fine grid."""
    from scipy import optimize, special

    z = np.linspace(-6.0, 6.0, 400)
    names = sorted(tasks.context)
    c = np.stack([tasks.context[name].numpy() for name in names], 1)
    y, v4 = tasks.y.reshape(-1, 4).numpy(), tasks.x.reshape(-1, 4).numpy()
    log_w = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) + math.log(z[1] - z[0])

    def minus_log_likelihood(p: np.ndarray[Any, Any]) -> float:
        eta = (p[0] + c @ p[3:])[:, None] + np.exp(p[2]) * z
        sums = (y * v4 * p[1]).sum(1)[:, None] + y.sum(1)[:, None] * eta
        each = sums - np.exp(eta) * np.exp(p[1] * v4).sum(1)[:, None]
        return -float(special.logsumexp(each + log_w, axis=1).sum())

    start = np.zeros(3 + len(names))
    start[0] = 1.5
    p = optimize.minimize(minus_log_likelihood, start, method="BFGS").x
    level = p[0] + c.mean(0) @ p[3:] + p[1] * v4.mean()
    slopes = {f"gamma[{k}]": p[3 + k] for k in range(len(names))}
    return {"mu[0]": level, "beta[0]": p[1], "tau[0]": math.exp(p[2]), **slopes}


def test_epilepsy_is_near_its_maximum_likelihood() -> None:
    tasks = _epil()
    posterior = bm.fit(poisson(tasks, slopes="none"), tasks, QUICK, progress=False)

    assert posterior.info.evidence == "quadrature"
    require_near(posterior, _most_likely(tasks), 0.75)


@pytest.mark.long
def test_contraception_is_near_its_maximum_likelihood() -> None:
    """By a fine grid: see the gallery's model."""
    _, tasks = gallery("contraception")
    posterior = bm.fit(logistic(tasks, slopes=["town"], correlated=True, origin="zero"), tasks, progress=False)
    expected = {"mu[0]": -1.71, "mu[1]": 0.82, "tau[0]": 0.39**0.5, "tau[1]": 0.67**0.5}
    expected |= {"beta[0]": -0.27, "beta[1]": 1.13, "beta[2]": 1.37, "beta[3]": 1.36}

    require_near(posterior, expected, 0.6)


def _hospitals() -> pd.DataFrame:
    folder = Path(os.environ.get("BAYESMETA_DATA", "")) / "heart_disease"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("BAYESMETA_DATA names no folder with heart_disease in it, and CI=true")
        pytest.skip("BAYESMETA_DATA names no folder with heart_disease in it")
    patients = pd.read_csv(folder / "heart_disease_4hospitals.csv")
    patients["no_pain"], patients["ill"] = (patients["cp"] == 4) * 1.0, (patients["num"] > 0) * 1.0
    filled = patients[PREDICTORS].fillna(patients[PREDICTORS].mean())
    return pd.concat([patients[["hospital", "ill"]], filled], axis=1)


PREDICTORS = ["age", "sex", "no_pain", "exang", "oldpeak", "thalach"]


def _brier(sources: bm.Tasks, new: bm.Tasks, inference: bm.Laplace, splits: int) -> tuple[float, float]:
    """Brier scores of other patients of a new hospital, adapted to ten of them, and from the population alone."""
    posterior = bm.fit(logistic(sources, slopes="none"), sources, inference, progress=False)
    unseen = bm.Tasks.without_observations(new.names, like=new)
    scores = []
    for seed in range(splits):
        support, query = new.split(10, seed=seed)
        means = [posterior.adapt(some).predict(query).mean for some in (support, unseen)]
        scores.append([float((mean - query.y).square().mean()) for mean in means])
    adapted, population = np.mean(scores, 0)
    return float(adapted), float(population)


@pytest.mark.filterwarnings("ignore:k-hat is above")  # of three tasks, the spread of the population is hardly known
def test_a_new_hospital_with_another_prevalence() -> None:
    """Nearly all patients of this hospital are ill: adapting to ten of them beats the population."""
    tasks = bm.Tasks.from_frame(_hospitals(), task="hospital", x=PREDICTORS, y="ill")
    sources, _ = tasks.without("switzerland").split(40)
    adapted, population = _brier(sources, tasks[["switzerland"]], QUICK, splits=2)

    assert adapted < 0.8 * population


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:k-hat is above")  # of three tasks, the spread of the population is hardly known
def test_a_new_hospital_from_all_patients() -> None:
    """Over 30 choices of the ten patients; sources pooled reach .184, a simple empirical Bayes .098."""
    tasks = bm.Tasks.from_frame(_hospitals(), task="hospital", x=PREDICTORS, y="ill")
    new = tasks[["switzerland"]]
    adapted, population = _brier(tasks.without("switzerland"), new, bm.Laplace(draws=2000), splits=30)

    assert adapted < 0.13
    assert adapted < 0.75 * population


def test_counts_are_adapted_to_and_predicted() -> None:
    tasks = _epil()
    some = tasks[24:36]
    posterior = bm.fit(poisson(some, slopes="none", overdispersed=True), some, QUICK, progress=False)
    support, query = tasks[36:38].split(2)
    predicted = posterior.adapt(support).predict(query)

    assert predicted.mean.shape == (2, 2)
    assert bool((predicted.mean > 0).all())
    assert bool(torch.isfinite(predicted.log_prob(query)).all())
    lower, upper = predicted.interval(0.9)
    assert bool((lower <= upper).all())


@pytest.mark.changes_rng  # modules of torch draw their weights
def test_the_code_of_the_docs_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "families.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.setattr(bm, "fit", functools.partial(bm.fit, inference=QUICK, progress=False))
    namespace: dict[str, Any] = {}

    assert len(blocks) > 3
    for block in blocks:
        exec(compile(block, "families.md", "exec"), namespace)


def test_every_family_is_in_the_docs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "families.md").read_text(encoding="utf-8")

    names = [name for name in bm.families.__all__ if name[0].islower()]
    assert [name for name in names if f"`{name}`" not in page and f"families.{name}" not in page] == []


# ---------------------------------------------------------------------------------------------------------
# Options


def _columns() -> bm.Tasks:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(generator.normal(size=(12, 3)), columns=["a", "b", "y"])
    frame["task"], frame["flat"] = [0] * 4 + [1] * 4 + [2] * 4, 3.0
    frame["size"] = frame["task"] * 2.0
    return bm.Tasks.from_frame(frame, task="task", x=["a", "b"], y="y", context="size")


@pytest.mark.parametrize(
    ("slopes", "varying", "pooled"),
    [("all", (0, 1), ()), ("none", (), (0, 1)), (["b"], (1,), (0,)), ([0], (0,), (1,)), ([1, "a"], (0, 1), ())],
)
def test_slopes_are_chosen(slopes: Any, varying: tuple[int, ...], pooled: tuple[int, ...]) -> None:
    design = Design.of(_columns(), slopes=slopes)

    assert (design.varying, design.pooled) == (varying, pooled)


def test_the_origin_moves_the_level_and_widens_its_prior() -> None:
    tasks = _columns()
    x = tasks.x
    mean, zero, given = (Design.of(tasks, origin=origin) for origin in ("mean", "zero", [1.0, 2.0]))

    torch.testing.assert_close(mean.origin, x.mean(0))
    assert mean.reach == pytest.approx(1.0)
    assert zero.origin.tolist() == [0.0, 0.0]
    assert given.origin.tolist() == [1.0, 2.0]
    assert given.reach > zero.reach > 1.0


def test_tasks_without_inputs_have_a_level() -> None:
    tasks = bm.Tasks.from_lists(None, [[1.0, 2.0], [4.0, 3.0, 5.0]])
    program = linear(tasks).program(tasks)

    assert program.structure.theta.size == 1
    assert isinstance(choose(program, tasks), Gram)


def _flat() -> bm.Tasks:
    return bm.Tasks.from_lists([[2.0, 2.0], [2.0, 2.0]], [[1.0, 0.0], [3.0, 2.0]])


def _several() -> bm.Tasks:
    x = torch.linspace(0, 1, 6).reshape(2, 3)
    return bm.Tasks.from_arrays(x, torch.stack([x, x], -1))


def _images() -> bm.Tasks:
    return bm.Tasks.from_arrays(torch.linspace(0, 1, 96).reshape(2, 3, 4, 4), torch.ones(2, 3))


def _trials(count: float) -> bm.Tasks:
    return bm.Tasks.from_lists(None, [[1.0], [0.0]], context={"n": [count, 4.0]})


WRONG: list[tuple[Callable[[], Any], type[BayesmetaError], str]] = [
    (lambda: linear(_columns(), slopes="a"), OptionError, r"slopes must be 'all', 'none' or a list.*write \['a'\]"),
    (lambda: linear(_columns(), slopes=["c"]), UnknownNameError, "slopes: unknown column 'c'; valid: 'a', 'b'"),
    (lambda: linear(_columns(), slopes=[2]), UnknownNameError, "slopes: unknown column 2"),
    (lambda: linear(_columns(), context=["sizes"]), UnknownNameError, "context: unknown column.*mean 'size'"),
    (lambda: linear(_columns(), intercept=False), OptionError, r"context \['size'\] moves the level.*context='none'"),
    (
        lambda: linear(_columns(), intercept=False, slopes="none", context="none"),
        OptionError,
        "nothing varies by task: give intercept=True",
    ),
    (lambda: linear(_columns(), slopes="none", correlated=True), OptionError, "needs at least two coefficients"),
    (lambda: linear(_columns(), widen=0.0), OptionError, "widen must be a number above zero, got 0.0"),
    (lambda: linear(_columns(), origin=[1.0]), OptionError, "origin has 1 numbers, x has 2 columns"),
    (lambda: linear(_columns(), origin="median"), OptionError, "origin must be 'mean', 'zero' or one number"),  # type: ignore[arg-type]
    (lambda: linear(_flat()), DataError, r"column 'x\[0\]' is 2 throughout.*leave it out"),
    (lambda: linear(_several()), DataError, r"linear takes one number per observation, y has shape \(2,\)"),
    (lambda: linear(_images()), DataError, "a linear predictor takes a number or a row of them"),
    (lambda: logistic(_columns()), DataError, r"logistic takes counts, whole and not negative.*y of task '0' has"),
    (lambda: logistic(_flat()[:1], trials="n"), UnknownNameError, "trials: unknown column 'n'"),
    (lambda: linear(_columns(), slopes=None), OptionError, r"slopes must be .*got None: write \[None\]"),  # type: ignore[arg-type]
    (lambda: linear(_columns(), widen=math.inf), OptionError, "widen must be a number above zero, got inf"),
    (lambda: linear(_columns(), origin=[math.nan, 0.0]), OptionError, "origin must be finite"),
    (lambda: linear(bm.Tasks.without_observations(["a", "b"], like=_flat())), DataError, "no observations"),
    (lambda: logistic(_trials(2.5), trials="n"), DataError, "trials='n' has the value 2.5; wanted whole numbers"),
    (lambda: poisson(_columns()), DataError, "poisson takes counts, whole and not negative; y of task '0' has"),
    (lambda: poisson(_columns(), exposure="size"), DataError, "exposure='size' has the value 0; all must be above"),
]


@pytest.mark.parametrize(("build", "error", "message"), WRONG, ids=[message[:30] for _, _, message in WRONG])
def test_what_is_wrong_is_said(build: Callable[[], Any], error: type[BayesmetaError], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize("value", [0.1, 1.1, 1e9 + 0.1])
@pytest.mark.parametrize("count", [3, 6, 7, 50])
def test_what_is_the_same_everywhere_is_seen_through_rounding(value: float, count: int) -> None:
    rng = np.random.default_rng(0)
    ys = list(rng.normal(size=(count, 2)))
    tasks = bm.Tasks.from_lists(None, ys, context={"dose": [value] * count})
    with pytest.raises(DataError, match="is the same in all tasks"):
        linear(tasks)
    with pytest.raises(DataError, match="throughout"):
        linear(bm.Tasks.from_lists([[value] * 2] * count, ys))
    assert moments(bm.Tasks.from_lists(None, [[value] * 2] * count), "linear")[1] == 1.0


@pytest.mark.parametrize(("unit", "far"), [(1e-12, 0.0), (1e-30, 0.0), (1.0, 1.7e12)])
def test_small_numbers_and_grids_far_from_zero_are_no_constants(unit: float, far: float) -> None:
    y = np.random.default_rng(0).normal(size=(4, 3))

    design = Design.of(bm.Tasks.from_lists([far + unit * np.arange(3.0)] * 4, list(y)))

    assert float(design.scale[0]) == pytest.approx(unit * math.sqrt(2 / 3), rel=1e-3)


def test_a_number_is_an_origin_for_one_column_and_columns_are_any_whole_numbers() -> None:
    one = bm.Tasks.from_lists([[0.0, 1.0], [2.0, 3.0]], [[1.0, 0.0], [3.0, 2.0]])

    assert Design.of(one, origin=5.0).origin.tolist() == [5.0]
    assert Design.of(_columns(), slopes=[np.int64(1)]).varying == (1,)  # type: ignore[list-item]


def test_a_constant_column_stands_in_for_the_intercept() -> None:
    assert Design.of(_flat(), intercept=False).size == 1


def test_trials_may_be_a_context() -> None:
    tasks = bm.Tasks.from_lists(None, [[3.0], [5.0]], context={"n": [10.0, 7.0], "size": [1.0, 2.0]})
    design = logistic(tasks, trials="n")
    program = design.program(tasks)

    assert [site.name for site in program.structure.phi] == ["mu", "tau", "gamma"]
    assert program.structure.phi.size == 3
