"""The four classics that come with the package: numbers published in papers, as CSV files in `csv/`."""

from __future__ import annotations

from importlib import resources

import pandas as pd

from bayesmeta.data.entry import Entry, checked

__all__ = ["BUNDLED", "read_bundled"]

_FACTS = "The numbers are published facts. The R package {} distributes its table of them under {}."

BUNDLED = {
    entry.name: entry
    for entry in [
        Entry(
            name="eight_schools",
            title="effects of coaching for the SAT in eight schools, each with its standard error",
            columns={
                "school": "A to H",
                "y": "estimated effect in points",
                "sigma": "standard error of the estimate, taken as known",
            },
            task="school",
            n_rows=8,
            n_tasks=8,
            source="table 1 of the paper",
            licence="The numbers are published facts.",
            citation="Rubin, D. B. (1981). Estimation in parallel randomized experiments. "
            "Journal of Educational Statistics 6, 377-401.",
        ),
        Entry(
            name="baseball",
            title="18 batters of the 1970 season: their first 45 at-bats, and what the rest of the season brought",
            columns={
                "player": "name",
                "hits": "hits in the first 45 at-bats",
                "at_bats": "45 for all",
                "rest_average": "batting average over the rest of the season: the truth to be predicted",
                "rest_at_bats": "at-bats in the rest of the season",
            },
            task="player",
            n_rows=18,
            n_tasks=18,
            source="EfronMorris in the R package pscl",
            licence=_FACTS.format("pscl", "GPL-2"),
            citation="Efron, B. and Morris, C. (1975). Data analysis using Stein's estimator and its "
            "generalizations. "
            "Journal of the American Statistical Association 70, 311-319.",
        ),
        Entry(
            name="radon",
            title="radon in 919 houses of 85 counties in Minnesota",
            columns={
                "county": "name",
                "floor": "0 measured in the basement, 1 on the first floor",
                "log_radon": "log of the activity in pCi/L (zeros set to 0.1 before the logarithm)",
                "log_uranium": "log of the uranium in the county's soil in ppm; one value per county",
            },
            task="county",
            n_rows=919,
            n_tasks=85,
            source="radon in the R package HLMdiag (columns log.radon, basement, uranium, county.name), "
            "from the "
            "survey of the US Environmental Protection Agency",
            licence=_FACTS.format("HLMdiag", "GPL-2"),
            citation="Price, P. N., Nero, A. V. and Gelman, A. (1996). Bayesian prediction of mean indoor "
            "radon "
            "concentrations for Minnesota counties. Health Physics 71, 922-936.",
            note="HLMdiag's column basement is coded as floor is here: 1 is the first floor. Other copies "
            "of the "
            "survey take log(activity + 0.1).",
        ),
        Entry(
            name="sleepstudy",
            title="reaction times of 18 people over ten days with three hours of sleep a night",
            columns={
                "Subject": "number of the person",
                "Days": "0 to 9",
                "Reaction": "average reaction time in ms",
            },
            task="Subject",
            n_rows=180,
            n_tasks=18,
            source="sleepstudy in the R package lme4",
            licence=_FACTS.format("lme4", "GPL-2 or later"),
            citation="Belenky, G. et al. (2003). Patterns of performance degradation and restoration during "
            "sleep "
            "restriction and subsequent recovery. Journal of Sleep Research 12, 1-12.",
        ),
    ]
}


def read_bundled(name: str) -> pd.DataFrame:
    """The classic of that name, its counts checked."""
    file = resources.files("bayesmeta.data").joinpath("csv", f"{name}.csv")
    with file.open(encoding="utf-8") as text:
        return checked(pd.read_csv(text), BUNDLED[name], f"csv/{name}.csv")
