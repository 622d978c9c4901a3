"""The data sets outside the package: what they are, where they are, and how their files are read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from bayesmeta.data.entry import Entry
from bayesmeta.data.remote import Remote, Source

__all__ = ["REMOTE"]


def _csv(path: Path) -> pd.DataFrame:
    """A CSV file; R's row names, if it has them, are left out."""
    frame = pd.read_csv(path)
    return frame.drop(columns="rownames", errors="ignore")


def _orthodont(path: Path) -> pd.DataFrame:
    return _csv(path).astype({"distance": float})


def _epil_folder(path: Path) -> pd.DataFrame:
    """Older copies have 21 seizures for subject 8 in period 3; the other copies of the table have 23."""
    frame = _csv(path)
    frame.loc[(frame["subject"] == 8) & (frame["period"] == 3), "y"] = 23
    return frame


def _rats_json(path: Path) -> pd.DataFrame:
    """Weights y[rat][week] at days x[week], as a long frame."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return pd.DataFrame(
        [
            {"rat": rat, "day": day, "weight": weight}
            for rat, weights in enumerate(content["y"], start=1)
            for day, weight in zip(content["x"], weights, strict=True)
        ]
    )


_RDATASETS = "https://raw.githubusercontent.com/vincentarelbundock/Rdatasets"
_STAN_EXAMPLES = "https://raw.githubusercontent.com/stan-dev/example-models"

_ENTRIES = [
    Remote(
        Entry(
            name="rats",
            title="weights of 30 young rats, weekly for five weeks",
            columns={"rat": "1 to 30", "day": "age in days: 8, 15, 22, 29, 36", "weight": "in g"},
            task="rat",
            n_rows=150,
            n_tasks=30,
            source="the BUGS examples, volume 1, as kept with Stan's example models",
            licence="BSD-3-Clause (Stan's example models)",
            citation="Gelfand, A. E., Hills, S. E., Racine-Poon, A. and Smith, A. F. M. (1990). "
            "Illustration of "
            "Bayesian inference in normal data models using Gibbs sampling. Journal of the American "
            "Statistical "
            "Association 85, 972-985.",
        ),
        Source("classic/rats.csv", "d2063d9fba2e3b5fd7fd767b0aef786aaa30d96df89120c54af7917a67e2a817", _csv),
        Source(
            f"{_STAN_EXAMPLES}/bd393fa1bdd7a624be65d65cc799865503ecf8df/bugs_examples/vol1/rats/rats.data.json",
            "ce71c6a74e74a5488ab7e619add5e5d29e45766ec51842e9479a41bfc80391c1",
            _rats_json,
        ),
    ),
    Remote(
        Entry(
            name="cbpp",
            title="new cases of contagious bovine pleuropneumonia in 15 herds of zebu cattle in Ethiopia",
            columns={
                "herd": "1 to 15",
                "incidence": "new serological cases",
                "size": "animals in the herd",
                "period": "1 to 4",
            },
            task="herd",
            n_rows=56,
            n_tasks=15,
            source="cbpp in the R package lme4, as kept in Rdatasets",
            licence="GPL-2 or later (lme4)",
            citation="Lesnoff, M. et al. (2004). Within-herd spread of contagious bovine pleuropneumonia in "
            "Ethiopian "
            "highlands. Preventive Veterinary Medicine 64, 27-40.",
        ),
        Source("classic/cbpp.csv", "1a2c82ed41e8b4168d943848b61eebfe5d8a79af24e534c6551df0c41e1e17ba", _csv),
        Source(
            f"{_RDATASETS}/cc03c29690889dbe83089f5206e2422db8c3f71f/csv/lme4/cbpp.csv",
            "8919ad586aabfa75fa3b3ece7ad7b398c7b31bf17467f17c304cbec86afa910a",
            _csv,
        ),
    ),
    Remote(
        Entry(
            name="orthodont",
            title="growth of 27 children's jaws from 8 to 14 years of age",
            columns={
                "distance": "from the pituitary to the pterygomaxillary fissure, in mm",
                "age": "8, 10, 12 or 14 years",
                "Subject": "M01 to M16, F01 to F11",
                "Sex": "Male or Female",
            },
            task="Subject",
            n_rows=108,
            n_tasks=27,
            source="Orthodont in the R package nlme, as kept in Rdatasets",
            licence="GPL-2 or later (nlme)",
            citation="Potthoff, R. F. and Roy, S. N. (1964). A generalized multivariate analysis of "
            "variance model "
            "useful especially for growth curve problems. Biometrika 51, 313-326.",
        ),
        Source(
            "classic/orthodont.csv",
            "ef209e922a040ad1be2e884c325d5bb70bfc55a24349e3ea53aa24e427c23526",
            _orthodont,
        ),
        Source(
            f"{_RDATASETS}/1c97ab8a1df2469762e635481ba27cf4e80e3e51/csv/nlme/Orthodont.csv",
            "57793f38654aefd74338be403738f75d469c979c5ed224a9025c9c7ae541b8ee",
            _orthodont,
        ),
    ),
    Remote(
        Entry(
            name="epil",
            title="seizures of 59 people with epilepsy in four periods of two weeks, progabide against placebo",
            columns={
                "y": "seizures in the period",
                "trt": "placebo or progabide",
                "base": "seizures in the eight weeks before",
                "age": "in years",
                "V4": "1 in period 4, else 0",
                "subject": "1 to 59",
                "period": "1 to 4",
                "lbase": "log of base, centred",
                "lage": "log of age, centred",
            },
            task="subject",
            n_rows=236,
            n_tasks=59,
            source="epil in the R package MASS, as kept in Rdatasets",
            licence="GPL-2 or GPL-3 (MASS)",
            citation="Thall, P. F. and Vail, S. C. (1990). Some covariance models for longitudinal count "
            "data with "
            "overdispersion. Biometrics 46, 657-671.",
            note="Copies of MASS differ in one number, subject 8 in period 3: 21 in older ones, 23 in newer "
            "ones and "
            "in the R packages HSAUR and geepack. Here it is 23, whichever file is read.",
        ),
        Source(
            "classic/epil.csv",
            "8813d8963419a1f6656f4a80095c89cf191ff4e225ba5d86e03f7d6f7675fe46",
            _epil_folder,
        ),
        Source(
            f"{_RDATASETS}/1c33d6651186a5673fe87d1ca83d1341ff397be9/csv/MASS/epil.csv",
            "6d4aded9dda1c8cd051d370ce77816264c972e773417e62cfad3d061d3083a99",
            _csv,
        ),
    ),
    Remote(
        Entry(
            name="hsb82",
            title="mathematics achievement of 7,185 pupils in 160 schools (High School and Beyond, 1982)",
            columns={
                "school": "number of the school",
                "minrty": "Yes or No: of a minority",
                "sx": "Male or Female",
                "ses": "socio-economic status",
                "mAch": "mathematics achievement",
                "meanses": "mean of ses in the school",
                "sector": "Public or Catholic",
                "cses": "ses less the school's mean",
            },
            task="school",
            n_rows=7_185,
            n_tasks=160,
            source="Hsb82 in the R package mlmRev",
            licence="GPL-2 or later (mlmRev)",
            citation="Raudenbush, S. W. and Bryk, A. S. (2002). Hierarchical Linear Models, 2nd edition. Sage.",
        ),
        Source("classic/hsb82.csv", "01ebe7f2c4b0daa9dd0939a0462cb81d7f60617d991822ae7c499a384100d14e", _csv),
    ),
    Remote(
        Entry(
            name="contraception",
            title="use of contraception by 1,934 women in 60 districts of Bangladesh (fertility survey of 1988)",
            columns={
                "woman": "number of the woman",
                "district": "number of the district",
                "use": "Y or N",
                "livch": "living children: 0, 1, 2 or 3+",
                "age": "in years, centred",
                "urban": "Y or N",
            },
            task="district",
            n_rows=1_934,
            n_tasks=60,
            source="Contraception in the R package mlmRev",
            licence="GPL-2 or later (mlmRev)",
            citation="Huq, N. M. and Cleland, J. (1990). Bangladesh Fertility Survey 1989 (main report). "
            "National "
            "Institute of Population Research and Training, Dhaka.",
        ),
        Source(
            "classic/contraception.csv",
            "b83c7f0c978e26485d3cb9cec40472195b2e04b6c0b9ee16c5a96eba2623c712",
            _csv,
        ),
    ),
]

REMOTE = {remote.entry.name: remote for remote in _ENTRIES}
