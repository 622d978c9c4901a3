"""`python -m bayesmeta.demo`: run the demonstration, print its tables, write its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesmeta import terminal
from bayesmeta.demo import Result, Setting, run, show, write
from bayesmeta.errors import BayesmetaError, NotAvailableError

__all__ = ["app"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demonstrate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page and its pictures.")] = Path("runs/demo"),
    model: Annotated[str, typer.Option(help="A gallery model with tasks of several observations.")] = "radon",
    inference: Annotated[str, typer.Option("--inference", "-i", help="A preset's name or file.")] = "auto",
    hidden: Annotated[int, typer.Option(help="How many tasks the fit does not see.")] = 5,
    support: Annotated[int, typer.Option(help="How many observations of each it is adapted to.")] = 3,
    rounds: Annotated[int, typer.Option(help="How many times; each hides other tasks.")] = 1,
    seed: Annotated[int, typer.Option(help="Chooses what is hidden, and seeds the fit.")] = 0,
) -> None:
    """Learn a population, hide a few tasks, adapt to some of their observations, predict the others."""
    try:
        least = support + 4  # so that there is something to judge on
        setting = Setting(model, inference, hidden, support, least, rounds, seed=seed)
        with terminal.plain_warnings():
            _demonstrate(out, setting)
    except BayesmetaError as error:
        terminal.complain("Error", str(error))
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        terminal.complain("Stopped", "interrupted; nothing was written")
        raise typer.Exit(130) from error


def _demonstrate(out: Path, setting: Setting) -> None:
    _check(out)
    result = Result(setting, run(setting, progress=True))
    files = write(result, out)
    show(result)
    typer.echo(f"Written: {', '.join(str(file) for file in files)}")


def _check(out: Path) -> None:
    """Make the folder before anything is computed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAvailableError(f"--out: cannot make the folder {str(out)!r}: {error}") from error


if __name__ == "__main__":
    app()
