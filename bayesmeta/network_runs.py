"""Runs of networks: what `bayesmeta fit` leaves of a model file that has a `net`, and adapting from it to a table.

The folder holds learner.npz, curves.csv, model.py (a copy of the model file as it was fitted) and run.toml. A table to
adapt to is one of rows of numbers, as for the run of a hierarchy: see `bayesmeta.runs`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from bayesmeta import presets, shelf
from bayesmeta.csv_tables import read_table
from bayesmeta.draws import versions
from bayesmeta.errors import DataError, FileFormatError, NotAvailableError
from bayesmeta.runs import PREDICTED, missing_files, model_of, rows_predicted, with_columns
from bayesmeta.tasks import Columns, split_missing

if TYPE_CHECKING:
    from bayesmeta.meta import Adapted, Learner, Outputs

__all__ = ["AdaptedNetworks", "NetworkRun", "adapt_table", "is_network_run", "open_run", "save_run"]

LEARNER = "learner.npz"
FILES = (LEARNER, "curves.csv", "model.py", "run.toml")


@dataclass(frozen=True)
class NetworkRun:
    """The run of a network: what was learnt, and the columns of the frame that its tasks came from, if one."""

    learner: Learner
    columns: Columns | None


@dataclass(frozen=True)
class AdaptedNetworks:
    """A table adapted to.

    Attributes:
        frame: the table's rows in their order, its columns letter by letter, and `bayesmeta.runs.PREDICTED`.
        adapted: the networks of its tasks.
        n_support: rows adapted on, per task.
        n_query: rows predicted, per task.
    """

    frame: pd.DataFrame
    adapted: Adapted
    n_support: list[int]
    n_query: list[int]


def is_network_run(run: Path) -> bool:
    """Whether the folder is of a network's run."""
    return (run / LEARNER).is_file()


def save_run(
    out: Path, model: shelf.ModelFile, learner: Learner, config: presets.Config, *, columns: Columns | None, seed: int
) -> None:
    """Write a run's four files into its folder."""
    learner.save(out / LEARNER)
    curve = np.asarray(learner.curves["loss"])
    table = pd.DataFrame({"step": np.arange(1, len(curve) + 1), "loss": curve})
    if len(learner.curves.get("looks", ())):
        watched = pd.Series(learner.curves["validation"], index=learner.curves["looks"])
        table["validation"] = table["step"].map(watched.to_dict())
    table.to_csv(out / "curves.csv", index=False)
    (out / "model.py").write_bytes(model.source)
    record: dict[str, Any] = {
        "model": model.name,
        "seed": seed,
        "back_end": presets.back_end_of(config),
        "options": {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init},
        "versions": versions(),
    }
    if columns is not None:
        record["columns"] = dataclasses.asdict(columns)
    (out / "run.toml").write_text(presets.write_toml(record), encoding="utf-8")
    for name in ("posterior.nc", "summary.csv"):  # of a hierarchy's run that was here before
        (out / name).unlink(missing_ok=True)


def open_run(run: Path) -> NetworkRun:
    """The learner of a run folder.

    Raises:
        NotAvailableError: there is no such folder, or a file of it is missing.
        FileFormatError: a file of it does not fit.
    """
    missing_files(run, FILES)
    from bayesmeta import meta

    model = model_of(run)
    if not model.is_network:
        raise FileFormatError(f"{run / 'model.py'}: has a hierarchy, and {LEARNER} is of a network")
    loss = model.settings.get("loss")
    net: Any = model.model
    try:
        record = tomllib.loads((run / "run.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{run / 'run.toml'}: not TOML: {error}") from error
    learner = meta.load(run / LEARNER, net, loss=loss if callable(loss) else None)
    return NetworkRun(learner, _columns(record.get("columns")))


def _columns(record: Mapping[str, Any] | None) -> Columns | None:
    if record is None:
        return None
    x = record.get("x")
    return Columns(record["task"], tuple(x) if isinstance(x, list) else x, record["y"], tuple(record["context"]))


def adapt_table(run: NetworkRun, path: Path, *, level: float = 0.9, seed: int = 0) -> AdaptedNetworks:
    """Adapt to the tasks of a CSV file, and predict its rows without a response.

    Args:
        run: of a network whose tasks came from a data frame.
        path: the CSV file, with the columns that the tasks came from; all are kept as they are.
        level: the probability that [lower, upper] holds the response.
        seed: of every draw.

    Raises:
        NotAvailableError: its tasks did not come from a data frame, or it predicts classes.
        UnknownNameError: the file lacks a column.
        DataError: the file is not usable; the message names the line.
    """
    learner, columns = run.learner, run.columns
    if columns is None or learner.algorithm.loss != "mse":
        what = "predicts classes" if columns is not None else "was not learnt from a data frame"
        raise NotAvailableError(
            f"run: this network {what}, so that no table is adapted to; adapt in Python, with "
            "bayesmeta.meta.load(...).adapt(tasks)"
        )
    table = read_table(path, columns)
    result = with_columns(table, PREDICTED)
    support, query = split_missing(table.numbers, columns)
    adapted = learner.adapt(support, seed=seed)
    if query.n_observations:
        predicted = rows_predicted(table, _long(adapted.predict(query), level))
        result.loc[table.unknown, list(PREDICTED)] = predicted.to_numpy()
    return AdaptedNetworks(result, adapted, support.sizes.tolist(), query.sizes.tolist())


def _long(predicted: Outputs, level: float) -> pd.DataFrame:
    """A long table: task, row, mean, sd, lower, upper."""
    if predicted.mean.dim() != 2:
        raise DataError("a table has one response, and this network predicts several numbers for each row")
    lower, upper = predicted.interval(level)
    columns = dict(zip(PREDICTED, (predicted.mean, predicted.sd, lower, upper), strict=True))
    rows = [
        (name, row) for name, n in zip(predicted.names, predicted.query.sizes.tolist(), strict=True) for row in range(n)
    ]
    keep = torch.arange(predicted.mean.shape[1]) < predicted.query.sizes[:, None]
    return pd.DataFrame(rows, columns=["task", "row"]).assign(**{name: v[keep].numpy() for name, v in columns.items()})
