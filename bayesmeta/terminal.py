"""What the command line prints: tables of results, and errors and warnings as one paragraph each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bayesmeta import shelf
from bayesmeta.errors import BayesmetaWarning

if TYPE_CHECKING:
    from bayesmeta.diagnose.comparison import Comparison
    from bayesmeta.diagnose.sbc import Calibration
    from bayesmeta.meta import Learner
    from bayesmeta.network_runs import AdaptedNetworks
    from bayesmeta.posterior import Posterior
    from bayesmeta.runs import AdaptedTable

__all__ = [
    "complain",
    "plain_warnings",
    "show_adapted",
    "show_calibration",
    "show_comparison",
    "show_fit",
    "show_learner",
    "show_networks",
    "show_shelf",
]

SHOWN = ("mean", "sd", "q05", "q95", "ess_bulk", "r_hat")
MAX_ROWS = 40  # of a table on the terminal; files have all


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show the library's own warnings as a paragraph on stderr, without their place in the source."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, BayesmetaWarning):
                complain("Warning", str(message))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = shown
        yield


def complain(kind: str, message: str) -> None:
    """One paragraph on stderr."""
    paragraph = f"{kind}: {' '.join(message.split())}"
    style = "red" if kind == "Error" else "yellow"
    Console(stderr=True).print(paragraph, style=style, markup=False, highlight=False, soft_wrap=True)


def show_shelf(kind: shelf.Kind, hint: str) -> None:
    """The models of the gallery, or the presets, with their titles."""
    table = Table(kind, "what it is")
    for name in shelf.names(kind):
        table.add_row(escape(name), escape(shelf.title(shelf.path_of(kind, name))))
    _print(table, hint)


def show_fit(posterior: Posterior, folder: Path) -> None:
    """The summary of a fit, the road it took, and what it cost."""
    info, frame = posterior.info, posterior.summary()[list(SHOWN)]
    table = Table("")
    for column in frame.columns:
        table.add_column(escape(str(column)), overflow="fold")
    for label, *values in frame.head(MAX_ROWS).itertuples():
        table.add_row(escape(str(label)), *(_number(value) for value in values))
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in info.seconds.items())
    _print(
        table,
        _rest(len(frame), "rows; all are in summary.csv, with more columns"),
        info.road,
        *info.log,
        f"verdict: {posterior.verdict!r}",
        seconds,
        f"Written: {folder}",
    )


def show_adapted(result: AdaptedTable, out: Path) -> None:
    """A row for each task: rows adapted on and predicted, theta (sd), and k-hat."""
    from bayesmeta.psis import K_HAT  # here, because --help need not wait for torch

    adapted = result.adapted
    sites = {name: draws for name, draws in adapted.theta.items() if draws.ndim == 2}
    headings = (f"{escape(name)} (sd)" for name in sites)
    table = Table("task", "adapted on", "predicted", *headings, "k-hat")
    means = {name: (draws.mean(0), draws.std(0)) for name, draws in sites.items()}
    for t, name in enumerate(adapted.names[:MAX_ROWS]):
        theta = (f"{_number(mean[t])} ({_number(sd[t])})" for mean, sd in means.values())
        counts = (str(result.n_support[t]), str(result.n_query[t]))
        table.add_row(escape(name), *counts, *theta, _k_hat(float(adapted.k_hat[t]), K_HAT))
    suspect = int((adapted.k_hat > K_HAT).sum())
    doubt = f"{suspect} with k-hat above {K_HAT}: unlike the population; fit again with them included"
    rest = _rest(len(adapted.names), "tasks")
    _print(table, rest, doubt if suspect else "", f"Written: {out}")


def show_learner(learner: Learner, folder: Path) -> None:
    """What was learnt, the loss at the begin and the end of training, and what it cost."""
    curve = learner.curves["loss"]
    few = max(1, len(curve) // 10)
    table = Table("", "first tenth", "last tenth", "best")
    table.add_row("loss", *(_number(value) for value in (curve[:few].mean(), curve[-few:].mean(), curve.min())))
    watched = learner.curves.get("validation")
    if watched is not None and len(watched):
        table.add_row("validation", *(_number(value) for value in (watched[0], watched[-1], watched.min())))
    noise = "" if learner.noise is None else f"error left on other tasks: {learner.noise:.3g}"
    _print(table, repr(learner), noise, f"{learner.seconds:.1f} s", f"Written: {folder}")


def show_networks(result: AdaptedNetworks, out: Path) -> None:
    """A row for each task: rows adapted on and predicted."""
    table = Table("task", "adapted on", "predicted")
    names = result.adapted.names
    for t, name in enumerate(names[:MAX_ROWS]):
        table.add_row(escape(name), str(result.n_support[t]), str(result.n_query[t]))
    _print(table, _rest(len(names), "tasks"), f"Written: {out}")


def show_comparison(found: Comparison, files: list[Path]) -> None:
    """A row for each number of shots and learner; the file has more columns."""
    frame = found.shown()
    frame = frame[[column for column in frame.columns if column not in ("nll_joint", "crps", "width", "brier")]]
    table = Table("shots", box=None)
    table.add_column("learner", no_wrap=True)
    for column in frame.columns:
        table.add_column(escape(str(column)), overflow="fold")
    for (shots, name), *values in frame.itertuples():
        table.add_row(str(shots), escape(name), *map(escape, values))
    _print(table, *found.remarks(), f"Written: {', '.join(map(str, files))}" if files else "")


def show_calibration(found: Calibration, out: Path | None) -> None:
    """A row for each quantity, and the verdict."""
    frame = found.table()
    table = Table("")
    for column in frame.columns:
        table.add_column(escape(str(column)))
    for label, *values in frame.head(MAX_ROWS).itertuples():
        table.add_row(escape(str(label)), *(_number(value) for value in values))
    seconds = found.stats["seconds"]
    _print(
        table,
        _rest(len(frame), "quantities"),
        f"verdict: {found.verdict!r}",
        *found.notes(),
        f"{len(found):,} replications, {seconds.mean():.2f} s each",
        "" if out is None else f"Written: {out}",
    )


def _print(table: Table, *lines: str) -> None:
    console = Console()
    console.print(table)
    for line in lines:
        if line:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rest(count: int, what: str) -> str:
    return f"... and {count - MAX_ROWS} more {what}" if count > MAX_ROWS else ""


def _k_hat(value: float, limit: float) -> str:
    if value == -math.inf:  # all weights equal: nothing was learnt about phi
        return "-"
    return f"[yellow]{value:.2f}[/]" if value > limit else f"{value:.2f}"


def _number(value: Any) -> str:
    return escape(value) if isinstance(value, str) else f"{float(value):.3g}"
