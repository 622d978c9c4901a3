"""The command line: fit a model file, adapt the fit to a table, report it, look at the gallery and the presets.

Bad input ends with exit code 2 and one paragraph that says what to do; Ctrl-C with 130.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bayesmeta import presets, shelf, terminal
from bayesmeta.errors import BayesmetaError, NotAvailableError, OptionError

__all__ = ["app", "main"]

_FIT = """Fit a model: learn p(phi | D) from the tasks that its load() gives.

Examples:

\b
  bayesmeta fit radon --out runs/radon
  bayesmeta fit models/radon.py --inference inference/nuts.toml --out runs/radon
  bayesmeta fit mine.py --draws 500 --chains 2 --seed 7
  bayesmeta fit sines --inference maml
"""

_ADAPT = """Adapt a fit to new tasks, from a table and without a refit.

The table (CSV) has the columns that the run was fitted on. Rows with the response filled in are adapted on;
rows with it empty are predicted. A task with no response at all is predicted from the population.

Examples:

\b
  bayesmeta adapt runs/radon --data new_houses.csv --out adapted.csv
  bayesmeta adapt runs/radon --data new_houses.csv --out adapted.csv --level 0.5
"""

_REPORT = """Write a fit as one page of HTML: verdict, population, tasks, predictive checks, how it was made.

The page is a single file that needs no network: to be sent, read on a phone, or printed.

Examples:

\b
  bayesmeta report runs/radon
  bayesmeta report runs/radon --out radon.html
"""

_CHECK = """Check a model and a back-end: simulation-based calibration at the design of the model's tasks.

Data are drawn from the model again and again and fitted; the true values must be anywhere among the draws. Ends
with exit code 1 where they are not. A thousand replications take minutes to hours; --out keeps them while they are
made, and the same command goes on where an interrupted one stopped.

Examples:

\b
  bayesmeta check eight_schools --replications 200
  bayesmeta check mine.py --inference nuts --replications 1000 --out mine-nuts.npz
"""

_COMPARE = """Compare runs on new tasks: accuracy, calibration, time to train and to adapt, by number of shots.

New tasks come from a table (CSV) with the columns that the runs were fitted on, rows with the response filled in;
or from the function held_out() of the first run's model file. Every run adapts to the first observations of each
task and predicts the same others. With --out what is found is kept, and an interrupted comparison goes on.

Examples:

\b
  bayesmeta compare runs/linear runs/robust --data new.csv --shots 1,3,5
  bayesmeta compare runs/maml runs/reptile --shots 5,10 --out sines.npz
"""

_MODELS = """List the gallery of models, or copy one of them to change it.

Examples:

\b
  bayesmeta models
  bayesmeta models copy radon
  bayesmeta models copy radon --to my_radon.py
"""

_PRESETS = """List the presets (back-ends with their settings), or copy one of them to change it.

Examples:

\b
  bayesmeta presets
  bayesmeta presets copy nuts --to careful.toml
"""


class _Reporting(TyperGroup):
    """Turns what the library raises on purpose into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with terminal.plain_warnings():
                return super().invoke(ctx)
        except BayesmetaError as error:
            terminal.complain("Error", str(error))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            terminal.complain("Stopped", "interrupted; nothing more was written")
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Reporting,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learn a population of related tasks once; adapt to a new task in milliseconds.",
)
_models = typer.Typer(invoke_without_command=True, help=_MODELS)
_presets = typer.Typer(invoke_without_command=True, help=_PRESETS)
app.add_typer(_models, name="models")
app.add_typer(_presets, name="presets")

_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
_Seed = Annotated[int, typer.Option(help="Seed of every draw: the same seed gives the same result.")]
_To = Annotated[Path, typer.Option(help="A folder, or the path of the new file.")]


