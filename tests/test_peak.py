"""Where inference starts: at the mode of φ with θ integrated out, also where θ is sampled too."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import bayesmeta as bm
from bayesmeta.evidence import Joint, choose
from bayesmeta.infer import peak as peaks
from bayesmeta.infer.peak import peak
from bayesmeta.target import Target
from tests.evidences import gallery


@cache
def radon() -> tuple[Target, Target]:
    """The exact evidence, and φ and θ together, centred."""
    model = gallery("radon")
    tasks = model.load()[:15]
    program = model.hierarchy.program(tasks)
    return Target(choose(program, tasks)), Target(Joint(program, tasks, centring=1.0))


def test_phi_starts_at_the_mode_of_its_own_density() -> None:
    exact, joint = radon()
    highest, _ = peak(exact, 0)

    found, evaluations = peak(joint, 0)

    # Laplace's approximation is exact for radon; its modes are found to their tolerance
    torch.testing.assert_close(found[: joint.q], highest, rtol=1e-3, atol=1e-3)
    _, grad = joint.value_and_grad(found.unsqueeze(0))
    assert float(grad[0, joint.q :].abs().max()) < 1e-2
    assert evaluations > 0


def test_the_mode_of_both_together_is_another_where_all_theta_are_alike() -> None:
    """What a start there would be: the check above can fail."""
    exact, joint = radon()
    together, _ = peaks._highest(joint, 0)

    assert (together[: joint.q] - peak(exact, 0)[0]).abs().max() > 1
    assert joint.log_prob(together.unsqueeze(0)) > joint.log_prob(peak(joint, 0)[0].unsqueeze(0))


def test_tasks_without_a_mode_start_at_that_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    _, joint = radon()
    monkeypatch.setattr(peaks, "MOST_COORDINATES", 0)

    found, _ = peak(joint, 0)

    assert float(found[: joint.q].exp().min()) < 1e-3  # a spread that went to zero


@pytest.mark.filterwarnings("ignore::bayesmeta.errors.BayesmetaWarning")
def test_svi_of_five_theta_a_task_finds_their_spread() -> None:
    """Epilepsy: a start at the mode of both left sigma at 1e-6; NUTS says .36 (sd .04)."""
    model = gallery("epil")

    posterior = bm.fit(model.hierarchy, model.load(), bm.SVI(guide="meanfield", steps=50, draws=500), progress=False)

    assert posterior.info.evidence == "joint"
    assert 0.24 < float(posterior.phi["sigma"].mean()) < 0.48
    assert 0.3 < float(posterior.phi["tau"].mean()) < 0.7
