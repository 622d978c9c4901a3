"""A posterior to play with in Jupyter: type or drag observations of a task, and see θ and the prediction follow.

`Posterior.explore` makes it. Python answers with the same `adapt`, `predict` and `novelty` that a program would call;
the scripts in `page/` only draw. It needs the extra ``bayesmeta[explore]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayesmeta.errors import NotAvailableError, OptionError, UnknownNameError, unknown
from bayesmeta.explore.scene import Scene, Settings
from bayesmeta.explore.subject import Subject
from bayesmeta.plot.style import check_level

if TYPE_CHECKING:
    from bayesmeta.adapt import Config
    from bayesmeta.explore.widget import Explorer
    from bayesmeta.posterior import Posterior
    from bayesmeta.tasks import Tasks

__all__ = ["explore"]


def explore(
    posterior: Posterior,
    tasks: Tasks | None = None,
    *,
    task: str | None = None,
    site: str | None = None,
    level: float = 0.9,
    method: str | Config = "auto",
    draws: int = 500,
    novelty: bool = True,
    seed: int = 0,
) -> Explorer:
    """An interactive view in Jupyter: choose a task, type or drag observations, see the prediction and θ move.

    A new task starts without observations. To a task of the fit, observations are added, whose own cannot be moved,
    but copied to a new task. Where x has several columns, one is the horizontal axis and the others are held. A
    context that is not one number per task is that of the first task.

    Args:
        posterior: The fitted population.
        tasks: Further tasks to choose from, not of the fit; their observations can be moved.
        task: Name of the task that is shown first; a new one by default.
        site: The θ that is shown first: a site, or an element as in ``"beta[1]"``.
        level: Probability of the intervals.
        method: How to adapt: see `Posterior.adapt`. A fast one is best.
        draws: Draws of φ to adapt with, at most.
        novelty: Whether to say if the task belongs to the population; not for models where that takes seconds.
        seed: Seeds everything random.

    Returns:
        The widget: the last line of a cell shows it. `Explorer.tasks` and `Explorer.adapted` have what was typed and
        what came of it.

    Raises:
        NotAvailableError: The extra is not installed, or observations are not one number each.
        UnknownNameError: No such task or site.
        OptionError: A level outside (0, 1), or no draws.
        DataError: The further tasks are not shaped as those of the fit, or are tasks of the fit.
    """
    check_level(level)
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise OptionError(f"draws must be a whole number of at least 1, got {draws!r}")
    make = _widget()
    subject = Subject(posterior, tasks)
    state = subject.start(task, _element(subject, site))
    return make(Scene(subject, state, Settings(level, draws, method, novelty, seed)))


def _widget() -> type[Explorer]:
    try:
        from bayesmeta.explore.widget import Explorer
    except ImportError as error:
        raise NotAvailableError(
            f"explore() needs a package that is not installed ({error.name}): pip install 'bayesmeta[explore]', and "
            "start Jupyter again"
        ) from error
    return Explorer


def _element(subject: Subject, site: str | None) -> int:
    """The position of the element of that label, or of the first of a site."""
    if site is None:
        return 0
    for k, element in enumerate(subject.elements):
        if site in (element.label, element.site):
            return k
    labels = [element.label for element in subject.elements]
    raise UnknownNameError(unknown("element of θ", site, labels))
