"""A posterior answers what the page asks: a state goes in, curves and sentences come out; no browser is known here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch import Tensor

from bayesmeta.adapt import Adapted, Config
from bayesmeta.errors import BayesmetaError, BayesmetaWarning
from bayesmeta.explore.curves import Curve, band, densities, limits, observations, of_element
from bayesmeta.explore.state import State
from bayesmeta.explore.subject import Element, Subject
from bayesmeta.explore.words import novelty_in_words, theta_in_words
from bayesmeta.plot.style import spread
from bayesmeta.tasks import Tasks

__all__ = ["Scene", "Settings"]

REPLICATES = 400
MOST_OF_FIT, DRAWS_OF_FIT = 200, 50

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Settings:
    """How the view computes.

    Attributes:
        level: Probability of the intervals.
        draws: Draws of φ to adapt with, at most.
        method: How to adapt: see `Posterior.adapt`.
        novelty: Whether to say if the task belongs to the population.
        seed: Seeds everything random: the same observations always give the same picture.
    """

    level: float = 0.9
    draws: int = 500
    method: str | Config = "auto"
    novelty: bool = True
    seed: int = 0


class Scene:
    """What is shown of a posterior; remembers what holds before any observation.

    Args:
        subject: The posterior and what one chooses from.
        state: What is shown first.
        settings: How to compute.

    Attributes:
        state: What was last shown without an error.
        adapted: θ of its task.

    Raises:
        BayesmetaError: The first task cannot be adapted to as asked.
    """

    def __init__(self, subject: Subject, state: State, settings: Settings) -> None:
        self.subject = subject
        self.settings = settings
        self._known: dict[str, tuple[Any, Any]] = {}
        self.state = state
        self.adapted = self._adapt(subject.tasks(state))

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What there is to draw and to say; where that fails, the state as it was and the error in words.

        Args:
            asked: A state as `State.plain` has it, with ``"id"``, and ``"settled"`` once nothing moves any more: only
                then novelty is looked at. Without ``"points"`` the task is shown as at first; with ``"copy"`` its
                observations become those of a new one.
        """
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                state = self.subject.read(asked)
                state = self.subject.copied(state) if asked.get("copy") else state
                shown = self._shown(state) | self._novelty(state, bool(asked.get("settled", True)))
        except BayesmetaError as error:
            return {"id": asked.get("id"), "error": str(error), "state": self.state.plain()}
        notes = dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, BayesmetaWarning))
        return {"id": asked.get("id"), "error": "", "notes": list(notes), **shown}

    def _shown(self, state: State) -> dict[str, Any]:
        subject, level = self.subject, self.settings.level
        adapted, nobody = self._adapt(subject.tasks(state)), self._nobody(state)
        now, before = band(subject, adapted, state, level), self._band_before(nobody, state)
        seen = observations(subject.seen(state.task))
        shown = {
            "state": state.plain(),
            "band": now,
            "before": before,
            "seen": seen,
            "limits": limits(subject.outcome, [now, before], [*seen["y"], *(point.y for point in state.points)]),
            "theta": None,
            "words": "",
            "method": adapted.method,
        }
        if subject.elements:
            element = subject.elements[state.element]
            draws, first = of_element(adapted, element)[:, 0], of_element(nobody, element)[:, 0]
            shown["theta"] = densities(element, draws, first, self._of_fit(element))
            shown["words"] = theta_in_words(element.label, draws, first, level)
        self.state, self.adapted = state, adapted
        return shown

    def _novelty(self, state: State, settled: bool) -> dict[str, Any]:
        """A sentence on whether the task belongs; None while points still move."""
        every = self.subject.every(state)
        if not settled or not self.settings.novelty or not every.n_observations:
            return {"novelty": "" if settled else None, "strange": False}
        posterior = self.subject.posterior
        try:
            found = posterior.novelty(every, replicates=REPLICATES, seed=self.settings.seed)
        except BayesmetaError as error:
            return {"novelty": f"Whether it belongs to the population cannot be told: {error}", "strange": False}
        words = novelty_in_words(found, state.task in posterior.tasks)
        return {"novelty": words, "strange": bool(found.strangers())}

    # --- what is computed, and what is known already --------------------------------------------------------------

    def _adapt(self, tasks: Tasks) -> Adapted:
        posterior, settings = self.subject.posterior, self.settings
        draws = self._draws(settings.draws)
        return posterior.adapt(tasks, method=settings.method, draws=draws, strangers="ignore", seed=settings.seed)

    def _draws(self, wanted: int) -> int:
        """As many draws of φ as there are; members of an ensemble as often as it takes."""
        posterior = self.subject.posterior
        return wanted if posterior.draws.members is not None else min(wanted, len(posterior.phi_coordinates))

    def _nobody(self, state: State) -> Adapted:
        """The population before any observation, at the context of the task."""
        task = self.subject.nobody(state)
        return self._once("nobody", _numbers(task.context), lambda: self._adapt(task))

    def _band_before(self, nobody: Adapted, state: State) -> Curve:
        key = (_numbers(nobody.tasks.context), state.column, state.held)
        return self._once("before", key, lambda: band(self.subject, nobody, state, self.settings.level))

    def _of_fit(self, element: Element) -> Tensor:
        """Posterior means of one element for tasks of the fit, of very many an even spread."""
        posterior = self.subject.posterior
        tasks = posterior.tasks[spread(len(posterior.tasks), MOST_OF_FIT).tolist()]
        draws = self._draws(DRAWS_OF_FIT)
        known = self._once("fit", (), lambda: posterior.adapt(tasks, draws=draws, strangers="ignore"))
        return of_element(known, element).mean(0)

    def _once(self, what: str, key: object, make: Callable[[], _Value]) -> _Value:
        """What `make` returns, kept until the key is another."""
        if what not in self._known or self._known[what][0] != key:
            self._known[what] = key, make()
        return cast("_Value", self._known[what][1])


def _numbers(context: Mapping[str, Tensor]) -> tuple[tuple[str, str], ...]:
    """A context as something that can be compared."""
    return tuple((name, str(values.tolist())) for name, values in context.items())
