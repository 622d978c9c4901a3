"""Progress: nothing is left behind in a notebook, and nothing is shown where none is wanted."""

from __future__ import annotations

from typing import Any

import pytest
import rich.console
from IPython import display

from bayesmeta.track import bar, stage


class Output:
    """Stands for one output of a notebook, and remembers all that it showed."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, html: Any) -> None:
        self.shown.append(html.data)


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Output]:
    """The outputs of a notebook that this process seems to be in."""
    made: list[Output] = []

    def show(html: Any, display_id: bool) -> Output:
        made.append(Output())
        made[-1].update(html)
        return made[-1]

    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(display, "display", show)
    return made


def test_a_stage_in_a_notebook_is_one_output_and_empty_in_the_end(outputs: list[Output]) -> None:
    with stage("looking at <b>"):
        assert outputs[0].shown == ["", "looking at &lt;b&gt; …"]
    assert [output.shown[-1] for output in outputs] == [""]


def test_a_bar_in_a_notebook_counts_and_goes_also_after_an_error(outputs: list[Output]) -> None:
    def half() -> None:
        with bar("drawing", 2_000) as step:
            step(1_000, "drawing still")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        half()
    (output,) = outputs
    assert output.shown[1] == 'drawing <progress value="0" max="2000"></progress> 0/2,000'
    assert output.shown[-1] == ""


def test_a_bar_in_a_notebook_is_redrawn_now_and_then(outputs: list[Output]) -> None:
    with bar("drawing", 100_000) as step:
        for _ in range(100_000):
            step()
    assert len(outputs[0].shown) < 1_000


def test_nothing_is_shown_where_none_is_wanted(outputs: list[Output]) -> None:
    with stage("looking", progress=False), bar("drawing", 3, progress=False) as step:
        step()
    assert outputs == []


def test_in_a_file_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with stage("looking"), bar("drawing", 3) as step:
        step(3)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.strip() == ""
