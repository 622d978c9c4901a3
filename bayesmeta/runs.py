"""Runs: what a fit from the command line leaves in a folder, and adapting from that folder to a table.

A run folder holds posterior.nc, summary.csv, model.py (a copy of the model file as it was fitted) and
run.toml (seed, preset and versions). A table to adapt to has the columns that the run was fitted on: rows
with the response filled in are adapted on, rows with it empty are predicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bayesmeta import presets, shelf
from bayesmeta.archive import written_whole
from bayesmeta.csv_tables import Table, read_table
from bayesmeta.errors import DataError, FileFormatError, NotAvailableError, OptionError
from bayesmeta.tasks import split_missing

if TYPE_CHECKING:
    from bayesmeta.adapt import Adapted
    from bayesmeta.posterior import Posterior

__all__ = [
    "NEW_COLUMNS",
    "PREDICTED",
    "AdaptedTable",
    "adapt_table",
    "check_folder",
    "check_output",
    "missing_files",
    "model_of",
    "open_run",
    "rows_predicted",
    "save_run",
    "with_columns",
    "write_table",
]

PREDICTED = ("mean", "sd", "lower", "upper")
NEW_COLUMNS = (*PREDICTED, "k_hat")
"""What adapting adds to the columns of a table."""

_FILES = ("posterior.nc", "summary.csv", "model.py", "run.toml")


@dataclass(frozen=True)
class AdaptedTable:
    """A table adapted to.

    Attributes:
        frame: the table's rows in their order, its columns letter by letter, and `NEW_COLUMNS`.
        adapted: the tasks adapted, with θ and k-hat.
        n_support: rows adapted on, per task.
        n_query: rows predicted, per task.
    """

    frame: pd.DataFrame
    adapted: Adapted
    n_support: list[int]
    n_query: list[int]


def check_folder(out: Path) -> None:
    """Make the folder of a run: new, empty, or an earlier run that will be replaced.

    Raises:
        NotAvailableError: it holds something else, or cannot be made.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / "run.toml").is_file():
        raise NotAvailableError(
            f"--out: the folder {str(out)!r} is neither empty nor an earlier run; nothing was written. "
            "Name another folder"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAvailableError(f"--out: cannot make the folder {str(out)!r}: {error}") from error


def check_output(out: Path, level: float) -> None:
    """What can be known before anything is computed: the folder of the new table, and the level.

    Raises:
        OptionError: the level is not a probability.
        NotAvailableError: the table cannot be written there.
    """
    if not 0 < level < 1:
        raise OptionError(f"--level: got {level}; wanted a probability between 0 and 1, such as 0.9")
    if out.is_dir():
        raise NotAvailableError(f"--out: {str(out)!r} is a folder; wanted the path of a CSV file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotAvailableError(f"--out: cannot make the folder {str(out.parent)!r}: {error}") from error


def save_run(out: Path, model: shelf.ModelFile, posterior: Posterior, config: presets.Config) -> None:
    """Write a run's four files into its folder."""
    posterior.save(out / "posterior.nc")
    posterior.summary().to_csv(out / "summary.csv", index_label="parameter")
    (out / "model.py").write_bytes(model.source)
    info = posterior.info
    content = presets.write_toml(
        {
            "model": model.name,
            "seed": info.seed,
            "back_end": presets.back_end_of(config),
            "options": dataclasses.asdict(config),
            "versions": dict(info.versions),
        }
    )
    (out / "run.toml").write_text(content, encoding="utf-8")
    for name in ("learner.npz", "curves.csv"):  # of a network's run that was here before
        (out / name).unlink(missing_ok=True)


def open_run(run: Path) -> Posterior:
    """The posterior of a run folder.

    Raises:
        NotAvailableError: there is no such folder, or a file of it is missing.
        FileFormatError: a file of it does not fit.
    """
    missing_files(run, _FILES)
    import bayesmeta as bm

    return bm.load(run / "posterior.nc", model_of(run).hierarchy)


def model_of(run: Path) -> shelf.ModelFile:
    """The model file of a run, loaded.

    Raises:
        FileFormatError: it fails to run where it lies now.
    """
    try:
        return shelf.load_model(run / "model.py")
    except FileFormatError as error:
        raise FileFormatError(
            f"{error}. It is a copy of the model file, which runs in the folder of the run: what it reads beside "
            "itself has to lie there too"
        ) from error


def missing_files(run: Path, wanted: Sequence[str]) -> None:
    """Raise a NotAvailableError unless these files are in the folder of a run."""
    missing = [name for name in wanted if not (run / name).is_file()]
    if missing:
        what = f"has no {', '.join(missing)}" if run.is_dir() else "is not a folder"
        raise NotAvailableError(
            f"run: {str(run)!r} {what}; wanted the folder of a run, as made by `bayesmeta fit MODEL --out {run}`"
        )


def adapt_table(
    posterior: Posterior, path: Path, *, level: float = 0.9, method: str = "auto", seed: int = 0
) -> AdaptedTable:
    """Adapt to the tasks of a CSV file, and predict its rows without a response.

    Args:
        posterior: of tasks that came from a data frame.
        path: the CSV file, with the columns that the posterior's tasks came from; all are kept as they are.
        level: the probability that [lower, upper] holds the response.
        method: how to adapt, as in `posterior.adapt`.
        seed: of every draw.

    Raises:
        FileFormatError: the posterior's tasks did not come from a data frame.
        UnknownNameError: the file lacks a column.
        DataError: the file is not usable; the message names the line.
    """
    columns = posterior.tasks.columns
    if columns is None:
        raise FileFormatError(
            "run: its tasks did not come from a data frame, so no columns are known; adapt in Python, with "
            "posterior.adapt(tasks)"
        )
    table = read_table(path, columns)
    _check_names(table, posterior.tasks.names)
    result = with_columns(table, NEW_COLUMNS)
    support, query = split_missing(table.numbers, columns)
    adapted = posterior.adapt(support, method=method, seed=seed)
    if query.n_observations:
        predicted = rows_predicted(table, adapted.predict(query).frame(level=level))
        result.loc[table.unknown, list(PREDICTED)] = predicted.to_numpy()
    k_hat = dict(zip(adapted.names, adapted.k_hat.tolist(), strict=True))
    result["k_hat"] = table.tasks.map(k_hat)
    return AdaptedTable(result, adapted, support.sizes.tolist(), query.sizes.tolist())


def with_columns(table: Table, names: Sequence[str]) -> pd.DataFrame:
    """The cells of a table, and empty columns of numbers.

    Raises:
        DataError: it has a column of such a name.
    """
    taken = [name for name in names if name in table.cells]
    if taken:
        raise DataError(f"--data: has a column {taken[0]!r}, which the result needs; rename or drop it")
    return table.cells.assign(**dict.fromkeys(names, np.nan))


def rows_predicted(table: Table, predicted: pd.DataFrame) -> pd.DataFrame:
    """The predictions of the rows without a response, in the order of these rows, from a table by task and row."""
    tasks = table.tasks[table.unknown]
    place = tasks.groupby(tasks).cumcount()  # the row's place among those of its task that are predicted
    keys = pd.MultiIndex.from_arrays([tasks, place], names=["task", "row"])
    return predicted.set_index(["task", "row"]).reindex(keys)[list(PREDICTED)]


def write_table(frame: pd.DataFrame, out: Path) -> None:
    """Write a table as CSV, in place of an earlier one only when it is whole.

    Raises:
        NotAvailableError: it cannot be written.
    """
    with written_whole(out, "--out") as partial:
        frame.to_csv(partial, index=False)


def _check_names(table: Table, known: Sequence[str]) -> None:
    """Raise a DataError where a task is written as another number than in the fit: its rows would count twice."""
    names, numbers = set(known), {_as_number(name): name for name in known}
    for name in table.tasks.dropna().unique():
        other = numbers.get(_as_number(name), name)
        if name not in names and other in names:
            raise DataError(
                f"--data: task {name!r} is not one of the fit, which has {other!r}: write it as there, or read that "
                f"column as text before the fit: pd.read_csv(..., dtype={{{table.columns.task!r}: str}})"
            )


def _as_number(name: str) -> float | str:
    """The number that a name is, or the name."""
    try:
        return float(name)
    except ValueError:
        return name
