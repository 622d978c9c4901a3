"""The data of the gallery, which comes with the package: numbers published in papers, as CSV files in `csv/`."""

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
        Entry(
            name="seeds",
            title="germination of seeds of two species of broomrape, on 21 plates with one of two root extracts",
            columns={
                "plate": "1 to 21",
                "seed": "O. aegyptiaca 75 or O. aegyptiaca 73",
                "extract": "bean or cucumber: the root extract on the plate",
                "seeds": "number of seeds on the plate",
                "germinated": "how many of them germinated",
            },
            task="plate",
            n_rows=21,
            n_tasks=21,
            source="table 3 of the paper; orob2 in the R package aod has the same numbers",
            licence=_FACTS.format("aod", "GPL-2 or later"),
            citation="Crowder, M. J. (1978). Beta-binomial Anova for proportions. Applied Statistics 27, 34-37.",
        ),
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
            source="epil in the R package MASS",
            licence=_FACTS.format("MASS", "GPL-2 or GPL-3"),
            citation="Thall, P. F. and Vail, S. C. (1990). Some covariance models for longitudinal count data with "
            "overdispersion. Biometrics 46, 657-671.",
            note="Copies differ in one number, subject 8 (patient 126 of the paper) in period 3. It is 23 here, as "
            "in the R packages HSAUR and geepack and in newer versions of MASS; older ones and the BUGS examples "
            "have 21. With 23, the 28 people on placebo have mean 8.79 and variance 215.3 in that period.",
        ),
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
            source="Orthodont in the R package nlme",
            licence=_FACTS.format("nlme", "GPL-2 or later"),
            citation="Potthoff, R. F. and Roy, S. N. (1964). A generalized multivariate analysis of variance model "
            "useful especially for growth curve problems. Biometrika 51, 313-326.",
        ),
        Entry(
            name="contraception",
            title="use of contraception by 1,934 women in 60 districts of Bangladesh (fertility survey of 1988)",
            columns={
                "woman": "number of the woman",
                "district": "number of the district, 1 to 61; 54 is missing",
                "use": "Y or N",
                "livch": "living children: 0, 1, 2 or 3+",
                "age": "in years, centred",
                "urban": "Y or N",
            },
            task="district",
            n_rows=1_934,
            n_tasks=60,
            source="Contraception in the R package mlmRev",
            licence=_FACTS.format("mlmRev", "GPL-2 or later"),
            citation="Huq, N. M. and Cleland, J. (1990). Bangladesh Fertility Survey 1989 (main report). National "
            "Institute of Population Research and Training, Dhaka.",
        ),
        Entry(
            name="kidney",
            title="days to infection at the catheter, twice for each of 38 patients on portable dialysis",
            columns={
                "patient": "1 to 38",
                "days": "from inserting the catheter to an infection or, for another reason, its removal",
                "infection": "1 an infection, 0 a removal: the infection was not waited for (censored)",
                "age": "in years, at the time of inserting the catheter",
                "sex": "male or female",
                "disease": "of the kidney: GN, AN, PKD or Other",
            },
            task="patient",
            n_rows=76,
            n_tasks=38,
            source="kidney in the R package survival",
            licence=_FACTS.format("survival", "LGPL-2 or later"),
            citation="McGilchrist, C. A. and Aisbett, C. W. (1991). Regression with frailty in survival analysis. "
            "Biometrics 47, 461-466.",
            note="Patient 21, a man with infections after 152 and 562 days, is an outlier that the conclusion about "
            "sex and frailty depends on (Therneau and Grambsch 2000, section 9.5).",
        ),
        Entry(
            name="theoph",
            title="concentration of theophylline in the blood of 12 people over a day after a dose by mouth",
            columns={
                "Subject": "1 to 12",
                "Wt": "weight in kg",
                "Dose": "in mg per kg of weight",
                "Time": "since the dose, in hours",
                "conc": "concentration in mg/L",
            },
            task="Subject",
            n_rows=132,
            n_tasks=12,
            source="Theoph in R's package datasets",
            licence=_FACTS.format("datasets", "GPL-2 or GPL-3"),
            citation="Boeckmann, A. J., Sheiner, L. B. and Beal, S. L. (1994). NONMEM Users Guide: Part V. NONMEM "
            "Project Group, University of California, San Francisco.",
        ),
    ]
}


def read_bundled(name: str) -> pd.DataFrame:
    """The data set of that name, its counts checked."""
    file = resources.files("bayesmeta.data").joinpath("csv", f"{name}.csv")
    with file.open(encoding="utf-8") as text:
        return checked(pd.read_csv(text), BUNDLED[name], f"csv/{name}.csv")
