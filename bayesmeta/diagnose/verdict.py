"""The verdict on draws: fine, doubtful or failed, each with its reason and a remedy.

Every check that applies to what a back-end did is made: R-hat and effective sizes of chains, divergences, E-BFMI
and tree depth of Hamiltonian samplers, k-hat and effective size of importance weights, the trend of an ELBO, the
measured error of an approximate evidence. The worst of them is the verdict.

Thresholds: R-hat and ESS after Vehtari, Gelman, Simpson, Carpenter, Bürkner 2021; k-hat after Vehtari, Simpson,
Gelman, Yao, Gabry 2024; E-BFMI after Betancourt 2016.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bayesmeta.draws import Draws
from bayesmeta.psis import K_HAT
from bayesmeta.summary import ess, r_hat

__all__ = ["LEVELS", "Finding", "Verdict", "judge", "labelled"]

Level = Literal["fine", "doubtful", "failed"]
LEVELS: tuple[Level, ...] = ("fine", "doubtful", "failed")
Array = npt.NDArray[np.float64]

FEW = 100  # coordinates of φ up to which a posterior is to be had rather than an ensemble

MORE = "take more draws, or a longer warm-up (tune)"
STRETCH = "raise target_accept towards 0.99, or look at the priors of scale parameters"


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, what came out, and what to do if it is not fine."""

    check: str
    value: float
    level: Level
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of one posterior; the worst is the verdict.

    Examples:
        >>> Verdict((Finding("k-hat", 0.31, "fine", "k-hat 0.31 is below 0.7"),))
        fine: k-hat 0.31 is below 0.7
    """

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """``"fine"``, ``"doubtful"`` or ``"failed"``."""
        return LEVELS[self.rank]

    @property
    def rank(self) -> int:
        """0 for fine, 1 for doubtful, 2 for failed."""
        return max((LEVELS.index(finding.level) for finding in self.findings), default=0)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not fine, or what was found fine, a sentence each."""
        return tuple(f.reason for f in self.findings if f.level == self.level or f.level != "fine")

    @property
    def remedies(self) -> tuple[str, ...]:
        """What to do about it, a sentence each, without repetition."""
        return tuple(dict.fromkeys(f.remedy for f in self.findings if f.level != "fine" and f.remedy))

    def plain(self) -> dict[str, Any]:
        """As plain data, for files."""
        return {"level": self.level, "findings": [asdict(finding) for finding in self.findings]}

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Verdict:
        """From plain data."""
        return Verdict(tuple(Finding(**finding) for finding in plain.get("findings", ())))

    def __repr__(self) -> str:
        remedy = f". Remedy: {'; '.join(self.remedies)}" if self.remedies else ""
        return f"{self.level}: {'; '.join(self.reasons)}{remedy}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(f.check)}</td><td>{f.level}</td><td>{escape(f.reason)}</td><td>{escape(f.remedy)}</td></tr>"
            for f in self.findings
        )
        head = "".join(f"<th>{name}</th>" for name in ("check", "verdict", "reason", "remedy"))
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<div><p><b>Verdict: {self.level}</b></p>{table}</div>"


def judge(draws: Draws, phi: Mapping[str, Array], error: Mapping[str, float] | None = None) -> Verdict:
    """The verdict on draws.

    Args:
        draws: What the back-end returned.
        phi: Draws of every element of φ by its label, each (chains, draws). What is the same in all draws is a
            constant of the model, such as the first element of a Cholesky factor of correlations.
        error: What was measured of the error of log Z, where it is approximated; see `Info.evidence_error`.
    """
    findings: list[Finding] = []
    moving = {name: values for name, values in phi.items() if float(np.ptp(values)) != 0.0}
    if draws.members is not None:
        findings += _ensemble(draws, draws.members)
    elif not moving:
        findings.append(_point(draws.point))
    elif draws.k_hat is not None:
        findings += _weights(draws)
    else:
        findings += [*_chains(moving), *_hamiltonian(draws)]
    findings += [*_elbo(draws.curves), *_error(error or {})]
    if draws.interrupted:
        taken = f"{draws.u.shape[0] * draws.u.shape[1]:,} draws were taken before it was interrupted"
        findings.append(Finding("interrupted", 1.0, "doubtful", taken, "run it to its end"))
    return Verdict(tuple(findings))


