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
            name="heart",
            title="920 patients of four hospitals who were examined for coronary heart disease",
            columns={
                "hospital": "cleveland, hungary, switzerland or va_long_beach",
                "age": "in years",
                "sex": "1 male, 0 female",
                "cp": "chest pain: 1 typical angina, 2 atypical angina, 3 another pain, 4 none",
                "trestbps": "blood pressure at rest in mm Hg",
                "chol": "cholesterol in mg/dl",
                "fbs": "1 if fasting blood sugar is above 120 mg/dl",
                "restecg": "electrocardiogram at rest: 0 normal, 1 ST-T wave abnormal, 2 hypertrophy",
                "thalach": "highest heart rate reached",
                "exang": "1 if exercise brought on angina",
                "oldpeak": "ST depression brought on by exercise",
                "slope": "of the ST segment at peak exercise: 1 up, 2 flat, 3 down",
                "ca": "vessels coloured by fluoroscopy, 0 to 3",
                "thal": "3 normal, 6 fixed defect, 7 reversible defect",
                "num": "diagnosis by angiography: 0 no vessel narrowed by half, 1 to 4 disease",
            },
            task="hospital",
            n_rows=920,
            n_tasks=4,
            source="the four processed files of the UCI data set Heart Disease (doi 10.24432/C52P4X), in one table",
            licence="CC BY 4.0",
            citation="Janosi, A., Steinbrunn, W., Pfisterer, M. and Detrano, R. (1988). Heart Disease. UCI Machine "
            "Learning Repository. Detrano, R. et al. (1989). International application of a new probability algorithm "
            "for the diagnosis of coronary artery disease. American Journal of Cardiology 64, 304-310.",
            note="hospital, age, sex, cp and num are complete. chol is 0 where it was not measured, for all of "
            "switzerland, and trestbps once; ca, thal and slope are nearly empty outside of cleveland.",
            n_empty=1_759,
        ),
        Source(
            "heart_disease/heart_disease_4hospitals.csv",
            "3f7f09cca6772057b5fc5dea065eb8b0f48129686bd9a22e5848ef255c0e75ce",
            _csv,
        ),
    ),
]

REMOTE = {remote.entry.name: remote for remote in _ENTRIES}
