"""What a hierarchy is made of is found by running it; what cannot be fitted is said in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

import bayesmeta as bm
from bayesmeta.errors import BayesmetaError, BayesmetaWarning, HierarchyError
from bayesmeta.evidence import Exact, Gram, choose
from bayesmeta.hierarchy import Hierarchy
from bayesmeta.sites import quiet_pyro
from tests.evidences import coordinates, gallery, per_task, value_and_gradient


def hyperprior() -> tuple[Tensor, Tensor]:
    return pyro.sample("mu", dist.Normal(0.0, 5.0)), pyro.sample("tau", dist.HalfNormal(1.0))


def task(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    mu, tau = phi
    theta = pyro.sample("theta", dist.Normal(mu, tau))
    return pyro.sample("y", dist.Normal(theta + 0.5 * x, 1.0).to_event(1), obs=y)


def tasks(sizes: tuple[int, ...] = (3, 1, 4), **options: Any) -> bm.Tasks:
    rng = np.random.default_rng(0)
    return bm.Tasks.from_lists([rng.normal(size=n) for n in sizes], [rng.normal(size=n) for n in sizes], **options)


def observing(theta: Callable[[Tensor], Any], observe: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A task whose θ has the distribution `theta(x)`, and whose mean is the sum of θ."""

    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Any:
        value = pyro.sample("theta", theta(x))
        if observe is not None:
            return observe(value, x, y)
        return pyro.sample("y", dist.Normal(value.sum() + 0 * x, 1.0).to_event(1), obs=y)

    return function


# ---------------------------------------------------------------------------------------------------------
# What is found


def test_sites_are_found_with_names_shapes_and_supports() -> None:
    model = gallery("sleepstudy")
    structure = model.hierarchy.program(model.load()).structure

    assert structure.phi.names == ("mu", "tau", "L", "sigma")
    assert [site.shape for site in structure.phi] == [(2,), (2,), (2, 2), ()]
    assert [site.unconstrained_shape for site in structure.phi] == [(2,), (2,), (1,), ()]
    assert [site.describe_support() for site in structure.phi] == ["real", "positive", "corr_cholesky", "positive"]
    assert structure.theta.names == ("theta",)
    assert structure.theta.size == 2
    assert structure.observed == ("y",)
    assert structure.maskable
    assert structure.vectorised


def test_plates_of_phi_and_theta_are_known() -> None:
    def many() -> Tensor:
        with pyro.plate("feature", 3):
            return pyro.sample("mu", dist.Normal(0.0, 1.0))

    def regression(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        with pyro.plate("feature", 3):
            w = pyro.sample("w", dist.Normal(mu, 1.0))
        return pyro.sample("y", dist.Normal(w.sum() * x, 1.0).to_event(1), obs=y)

    structure = Hierarchy(many, regression).program(tasks()).structure
    assert [site.plates for site in structure.phi] == [("feature",)]
    assert [site.plates for site in structure.theta] == [("feature",)]


@pytest.mark.changes_rng
def test_finding_the_sites_touches_no_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    Hierarchy(hyperprior, task).program(tasks())
    repr(Hierarchy(hyperprior, task))

    assert torch.equal(torch.get_rng_state(), expected)


test_finding_the_sites_touches_no_random_state = pytest.mark.changes_rng(test_finding_the_sites_touches_no_random_state)


class Pair(NamedTuple):
    """φ as a named tuple."""

    mu: Tensor
    tau: Tensor


@dataclass
class Record:
    """φ as an object that torch knows nothing about."""

    mu: Tensor
    tau: Tensor


NESTINGS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], tuple[Tensor, Tensor]]]] = {
    "tuple": (lambda mu, tau: (mu, tau), lambda phi: phi),
    "list": (lambda mu, tau: [mu, tau], lambda phi: (phi[0], phi[1])),
    "dict": (lambda mu, tau: {"mu": mu, "tau": tau}, lambda phi: (phi["mu"], phi["tau"])),
    "named tuple": (lambda mu, tau: Pair(mu, tau), lambda phi: (phi.mu, phi.tau)),
    "dataclass": (lambda mu, tau: Record(mu, tau), lambda phi: (phi.mu, phi.tau)),
    "deep": (
        lambda mu, tau: {"a": [mu, {"b": (tau, None, "name", 3)}]},
        lambda phi: (phi["a"][0], phi["a"][1]["b"][0]),
    ),
    "one tensor": (lambda mu, tau: torch.stack([mu, tau]), lambda phi: (phi[0], phi[1])),
    "function": (lambda mu, tau: lambda: (mu, tau), lambda phi: phi()),
}