def main() -> None:
    """Run the command line."""
    app(prog_name="bayesmeta")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bayesmeta {importlib.metadata.version('bayesmeta')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(help=_FIT)
def fit(
    model: Annotated[str, typer.Argument(help="A model file (.py), or a name from `bayesmeta models`.")],
    inference: Annotated[
        str, typer.Option("--inference", "-i", help="A preset's name, or the path of a TOML file.")
    ] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/MODEL by default.")] = None,
    seed: _Seed = 0,
    draws: Annotated[int | None, typer.Option(help="Draws per chain, in place of the preset's.")] = None,
    tune: Annotated[int | None, typer.Option(help="Warm-up per chain, in place of the preset's.")] = None,
    chains: Annotated[int | None, typer.Option(help="Chains, in place of the preset's.")] = None,
    quiet: _Quiet = False,
) -> None:
    """Fit a model file and write the folder of the run."""
    config = presets.read_preset(inference)
    given = {"draws": draws, "tune": tune, "chains": chains}
    config = presets.with_options(config, {key: value for key, value in given.items() if value is not None})
    import bayesmeta as bm  # here, because --help need not wait for torch
    from bayesmeta import runs

    file = shelf.load_model(model)
    folder = out or Path("runs") / file.name
    runs.check_folder(folder)
    if file.is_network:
        _fit_network(file, config, folder, seed, quiet)
        return
    posterior = bm.fit(file.hierarchy, file.tasks(), inference=config, seed=seed, progress=not quiet)
    runs.save_run(folder, file, posterior, config)
    if not quiet:
        terminal.show_fit(posterior, folder)
    if posterior.info.interrupted:
        raise typer.Exit(130)  # what was drawn until then is saved, and the warning of the back-end was shown


def _fit_network(file: shelf.ModelFile, config: presets.Config, folder: Path, seed: int, quiet: bool) -> None:
    """Learn the network of a model file and write the folder of the run."""
    import bayesmeta as bm
    from bayesmeta import network_runs
    from bayesmeta.tasks import Tasks

    net: Any = file.model
    if presets.is_algorithm(config):
        config = presets.with_options(config, file.settings)
    tasks = file.data()
    learner: Any = bm.fit(net, tasks, inference=config, seed=seed, progress=not quiet)
    columns = tasks.columns if isinstance(tasks, Tasks) else None
    network_runs.save_run(folder, file, learner, config, columns=columns, seed=seed)
    if not quiet:
        terminal.show_learner(learner, folder)
    if learner.interrupted:
        raise typer.Exit(130)  # what was learnt until then is saved, and the warning was shown


@app.command(help=_ADAPT)
def adapt(
    run: Annotated[Path, typer.Argument(help="The folder of a run, as `bayesmeta fit` makes it.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="The table of the new tasks, a CSV file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table with predictions, a CSV file.")],
    level: Annotated[float, typer.Option(help="Probability of the interval from lower to upper.")] = 0.9,
    method: Annotated[str, typer.Option(help="How to adapt; 'auto' takes what the fit allows.")] = "auto",
    seed: _Seed = 0,
    quiet: _Quiet = False,
) -> None:
    """Adapt a run to the tasks of a CSV file and write its rows with predictions."""
    from bayesmeta import network_runs, runs

    runs.check_output(out, level)
    if network_runs.is_network_run(run):
        if method != "auto":
            raise OptionError(f"--method: got {method!r}, and this run is of a network, which adapts as it was learnt")
        found = network_runs.adapt_table(network_runs.open_run(run), data, level=level, seed=seed)
        runs.write_table(found.frame, out)
        if not quiet:
            terminal.show_networks(found, out)
        return
    table = runs.adapt_table(runs.open_run(run), data, level=level, method=method, seed=seed)
    runs.write_table(table.frame, out)
    if not quiet:
        terminal.show_adapted(table, out)


@app.command(help=_REPORT)
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, as `bayesmeta fit` makes it.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; RUN/report.html by default.")] = None,
    title: Annotated[str | None, typer.Option(help="Its heading; by default the title of the model.")] = None,
    seed: _Seed = 0,
    quiet: _Quiet = False,
) -> None:
    """Write the page of a run."""
    from bayesmeta import network_runs, runs

    if network_runs.is_network_run(run):
        raise NotAvailableError(f"run: {str(run)!r} is of a network; a report is of the posterior of a hierarchy")
    path = runs.open_run(run).report(out or run / "report.html", title=title, seed=seed, progress=not quiet)
    if not quiet:
        typer.echo(f"Written: {path}")


@app.command(help=_CHECK)
def check(
    model: Annotated[str, typer.Argument(help="A model file (.py), or a name from `bayesmeta models`.")],
    inference: Annotated[
        str, typer.Option("--inference", "-i", help="A preset's name, or the path of a TOML file.")
    ] = "auto",
    replications: Annotated[int, typer.Option("--replications", "-n", help="Data sets to draw and fit.")] = 1000,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to keep the ranks in (.npz).")] = None,
    cores: Annotated[int | None, typer.Option(help="Processes at once; all cores by default.")] = None,
    seed: _Seed = 0,
    quiet: _Quiet = False,
) -> None:
    """Calibrate a back-end on a model file."""
    config = presets.read_preset(inference)
    import bayesmeta as bm

    file = shelf.load_model(model)
    found = bm.sbc(
        file.hierarchy,
        file.tasks(),
        config,
        replications,
        cores=cores,
        path=out,
        seed=seed,
        progress=not quiet,
    )
    if not quiet:
        terminal.show_calibration(found, out)
    if found.interrupted:
        raise typer.Exit(130)  # the warning of bm.sbc was shown
    if found.verdict.level == "failed":
        raise typer.Exit(1)


@app.command(help=_COMPARE)
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, as `bayesmeta fit` makes them.")],
    data: Annotated[Path | None, typer.Option("--data", "-d", help="The table of new tasks, a CSV file.")] = None,
    shots: Annotated[str, typer.Option(help="Observations to adapt on, with commas between.")] = "1,5,10",
    count: Annotated[int, typer.Option("--count", "-n", help="Tasks to draw, where there is no table.")] = 200,
    ways: Annotated[int, typer.Option(help="Classes of a task of an image set.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to keep it in (.npz), table and picture beside it.")
    ] = None,
    level: Annotated[float, typer.Option(help="Probability of the intervals whose coverage is looked at.")] = 0.9,
    seed: _Seed = 0,
    quiet: _Quiet = False,
) -> None:
    """Compare the learners of runs."""
    from bayesmeta.compare_runs import check_file, compare_runs, numbers_of, written

    check_file(out)
    options: dict[str, Any] = {"shots": numbers_of(shots), "count": count, "ways": ways, "level": level, "seed": seed}
    found = compare_runs(runs, data, **options, path=out, progress=not quiet)
    files = [] if out is None else [out, *written(found, out)]
    if not quiet:
        terminal.show_comparison(found, files)
    if found.interrupted:
        raise typer.Exit(130)  # the warning of bm.compare was shown


@_models.callback()
def _list_models(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        terminal.show_shelf(
            "model", "bayesmeta fit NAME fits it; bayesmeta models copy NAME puts the file where you are."
        )


@_models.command("copy")
def _copy_model(name: Annotated[str, typer.Argument(help="A name from `bayesmeta models`.")], to: _To = Path()) -> None:
    """Copy a model of the gallery, to change it."""
    typer.echo(shelf.copy("model", name, to))


@_presets.callback()
def _list_presets(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is None:
        terminal.show_shelf(
            "preset", "bayesmeta fit MODEL --inference NAME uses it; bayesmeta presets copy NAME copies it."
        )


@_presets.command("copy")
def _copy_preset(
    name: Annotated[str, typer.Argument(help="A name from `bayesmeta presets`.")], to: _To = Path()
) -> None:
    """Copy a preset, to change it."""
    typer.echo(shelf.copy("preset", name, to))
