"""`python -m benchmarks [NAME]`: one benchmark, or all of them, each run in a fresh process.

    speed     NUTS beside the peers' NUTS: seconds, effective draws per second, microseconds per gradient
    cold      from a cold process to a diagnosed posterior, with `auto`, beside the peers
    scaling   a thousand to a million tasks: seconds and memory, by `auto` and by SVI with minibatches
    chains    1 to 256 vectorised chains: effective draws per second
    roads     every preset on every model of the gallery: seconds, error, verdict
    fewshot   few-shot learners beside the Bayes-optimal prediction: sines, PACOH's environments, Gaussian processes
    hidden    hidden counties, rats, patients, districts, hospitals: adapting beside a refit, pooled and alone
    meta      one meta-gradient of MAML, beside higher, TorchOpt and parallel-metalearn
    sinusoid  sines without noise by MAML's protocol at full length, every meta-learner
    omniglot  5- and 20-way characters, 1 and 5 shots, after 20 minutes of training: accuracy and calibration

Rows are kept in OUT/NAME.json as they finish, and a second call goes on where the first stopped; OUT/NAME.md is
the page. `--fresh` measures what is selected anew, `--only bayesmeta --only radon` selects tools and problems,
`--quick` runs everything on a tiny budget to see that it works.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import chains, cold, fewshot, hidden, meta, omniglot, roads, scaling, sinusoid, speed
from benchmarks.bench import Bench, arguments, carry

__all__ = ["BENCHES", "main"]

ALL = (
    speed.BENCH,
    cold.BENCH,
    scaling.BENCH,
    chains.BENCH,
    roads.BENCH,
    fewshot.BENCH,
    hidden.BENCH,
    meta.BENCH,
    sinusoid.BENCH,
    omniglot.BENCH,
)
BENCHES = {bench.name: bench for bench in ALL}


def main(words: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if a run failed."""
    words = sys.argv[1:] if words is None else words
    names = list(BENCHES)
    if words and not words[0].startswith("-"):
        if words[0] not in BENCHES:
            raise SystemExit(f"{words[0]}: not a benchmark; there are {', '.join(BENCHES)}")
        names, words = [words[0]], words[1:]
    args = arguments(words, __doc__)
    if args.only and len(names) > 1:
        raise SystemExit("--only: say which benchmark it is of, as in `python -m benchmarks speed --only radon`")
    return max(carry(BENCHES[name], args, _command(BENCHES[name], args)) for name in names)


def _command(bench: Bench, args: argparse.Namespace) -> str:
    """What the page says that it was made by."""
    trained = f" --limit {args.limit:g}" if bench.trains and args.limit else ""
    return f"python -m benchmarks {bench.name}{' --quick' if args.quick else ''}{trained}"


if __name__ == "__main__":
    raise SystemExit(main())