@pytest.mark.parametrize("name", NESTINGS)
def test_phi_comes_in_any_nesting(name: str) -> None:
    pack, unpack = NESTINGS[name]
    hierarchy = Hierarchy(lambda: pack(*hyperprior()), lambda phi, x, y=None: task(unpack(phi), x, y))
    plain = Hierarchy(hyperprior, task)
    mine, theirs = (choose(h.program(tasks()), tasks()) for h in (hierarchy, plain))

    assert isinstance(mine, Gram)
    assert isinstance(theirs, Gram)
    for u in coordinates(mine.program, 2):
        for a, b in zip(value_and_gradient(mine, u), value_and_gradient(theirs, u), strict=True):
            torch.testing.assert_close(a, b)


# ---------------------------------------------------------------------------------------------------------
# One input column


def by_matrix(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    return task(phi, x[:, 0], y)


def by_weights(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    return task(phi, x @ torch.ones(x.shape[1]), y)


def in_a_plate(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    theta = pyro.sample("theta", dist.Normal(*phi))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(theta + 0.5 * x, 1.0), obs=y)


@pytest.mark.parametrize("function", [task, by_matrix, by_weights, in_a_plate])
@pytest.mark.parametrize("sizes", [(3, 1, 4), (1, 1)], ids=str)
def test_one_column_is_a_vector_or_a_matrix_as_the_task_wants_it(
    function: Callable[..., Tensor], sizes: tuple[int, ...]
) -> None:
    plain = tasks(sizes)
    frame = pd.DataFrame(
        [(t.name, float(x), float(y)) for t in plain for x, y in zip(t.x, t.y, strict=True)],
        columns=["county", "floor", "radon"],
    )
    one_column = bm.Tasks.from_frame(frame, task="county", x=["floor"], y="radon")
    assert one_column.x.shape == (sum(sizes), 1)
    program = Hierarchy(hyperprior, function).program(one_column)
    assert program.structure.columns_as_vector == (function in (task, in_a_plate))

    values = {"mu": 0.3, "tau": 0.8}
    expected = per_task(Exact(Hierarchy(hyperprior, task).program(plain), plain), values)
    torch.testing.assert_close(per_task(Exact(program, one_column), values), expected)


def test_two_columns_are_always_a_matrix() -> None:
    both = bm.Tasks.from_arrays(np.zeros((2, 3, 2)), np.zeros((2, 3)))
    with pytest.raises(HierarchyError, match=r"observed site 'y' has shape \(3, 2\), but .* have shape \(3,\)"):
        Hierarchy(hyperprior, task).program(both)


# ---------------------------------------------------------------------------------------------------------
# How it shows itself


def test_repr_before_tasks_were_seen() -> None:
    assert repr(Hierarchy(hyperprior, task)).splitlines() == [
        "Hierarchy(hyperprior, task)",
        "  phi  mu   Normal      real      scalar",
        "  phi  tau  HalfNormal  positive  scalar",
        "  theta  found when the hierarchy first meets tasks",
    ]


def test_repr_after_tasks_were_seen() -> None:
    model = gallery("sleepstudy")
    hierarchy = Hierarchy(model.hyperprior, model.task)
    hierarchy.program(model.load())

    assert repr(hierarchy).splitlines() == [
        "Hierarchy(hyperprior, task)",
        "  phi       mu     Normal              real           2",
        "  phi       tau    HalfNormal          positive       2",
        "  phi       L      LKJCholesky         corr_cholesky  2×2",
        "  phi       sigma  HalfNormal          positive       scalar",
        "  theta     theta  MultivariateNormal  real           2",
        "  observed  y",
    ]


def test_html_shows_the_same_and_escapes_names() -> None:
    def odd() -> Tensor:
        return pyro.sample("<mu>", dist.Normal(0.0, 1.0))

    def follows(mu: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
        return task((mu, torch.ones(())), x, y)

    hierarchy = Hierarchy(odd, follows)
    before = hierarchy._repr_html_()
    assert "&lt;mu&gt;" in before
    assert "<mu>" not in before
    assert "found when the hierarchy first meets tasks" in before
    hierarchy.program(tasks())
    after = hierarchy._repr_html_()
    assert after.count("<tr>") == 4
    assert "<td>theta</td><td>theta</td><td>Normal</td><td>real</td><td>scalar</td>" in after
    assert "first meets" not in after


def test_callables_without_a_name_are_shown_by_their_type() -> None:
    class Prior:
        def __call__(self) -> tuple[Tensor, Tensor]:
            return hyperprior()

    assert repr(Hierarchy(Prior(), task)).startswith("Hierarchy(Prior, task)")


# ---------------------------------------------------------------------------------------------------------
# What cannot be fitted


def fails(match: str, *, prior: Callable[..., Any] = hyperprior, function: Callable[..., Any] = task) -> None:
    with pytest.raises(HierarchyError, match=match) as caught:
        Hierarchy(prior, function).program(tasks(names=["A", "B", "C"]))
    assert isinstance(caught.value, BayesmetaError)
    assert isinstance(caught.value, ValueError)


def test_both_must_be_functions() -> None:
    with pytest.raises(HierarchyError, match="hyperprior must be a function, got int"):
        Hierarchy(3, task)  # type: ignore[arg-type]
    with pytest.raises(HierarchyError, match="task must be a function, got str"):
        Hierarchy(hyperprior, "task")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "discrete", [lambda x: dist.Bernoulli(0.5), lambda x: dist.Poisson(2.0), lambda x: dist.Categorical(torch.ones(3))]
)
def test_a_discrete_theta(discrete: Callable[[Tensor], Any]) -> None:
    fails(r"site 'theta' is discrete \((Bernoulli|Poisson|Categorical)\).*sum it out", function=observing(discrete))


def test_a_discrete_phi() -> None:
    fails(r"site 'k' is discrete \(Poisson\)", prior=lambda: (pyro.sample("k", dist.Poisson(3.0)), torch.ones(())))


def test_a_theta_named_like_a_phi() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        mu = pyro.sample("mu", dist.Normal(phi[0], phi[1]))
        return pyro.sample("y", dist.Normal(mu + 0 * x, 1.0).to_event(1), obs=y)

    fails(r"θ and φ share the name\(s\) \['mu'\]: rename", function=function)


def test_an_observed_site_named_like_a_phi() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        return pyro.sample("tau", dist.Normal(theta + 0 * x, 1.0).to_event(1), obs=y)

    fails(r"observed site.*φ.*share the name\(s\) \['tau'\]: rename", function=function)


def test_a_name_used_twice() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        total = pyro.sample("theta", dist.Normal(*phi)) + pyro.sample("theta", dist.Normal(*phi))
        return pyro.sample("y", dist.Normal(total + 0 * x, 1.0).to_event(1), obs=y)

    fails("two sites are named 'theta'", function=function)

    def twice() -> tuple[Tensor, Tensor]:
        return pyro.sample("mu", dist.Normal(0.0, 1.0)), pyro.sample("mu", dist.HalfNormal(1.0))

    fails("two sites are named 'mu'", prior=twice)


@pytest.mark.parametrize("name", ["chain", "draw", "task"])
def test_a_site_named_like_an_axis(name: str) -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample(name, dist.Normal(*phi))
        return pyro.sample("y", dist.Normal(theta + 0 * x, 1.0).to_event(1), obs=y)

    fails(f"a site is named '{name}', as an axis of every result is: rename", function=function)


def test_no_observed_site() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        return pyro.sample("y", dist.Normal(theta + 0 * x, 1.0).to_event(1))

    fails(r"the task has no observed site: .*obs=y", function=function)


def test_no_theta() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        return pyro.sample("y", dist.Normal(phi[0] + 0 * x, phi[1]).to_event(1), obs=y)

    fails("the task has no θ: sample at least one latent site", function=function)


def test_a_theta_whose_shape_changes_between_tasks() -> None:
    fails(
        r"θ must be the same in every task; in task 'B' it is \{'theta': \(1,\)\}, in task 'A' \{'theta': \(3,\)\}",
        function=observing(lambda x: dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1)),
    )


def test_a_theta_that_some_tasks_do_not_have() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        if len(x) > 3:
            theta = theta + pyro.sample("extra", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(theta + 0 * x, 1.0).to_event(1), obs=y)

    fails(r"θ must be the same in every task; .* in task 'C' \{'theta': \(\), 'extra': \(\)\}", function=function)


def test_observed_sites_that_some_tasks_do_not_have() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        name = "long" if len(x) > 3 else "short"
        return pyro.sample(name, dist.Normal(theta + 0 * x, 1.0).to_event(1), obs=y)

    fails(r"task 'C' observes \['long'\], task 'B' \['short'\]: all tasks must have the same sites", function=function)


def test_a_support_without_a_map_to_the_real_line() -> None:
    fails(
        "site 'theta' has support .*, which has no map to the real line; use a distribution with another support",
        function=observing(lambda x: dist.VonMises3D(torch.tensor([1.0, 0.0, 0.0]))),
    )


def test_a_hyperprior_that_returns_nothing() -> None:
    fails("hyperprior returns None: return the values of φ", prior=lambda: (hyperprior(), None)[1])


def test_a_hyperprior_that_samples_nothing() -> None:
    fails("hyperprior samples nothing: write φ with pyro.sample", prior=lambda: (torch.zeros(()), torch.ones(())))


@pytest.mark.parametrize(
    ("likelihood", "shape"),
    [
        (lambda theta, x: dist.Normal(theta, 1.0), r"\(\)"),
        (lambda theta, x: dist.Normal(theta + x.unsqueeze(-1), 1.0).to_event(2), r"\(4, 1\)"),
        (lambda theta, x: dist.Normal(theta + x[:2], 1.0).to_event(1), r"\(2,\)"),
    ],
    ids=["scalar", "matrix", "too-short"],
)
def test_an_observed_site_of_the_wrong_shape(likelihood: Callable[..., Any], shape: str) -> None:
    def observe(theta: Tensor, x: Tensor, y: Tensor | None) -> Any:
        return pyro.sample("y", likelihood(theta, x), obs=y)

    with pytest.raises(
        HierarchyError, match=rf"observed site 'y' has shape {shape}, but its observations have shape \(4,\)"
    ):
        Hierarchy(hyperprior, observing(lambda x: dist.Normal(0.0, 1.0), observe)).program(tasks((4, 4)))


def test_free_parameters() -> None:
    fails(
        r"the model calls pyro\.param\('w'\).*give it a prior",
        prior=lambda: (pyro.sample("mu", dist.Normal(0.0, 1.0)), pyro.param("w", torch.ones(()))),
    )
    fails(
        r"the model calls pyro\.param\('w'\)",
        function=lambda phi, x, y=None: task((phi[0], pyro.param("w", torch.ones(()))), x, y),
    )


def test_an_error_inside_the_hyperprior() -> None:
    def prior() -> Any:
        return {"mu": pyro.sample("mu", dist.Normal(0.0, 1.0))}["tau"]

    with pytest.raises(HierarchyError, match="hyperprior raised KeyError: 'tau'") as caught:
        Hierarchy(prior, task).program(tasks())
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_inside_the_task() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None) -> Any:
        raise RuntimeError("the matrix is singular")

    with pytest.raises(
        HierarchyError, match=r"task raised RuntimeError on task 'B' \(x \(1,\), y \(1,\)\): the matrix is singular"
    ) as caught:
        Hierarchy(hyperprior, function).program(tasks(names=["A", "B", "C"]))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_context_that_the_task_does_not_take() -> None:
    with_context = tasks(context={"uranium": [1.0, 2.0, 3.0]})
    with pytest.raises(
        HierarchyError, match=r"task raised TypeError on task '1' \(.*uranium=\(\)\): .*unexpected keyword"
    ):
        Hierarchy(hyperprior, task).program(with_context)


