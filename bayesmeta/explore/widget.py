"""The view as a widget of Jupyter: what the page asks is answered in Python, nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from bayesmeta.adapt import Adapted
from bayesmeta.explore.scene import Scene
from bayesmeta.tasks import Tasks

__all__ = ["Explorer"]

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("elements.js", "pictures.js", "view.js")  # one module in the browser, in this order


class Explorer(anywidget.AnyWidget):
    """A posterior to play with; what was typed and what came of it can be had back.

    Made by `Posterior.explore`. The traits are what the page and Python tell each other.
    """

    _esm = "\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    _css = (PAGE / "view.css").read_text(encoding="utf-8")

    setup = traitlets.Dict().tag(sync=True)
    asked = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        first = scene.answer({**scene.state.plain(), "id": 0})
        super().__init__(setup={**scene.subject.plain(), "level": scene.settings.level}, shown=first)
        self.observe(self._answer, "asked")

    @property
    def tasks(self) -> Tasks:
        """The task that is shown, with the observations that can be moved."""
        return self._scene.subject.tasks(self._scene.state)

    @property
    def adapted(self) -> Adapted:
        """θ of it: `adapted.summary()`, `adapted.predict(x)`."""
        return self._scene.adapted

    def _answer(self, change: Any) -> None:
        self.shown = self._scene.answer(change["new"])

    def __repr__(self) -> str:
        subject, state = self._scene.subject, self._scene.state
        count = len(state.points)
        return f"Explorer of {len(subject.posterior.tasks):,} tasks: {state.task!r}, {count} new observations"