def _graded(
    check: str, value: float, doubtful: float, failed: float, text: str, remedy: str, *, low_is_bad: bool = False
) -> Finding:
    """A finding by two thresholds; NaN is doubtful."""
    sign = -1.0 if low_is_bad else 1.0
    level: Level = "fine"
    if math.isnan(value) or sign * value > sign * doubtful:
        level = "doubtful"
    if sign * value > sign * failed:
        level = "failed"
    bound = f"{'at least' if low_is_bad else 'at most'} {doubtful:g} is wanted"
    return Finding(
        check, value, level, text if level == "fine" else f"{text}, {bound}", "" if level == "fine" else remedy
    )


def _point(said: str = "") -> Finding:
    return Finding(
        "point",
        0.0,
        "doubtful",
        said or "φ is a single point: its uncertainty is left out",
        "any back-end but a point estimate gives the uncertainty of φ",
    )


def _ensemble(draws: Draws, members: int) -> Iterator[Finding]:
    """What point estimates are worth: where φ is of few dimensions there is better; and whether training ended."""
    size = draws.u.shape[-1]
    if members == 1:
        yield _point()
    elif size <= FEW:
        text = f"φ is {members} point estimates: how they differ is not how uncertain φ is"
        remedy = f"inference='auto' or 'nuts' gives the posterior of these {size} coordinates"
        yield Finding("members", float(members), "doubtful", text, remedy)
    else:
        text = (
            f"φ is {members} point estimates of {size:,} coordinates: where they differ, tasks have left it open; "
            "they are no draws of p(φ | D)"
        )
        yield Finding("members", float(members), "fine", text)
    if draws.unwatched is not None and size > draws.unwatched:
        text = (
            f"φ has {size:,} coordinates and the tasks {draws.unwatched:,} observations, of which no task was held "
            "out: nothing tells whether noise was learnt"
        )
        yield Finding("held out", size / draws.unwatched, "doubtful", text, "hold some tasks out: validation=0.2")
    yield from _training(np.asarray(draws.curves.get("evidence", np.zeros((0, 1))), dtype=np.float64))


def _training(curve: Array) -> Iterator[Finding]:
    """Whether the evidence per task was still rising at the end of training, its curve (steps, members)."""
    if len(curve) < 40:
        return
    rise, error = _rise(curve.mean(1))
    text = (
        f"over the last tenth of the steps log Z rose by {rise:.2g} nats per task ({rise / error:.1f} standard errors)"
    )
    rising = rise > 0.01 and rise > 4 * error
    level: Level = "doubtful" if rising else "fine"
    yield Finding("training", rise, level, text, "take more steps, or a larger learning rate" if rising else "")


def _weights(draws: Draws) -> Iterator[Finding]:
    k_hat = float("nan") if draws.k_hat is None else draws.k_hat
    remedy = "use inference='auto' or 'nuts', which go on from where importance sampling fails"
    yield _graded("k-hat", k_hat, K_HAT, 1.0, f"k-hat of the importance weights is {k_hat:.2f}", remedy)
    if draws.effective_size is not None:
        size = draws.effective_size
        wanted = _wanted(k_hat, draws.u.shape[0] * draws.u.shape[1])
        text = f"the weighted draws are worth {size:,.0f}"
        yield _graded("effective size", size, wanted, min(wanted, 400.0) / 4, text, remedy, low_is_bad=True)
    else:
        own = "the draws are the approximation's own: they were not corrected by their weights"
        yield Finding("correction", 0.0, "doubtful", own, "importance=True corrects them where k-hat is below 0.7")


def _wanted(k_hat: float, draws: int) -> float:
    """Effective draws that are enough; more of them where weights have no variance, k-hat above a half.

    The effective size flatters such weights: with 600 to 900 of them, means of a scale near zero were seen to be off by
    five of the standard errors that it promises (`python -m benchmarks roads`, orthodont).
    """
    return min(1000.0, 0.25 * draws) if k_hat > 0.5 else min(400.0, 0.1 * draws)


def _chains(phi: Mapping[str, Array]) -> Iterator[Finding]:
    many = next(iter(phi.values())).shape[0] > 1
    hats = {name: r_hat(values) for name, values in phi.items()}
    name = _worst(hats, max)
    what = "R-hat" if many else "R-hat of the two halves"
    remedy = (
        f"the chains do not agree: {MORE}; if they still do not, the posterior may have several modes, which "
        "inference='auto' weighs against each other"
    )
    yield _graded("R-hat", hats[name], 1.01, 1.05, f"{what} is {hats[name]:.3f} for {name}", remedy)
    for kind in ("bulk", "tail"):
        sizes = {name: ess(values, kind) for name, values in phi.items()}
        name = _worst(sizes, min)
        text = f"{kind} ESS is {sizes[name]:,.0f} for {name}"
        yield _graded(f"ESS {kind}", sizes[name], 400.0, 100.0, text, MORE, low_is_bad=True)