def test_a_context_that_is_missing() -> None:
    def function(phi: Any, x: Tensor, y: Tensor | None = None, *, uranium: Tensor) -> Any:
        return task(phi, x, y)

    fails(
        "task raised TypeError on task 'B' .*: .*missing 1 required keyword-only argument: 'uranium'", function=function
    )


@pytest.mark.parametrize("where", ["hyperprior", "task"])
def test_global_state_is_put_back_when_a_user_function_raises(where: str) -> None:
    def raises(*args: Any, **context: Any) -> Any:
        raise RuntimeError("no")

    before = (torch.get_default_dtype(), torch.distributions.Distribution._validate_args, torch.get_rng_state())
    hierarchy = Hierarchy(raises, task) if where == "hyperprior" else Hierarchy(hyperprior, raises)
    with pytest.raises(HierarchyError, match=f"{where} raised RuntimeError"):
        hierarchy.program(tasks())
    assert torch.get_default_dtype() == before[0]
    assert torch.distributions.Distribution._validate_args == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


# ---------------------------------------------------------------------------------------------------------
# Tasks that cannot be vectorised


def branching(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    """The same as `task`, by a branch on values."""
    theta = pyro.sample("theta", dist.Normal(*phi))
    mean = theta + 0.5 * x if float(x.sum()) > 0 else 0.5 * x + theta
    return pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


def test_a_task_that_branches_on_values_runs_one_task_at_a_time_and_says_so() -> None:
    with pytest.warns(BayesmetaWarning, match=r"cannot be vectorised.*one task at a time.*use torch\.where"):
        program = Hierarchy(hyperprior, branching).program(tasks())
    assert not program.structure.vectorised
    plain = Hierarchy(hyperprior, task).program(tasks())
    evidence, expected = choose(program, tasks()), choose(plain, tasks())
    assert isinstance(evidence, Exact | Gram)
    assert isinstance(expected, Exact | Gram)
    for u in coordinates(program, 2):
        for a, b in zip(value_and_gradient(evidence, u), value_and_gradient(expected, u), strict=True):
            torch.testing.assert_close(a, b)
    values = {"mu": 0.3, "tau": 0.8}
    torch.testing.assert_close(per_task(evidence, values), per_task(expected, values))


def test_nothing_is_said_about_a_task_that_can_be_vectorised() -> None:
    """Warnings are errors here."""
    with quiet_pyro():
        assert Hierarchy(hyperprior, task).program(tasks()).structure.vectorised


def by_size(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
    """Another noise for tasks of ten observations and more: what padding must not change."""
    theta = pyro.sample("theta", dist.Normal(*phi))
    scale = 1.0 if len(x) < 10 else 3.0
    return pyro.sample("y", dist.Normal(theta + 0.5 * x, scale).to_event(1), obs=y)


def test_a_task_that_branches_on_its_size_is_not_padded_over_the_branch() -> None:
    """Three further rows do not cross the branch, the padding that the tasks really get does."""
    data = tasks((5, 6, 20))
    assert len(data.padded()) == 1
    program = Hierarchy(hyperprior, by_size).program(data)
    assert not program.structure.maskable
    assert Hierarchy(hyperprior, by_size).program(tasks((4, 5, 6))).structure.maskable

    def with_scale(scale: float) -> Callable[..., Tensor]:
        def function(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
            theta = pyro.sample("theta", dist.Normal(*phi))
            return pyro.sample("y", dist.Normal(theta + 0.5 * x, scale).to_event(1), obs=y)

        return function

    values = {"mu": 0.3, "tau": 0.8}
    found = per_task(Exact(program, data), values)
    for part, scale in ((slice(0, 2), 1.0), (slice(2, 3), 3.0)):
        plain = Hierarchy(hyperprior, with_scale(scale)).program(data[part])
        torch.testing.assert_close(found[part], per_task(Exact(plain, data[part]), values))


def test_a_task_that_gives_other_numbers_for_several_at_once_is_caught() -> None:
    """It runs under vmap, and is another there."""

    def counting(phi: tuple[Tensor, Tensor], x: Tensor, y: Tensor | None = None) -> Tensor:
        theta = pyro.sample("theta", dist.Normal(*phi))
        several = torch._C._functorch.is_batchedtensor(x)
        return pyro.sample("y", dist.Normal(theta + 0.5 * x, 2.0 if several else 1.0).to_event(1), obs=y)

    with pytest.warns(BayesmetaWarning, match="cannot be vectorised.*other numbers for several tasks at once"):
        program = Hierarchy(hyperprior, counting).program(tasks())
    assert not program.structure.vectorised


# ---------------------------------------------------------------------------------------------------------
# What the rows of a task may and may not do


def test_a_theta_whose_values_depend_on_the_rows_is_refused() -> None:
    change = observing(lambda x: dist.Uniform(x.min(), x.max()))

    with pytest.raises(HierarchyError, match=r"what θ site 'theta' may be depends on the observations.*context"):
        Hierarchy(hyperprior, change).program(tasks())


def test_a_prior_that_depends_on_the_rows_is_known_with_them_alone() -> None:
    by_design = Hierarchy(hyperprior, observing(lambda x: dist.Normal(0.0, 1 / x.square().sum().sqrt())))
    posterior = bm.fit(by_design, tasks(), bm.Laplace(draws=30), progress=False)
    other = tasks().with_names(["a", "b", "c"])

    assert posterior.adapt(other).theta["theta"].shape == (30, 3)
    for ask in (
        lambda: posterior.adapt(bm.Tasks.without_observations(["n"], like=tasks())),
        lambda: posterior.novelty(other),
        lambda: bm.prior(by_design, tasks()),
    ):
        with pytest.raises(HierarchyError, match=r"depends on all of a task's inputs.*as a context"):
            ask()


def test_a_plate_that_takes_some_rows_at_random_is_refused() -> None:
    def some(theta: Tensor, x: Tensor, y: Tensor | None) -> Any:
        with pyro.plate("rows", len(x), subsample_size=1) as at:
            return pyro.sample("y", dist.Normal(theta + 0 * x[at], 1.0), obs=None if y is None else y[at])

    with pytest.raises(HierarchyError, match=r"plate 'rows' takes 1 of \d rows at random"):
        Hierarchy(hyperprior, observing(lambda x: dist.Normal(0.0, 1.0), some)).program(tasks((3, 4)))


def test_a_delta_is_no_parameter() -> None:
    def twice(theta: Tensor, x: Tensor, y: Tensor | None) -> Any:
        double = pyro.sample("double", dist.Delta(2 * theta))
        return pyro.sample("y", dist.Normal(double + 0 * x, 1.0).to_event(1), obs=y)

    with pytest.raises(HierarchyError, match=r"site 'double' is a Delta.*pyro\.deterministic\('double', value\)"):
        Hierarchy(hyperprior, observing(lambda x: dist.Normal(0.0, 1.0), twice)).program(tasks())


def test_what_a_reparametrisation_leaves_behind_is_not_observed() -> None:
    moved = poutine.reparam(task, config={"theta": LocScaleReparam(0.0)})
    posterior = bm.fit(Hierarchy(hyperprior, moved), tasks(), bm.Laplace(draws=30), progress=False)

    assert posterior.collapsed.program.structure.observed == ("y",)
    assert posterior.adapt(tasks()).predict(tasks()).mean.shape == (3, 4)


def test_predictions_are_of_all_of_y() -> None:
    def two(theta: Tensor, x: Tensor, y: Tensor | None) -> Any:
        for k, name in enumerate("ab"):
            pyro.sample(name, dist.Normal(theta + 0 * x, 1.0).to_event(1), obs=None if y is None else y[:, k])

    pairs = bm.Tasks.from_arrays(np.zeros((3, 4)), np.random.default_rng(0).normal(size=(3, 4, 2)))
    both = Hierarchy(hyperprior, observing(lambda x: dist.Normal(0.0, 1.0), two))
    predicted = bm.fit(both, pairs, bm.Laplace(draws=30), progress=False).adapt(pairs).predict(pairs)

    with pytest.raises(HierarchyError, match=r"with shape \(4, 2\) in a task.*observes \['a', 'b'\]"):
        _ = predicted.mean
