"""Runs side by side: what `bayesmeta fit` left in folders, on the same new tasks, of a table or of the model file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesmeta import network_runs, runs
from bayesmeta.csv_tables import read_table
from bayesmeta.errors import DataError, NotAvailableError, OptionError
from bayesmeta.tasks import Columns, Tasks, split_missing

if TYPE_CHECKING:
    from bayesmeta.diagnose.comparison import Comparison

__all__ = ["check_file", "compare_runs", "numbers_of", "written"]

OPTIMUM = "optimum"


def numbers_of(text: str) -> list[int]:
    """Whole numbers from a list with commas.

    Raises:
        OptionError: It is something else.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--shots: got {text!r}; wanted whole numbers with commas between, such as 1,5,10") from None


def check_file(out: Path | None) -> None:
    """Raise an OptionError unless the file to keep a comparison in ends in .npz, and nothing else is in the way."""
    if out is None:
        return
    if out.suffix != ".npz":
        raise OptionError(f"--out: got {str(out)!r}; wanted a file that ends in .npz: table and picture go beside it")
    in_the_way = [] if out.exists() else [file for file in _beside(out) if file.exists()]
    if in_the_way:
        raise OptionError(
            f"--out: {str(in_the_way[0])!r} is there already, and the table or the picture of {str(out)!r} would be "
            "written over it; name another file"
        )


def compare_runs(folders: Sequence[Path], data: Path | None, **options: Any) -> Comparison:
    """Compare the learners of runs by `bayesmeta.compare`.

    Args:
        folders: The folders of runs, which give the learners their names.
        data: A CSV file of new tasks with the columns that the runs were fitted on; by default what the function
            ``held_out()`` of the first run's model file gives. The optimum of an environment is compared too.
        **options: Of `bayesmeta.compare`.

    Raises:
        OptionError: No run, or one twice.
        NotAvailableError: A folder is no run, or no new tasks are known.
        DataError: The table cannot be read, or the runs were fitted on other columns.
    """
    if not folders or len(set(folders)) < len(folders):
        raise OptionError(f"runs: got {[str(folder) for folder in folders]}; wanted one at least, and each once")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    learners, columns = {}, []
    for name, folder in zip(names, folders, strict=True):
        learners[name], known = _opened(folder)
        columns.append(known)
    tasks: Any = _held_out(folders[0]) if data is None else _table(data, columns)
    if callable(getattr(tasks, "optimal", None)) and OPTIMUM not in learners:
        learners[OPTIMUM] = tasks.optimal
    from bayesmeta.compare import compare

    return compare(learners, tasks, **options)


def written(found: Comparison, out: Path) -> list[Path]:
    """Write the table and the picture of a comparison beside the file that it is kept in; their paths.

    Raises:
        NotAvailableError: They cannot be written.
    """
    import matplotlib.pyplot as plt

    table, picture = _beside(out)
    figure = found.plot()[0, 0].figure
    try:
        found.table.to_csv(table)
        figure.savefig(picture, dpi=150)
    except OSError as error:
        raise NotAvailableError(f"--out: cannot write {str(table)!r} and {str(picture)!r}: {error}") from error
    finally:
        plt.close(figure)
    return [table, picture]


def _beside(out: Path) -> tuple[Path, Path]:
    """The table and the picture that go with a file of a comparison."""
    return out.with_suffix(".csv"), out.with_suffix(".png")


def _opened(folder: Path) -> tuple[Any, Columns | None]:
    """The learner of a run, and the columns of the frame that its tasks came from, if one."""
    if network_runs.is_network_run(folder):
        run = network_runs.open_run(folder)
        return run.learner, run.columns
    posterior = runs.open_run(folder)
    return posterior, posterior.tasks.columns


def _table(data: Path, columns: Sequence[Columns | None]) -> Tasks:
    """The tasks of a CSV file, rows without a response left out."""
    first, *others = columns
    if first is None or any(other != first for other in others):
        what = "of no columns at all" if first is None else f"{first} and others"
        raise DataError(
            f"--data: the runs were fitted on different columns, or on none of a table ({what}): compare them in "
            "Python, by bm.compare"
        )
    observed, _ = split_missing(read_table(data, first).numbers, first)
    return observed[(observed.sizes > 0).tolist()]


def _held_out(folder: Path) -> Any:
    """New tasks by the model file of a run."""
    file = runs.model_of(folder)
    if file.held_out is None:
        raise NotAvailableError(
            f"--data: {str(file.path)!r} has no function held_out() that gives tasks, an environment or an image set "
            "that nothing was fitted on: pass new tasks as a table, --data new.csv"
        )
    return file.held_out()