def _worst(values: Mapping[str, float], pick: Any) -> str:
    """The name of the worst value; of one that is not a number, if there is any."""
    for name, value in values.items():
        if math.isnan(value):
            return name
    return str(pick(values, key=values.__getitem__))


def _hamiltonian(draws: Draws) -> Iterator[Finding]:
    stats, count = draws.stats, draws.u.shape[0] * draws.u.shape[1]
    if "diverging" in stats:
        share = draws.divergences / count
        text = f"{draws.divergences} of {count:,} transitions diverged"
        yield _graded("divergences", share, 0.0, 0.01, text, STRETCH)
    if "energy" in stats and count >= 40:
        low = min(_e_bfmi(np.asarray(energy, dtype=np.float64)) for energy in stats["energy"])
        text = f"the lowest E-BFMI of a chain is {low:.2f}"
        remedy = "the tails are heavier than the momentum reaches: a longer warm-up, or another parametrisation"
        yield _graded("E-BFMI", low, 0.3, 0.1, text, remedy, low_is_bad=True)
    if "reached_max_treedepth" in stats:
        share = float(np.mean(stats["reached_max_treedepth"]))
        text = f"{share:.1%} of the trajectories reached the largest tree"
        yield _graded("tree depth", share, 0.05, 0.5, text, "raise max_treedepth, or standardise the inputs")


def _e_bfmi(energy: Array) -> float:
    """Energy Bayesian fraction of missing information of one chain."""
    spread = float(energy.var())
    return float(np.square(np.diff(energy)).mean() / spread) if spread > 0 else float("nan")


def _elbo(curves: Mapping[str, npt.NDArray[Any]]) -> Iterator[Finding]:
    """Whether the ELBO was still rising at the end: the last tenth against the tenth before, in standard errors."""
    if "elbo" not in curves or len(curves["elbo"]) < 40:
        return
    rise, error = _rise(np.asarray(curves["elbo"], dtype=np.float64))
    text = f"over the last tenth of the steps the ELBO rose by {rise:.2f} nats ({rise / error:.1f} standard errors)"
    rising = rise > 0.5 and rise > 4 * error
    level: Level = "doubtful" if rising else "fine"
    yield Finding("ELBO", rise, level, text, "take more steps, or a larger learning rate" if rising else "")


def _rise(curve: Array) -> tuple[float, float]:
    """By how much the mean of the last tenth of a curve is above that of the tenth before, and its standard error."""
    tenth = len(curve) // 10
    late, earlier = curve[-tenth:], curve[-2 * tenth : -tenth]
    error = math.sqrt((float(late.var()) + float(earlier.var())) / tenth) + 1e-12
    return float(late.mean() - earlier.mean()), error


def _error(error: Mapping[str, float]) -> Iterator[Finding]:
    if "doubling" in error:
        value = error["doubling"]
        text = f"twice the nodes change the log evidence of all tasks by {value:.1e} nats"
        yield _graded("quadrature", value, 0.1, 1.0, text, "use evidence='joint'")
    if "k_hat" in error:
        value = error["k_hat"]
        text = f"k-hat of Laplace's approximation of a task is at most {value:.2f}"
        yield _graded("Laplace evidence", value, K_HAT, 1.0, text, "use evidence='quadrature' or 'joint'")
    if "bias_spread" in error:
        value = error["bias_spread"]
        text = f"the error of Laplace's log evidence varies by {value:.2f} nats over the posterior"
        yield _graded("Laplace bias", value, 0.5, 2.0, text, "use evidence='quadrature' or 'joint'")


def labelled(values: Mapping[str, Any], shape: Sequence[int], labels: Mapping[str, Sequence[str]]) -> dict[str, Array]:
    """Draws (S, ...) by site as chains of their elements (chains, draws) by label."""
    found: dict[str, Array] = {}
    for name, tensor in values.items():
        flat = tensor.reshape(shape[0], shape[1], -1).numpy()
        found |= {label: flat[..., k] for k, label in enumerate(labels[name])}
    return found
