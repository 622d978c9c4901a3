"""All pictures of the house are asked for in the same way: what is drawn comes first, `ax` last, the rest by name."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import bayesmeta as bm
from bayesmeta import plot

DOLLARS = "$5_$a^"  # as a formula it cannot be read
FOLDER = Path(plot.__file__).parent
PLOTS: list[Callable[..., Any]] = [getattr(plot, name) for name in plot.__all__]
ORDER = ("level", "label", "seed", "ax")
OUTCOMES = {"calibration": "y", "tasks": None, "adaptation": "tasks"}  # a second thing that is drawn with the first


def names_of(parameters: list[inspect.Parameter]) -> list[str]:
    return [parameter.name for parameter in parameters]


@pytest.mark.parametrize("function", PLOTS, ids=plot.__all__)
def test_what_is_drawn_comes_first_and_the_rest_is_given_by_name(function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    positional = [one for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    by_name = [one for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    second = OUTCOMES.get(function.__name__)

    assert parameters == positional + by_name, "no *args or **options, whose mistakes nobody sees"
    assert positional[0].default is inspect.Parameter.empty
    assert names_of(positional[1:]) == ([] if second is None else [second])
    assert all(one.default is not inspect.Parameter.empty for one in by_name)


@pytest.mark.parametrize("function", PLOTS, ids=plot.__all__)
def test_axes_come_last_and_common_words_in_one_order(function: Callable[..., Any]) -> None:
    signature = inspect.signature(function)
    names = list(signature.parameters)

    assert names[-1] == "ax"
    assert signature.parameters["ax"].default is None
    assert "Axes" in signature.parameters["ax"].annotation
    assert signature.return_annotation in ("Axes", "Grid")
    common = [name for name in names if name in ORDER and not _is_a_word(signature, name)]
    assert common == [name for name in ORDER if name in common]


def _is_a_word(signature: inspect.Signature, name: str) -> bool:
    """Whether `level` is that of φ or θ, as in `Posterior.summary`, and no probability."""
    return name == "level" and "Literal" in signature.parameters[name].annotation


@pytest.mark.parametrize("function", PLOTS, ids=plot.__all__)
def test_every_argument_is_described_in_its_place(function: Callable[..., Any]) -> None:
    words = inspect.getdoc(function) or ""
    described = re.findall(r"^    (\w+): ", words.partition("Args:")[2].partition("Returns:")[0], re.MULTILINE)

    assert described == list(inspect.signature(function).parameters)
    assert "Returns:" in words


def test_one_plot_a_file_of_its_name() -> None:
    for function in PLOTS:
        assert function.__module__ == f"bayesmeta.plot.{function.__name__}"
        assert (FOLDER / f"{function.__name__}.py").is_file()
    assert plot.__all__ == sorted(plot.__all__)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_of_matplotlib_is_loaded_or_set_for_all(path: Path) -> None:
    """Imports stand inside functions; settings of matplotlib are nobody's; the current figure is left as it is."""
    text = path.read_text(encoding="utf-8")
    outside = [line for line in text.splitlines() if re.match(r"(import|from) (matplotlib|arviz|pandas)", line)]

    assert outside == []
    for forbidden in ("rcParams", "plt.style", "matplotlib.use", "plt.gca", "plt.gcf", "plt.show", "rc_context"):
        assert forbidden not in text


@cache
def in_dollars() -> bm.Posterior:
    """Tasks, columns and a context whose names are formulas to matplotlib, and wrong ones."""
    task, x, y, context = (f"{DOLLARS}{k}" for k in range(4))
    rows = pd.DataFrame({task: np.repeat([f"{DOLLARS}{k}" for k in "abc"], 4), x: np.tile(np.arange(4.0), 3)})
    rows[context] = np.repeat([0.0, 1.0, 2.0], 4)
    rows[y] = np.random.default_rng(0).normal(rows[x] + rows[context])
    tasks = bm.Tasks.from_frame(rows, task=task, x=x, y=y, context=context)
    return bm.fit(bm.families.linear(tasks, slopes=()), tasks, bm.Laplace(draws=50), progress=False)


DRAWN: dict[str, Callable[[bm.Posterior], Any]] = {
    "adaptation": lambda known: plot.adaptation(known, known.tasks),
    "compare": lambda known: plot.compare({f"{DOLLARS}{k}": _score(known) for k in range(2)}),
    "loo": lambda known: plot.loo(known.loo(refit=False)),
    "novelty": lambda known: plot.novelty(known.novelty(known.tasks)),
    "population": lambda known: plot.population(known),
    "shrinkage": lambda known: plot.shrinkage(known),
    "shrinkage along": lambda known: plot.shrinkage(known, along=f"{DOLLARS}3"),
    "tasks": lambda known: plot.tasks(known),
    "trace": lambda known: plot.trace(known, level="theta"),
}


def _score(known: bm.Posterior) -> Any:
    return bm.score(known.adapt(known.tasks).predict(known.tasks), known.tasks)


@pytest.mark.filterwarnings("ignore::bayesmeta.errors.BayesmetaWarning")
@pytest.mark.parametrize("name", DRAWN)
def test_names_are_written_letter_by_letter(name: str) -> None:
    figure = np.asarray(DRAWN[name](in_dollars()), dtype=object).reshape(-1)[0].figure
    try:
        figure.draw_without_rendering()
        figure.savefig(io.BytesIO(), format="png", dpi=30)
    finally:
        plt.close(figure)


@pytest.mark.filterwarnings("ignore::bayesmeta.errors.BayesmetaWarning")
def test_names_that_are_too_long_are_cut() -> None:
    rows = pd.DataFrame({"site": np.repeat([f"{'x' * 120}{k}" for k in range(3)], 3)})
    rows["y"] = np.random.default_rng(0).normal(size=9)
    tasks = bm.Tasks.from_frame(rows, task="site", y="y")
    known = bm.fit(bm.families.linear(tasks), tasks, bm.Laplace(draws=50), progress=False)
    for name in ("loo", "shrinkage", "tasks", "novelty"):
        panel = np.asarray(DRAWN[name](known), dtype=object).reshape(-1)[0]
        texts = [panel.get_title(loc) for loc in ("left", "center")]
        texts += [tick.get_text() for tick in (*panel.get_xticklabels(), *panel.get_yticklabels())]
        plt.close(panel.figure)
        assert any("x…" in text for text in texts)
        assert not any("x" * 40 in text for text in texts)
