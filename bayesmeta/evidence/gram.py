"""Linear mixed models reduced once: the evidence from Gram matrices, whatever the number of observations.

Where the observations of task t are Normal with one scale σ_t and a mean that is affine in θ and in the
elements β of φ that enter it,

    y_t ~ Normal(A_t θ + B_t β + c_t, σ_t)

the likelihood depends on the data through D'D alone, D = [A_t, B_t, y_t - c_t], and the evidence is

    log Z_t = h + b'P⁻¹b / 2 + (p log 2π - log det P) / 2 - n_t log(2πσ²) / 2 - r'r / 2σ²
    r = y_t - c_t - B_t β,     b = g + A_t'r / σ²,     P = Λ + A_t'A_t / σ²

with log p(θ | φ) = h + g'θ - θ'Λθ / 2. A, B and c are read off the user's function by automatic
differentiation; that the mean is affine, the scale constant, and the result the same as the generic route's,
is checked by evaluating (`Gram.fits`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bayesmeta.evidence.exact import DISTANCES, TOLERANCE, Exact, expansion, probe_rows
from bayesmeta.evidence.gaussian import LOG_2PI, Gaussian, dot, log_integral
from bayesmeta.program import Phi, Program, Row, first_rows
from bayesmeta.sites import Meeting, quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["Gram"]

CHUNK_CELLS = 4_000_000


class Blocks(NamedTuple):
    """What is left of the tasks: blocks of D'D over w = [-β, 1], counts, and one row each for the prior.

    The task axis comes last, so that each element is one contiguous vector over tasks.
    """

    aa: Tensor  # (p, p, T)
    aw: Tensor  # (p, m, T)
    ww: Tensor  # (m, m, T)
    n: Tensor  # (T,)
    ww_sum: Tensor  # (m, m)
    n_sum: Tensor  # ()
    rows: Row  # one row per task, or one in all where neither prior nor scale depends on the task


class Prior(NamedTuple):
    """log p(θ | φ) = h + g'θ - θ'Λθ/2 and the precision 1/σ² of the observations; elements are () or (T,)."""

    h: Tensor
    g: list[Tensor]
    precision: list[list[Tensor]]
    weight: Tensor

    def detached(self) -> Prior:
        """The same numbers as constants."""
        g = [element.detach() for element in self.g]
        precision = [[element.detach() for element in row] for row in self.precision]
        return Prior(self.h.detach(), g, precision, self.weight.detach())


class Gram:
    """Evidence and conditional p(θ | φ, D) of linear mixed models from Gram matrices.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks; they are read once, here.
        entering: Which elements of the flattened φ enter the mean (found by `Gram.find`).
        shared: Whether prior and scale are the same for all tasks.
    """

    road = (
        "exact, from Gram matrices: θ is integrated out in closed form, and each task was reduced once to "
        "the Gram matrix of its linear model"
    )
    gram = True

    def __init__(self, program: Program, tasks: Tasks, entering: Tensor, shared: bool) -> None:
        self.program = program
        self.tasks = tasks
        self.entering = entering
        self.shared = shared
        with quiet_pyro():
            self.data: Any = _reduce(program, tasks, entering, shared)
        self.cells = len(tasks) * (program.structure.theta.size + len(entering) + 1)

    @classmethod
    def find(cls, program: Program, tasks: Tasks) -> Gram | None:
        """The reduction of these tasks, or None where the model is not a linear mixed model."""
        with quiet_pyro():
            entering = _entering(program, probe_rows(tasks))
            if entering is None:
                return None
            shared = _same_for_all(program, tasks)
            candidate = cls(program, _some(tasks), entering, shared)
            if not candidate._agrees():
                return None
        return cls(program, tasks, entering, shared)

    def on(self, tasks: Tasks) -> Gram:
        """The same reduction of other tasks."""
        return Gram(self.program, tasks, self.entering, self.shared)

    def total(self, phi: Phi, data: Any) -> Tensor:
        """Σ_t log Z_t(φ), with its first derivative in φ by Fisher's identity.

        ∇ log Z = E[∇ log p(y, θ | φ)] under p(θ | φ, D): the expectation needs only the moments of θ, which are
        held constant, so that the derivative never passes through a Cholesky factor and what runs over tasks
        is evaluated once, forwards. Second derivatives in φ are not those of log Z.
        """
        blocks = Blocks(*data)
        w = self._w(phi)
        prior = self._prior(phi, blocks)
        gaussian = _conditional(prior.detached(), w.detach(), blocks)
        value = _over(log_integral(prior.h.detach(), gaussian), blocks.n)
        mean = gaussian.mean()
        square = _second_moment(mean, gaussian)
        p, m = range(len(mean)), range(len(w))
        fitted = [dot([blocks.aw[i, k] for i in p], mean) for k in m]
        energy = dot([blocks.aa[i, j] for i in p for j in p], [square[i][j] for i in p for j in p])
        # where all tasks share the prior, sums over tasks come first, and φ meets a handful of numbers
        add = torch.sum if self.shared else torch.Tensor.detach
        count = blocks.n.numel() if self.shared else 1
        moments = [add(element) for row in square for element in row]
        given_theta = count * prior.h + dot(prior.g, [add(element) for element in mean])
        given_theta = given_theta - 0.5 * dot([element for row in prior.precision for element in row], moments)
        given_data = prior.weight * (dot(list(w), [add(element) for element in fitted]) - 0.5 * add(energy))
        expected = given_theta.sum() + given_data.sum()
        return expected + (value - expected).detach() + self._likelihood_constant(w, prior.weight, blocks)

    def _likelihood_constant(self, w: Tensor, weight: Tensor, blocks: Blocks) -> Tensor:
        """What does not involve θ: -n log(2πσ²)/2 - r'r/2σ², summed over tasks."""
        if self.shared:
            residual = (w * (blocks.ww_sum * w).sum(-1)).sum()
            return 0.5 * (blocks.n_sum * (weight.log() - LOG_2PI) - residual * weight).sum()
        return 0.5 * (blocks.n * (weight.log() - LOG_2PI) - _quadratic_form(blocks.ww, w) * weight).sum()

    def per_task(self, phi: Phi, data: Any) -> Tensor:
        """log Z_t(φ) in nats, (T,)."""
        blocks = Blocks(*data)
        w, prior = self._w(phi), self._prior(phi, blocks)
        fit = log_integral(prior.h, _conditional(prior, w, blocks))
        residual = _quadratic_form(blocks.ww, w)
        return fit + 0.5 * (blocks.n * (prior.weight.log() - LOG_2PI) - residual * prior.weight)

    def conditional(self, phi: Phi, data: Any) -> tuple[Tensor, Tensor]:
        """p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p)."""
        blocks = Blocks(*data)
        precision, b = _natural(self._prior(phi, blocks), self._w(phi), blocks)
        return torch.stack([torch.stack(row, -1) for row in precision], -2), torch.stack(b, -1)

    def _w(self, phi: Phi) -> Tensor:
        flat = self.program.structure.phi.flatten(phi.values)
        return torch.cat([-flat[self.entering], torch.ones(1)])

    def _prior(self, phi: Phi, blocks: Blocks) -> Prior:
        p = self.program.structure.theta.size

        def one(row: Row) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            h, g, precision = expansion(lambda v: self.program.terms(phi.returned, v, row)[0], p)
            scale = _normal(self.program.meet(phi.returned, torch.zeros(p), row)).scale.reshape(-1)[0]
            return h, g, precision, scale.pow(-2)

        rows = blocks.rows
        if self.shared:
            first = Row(rows.x[0], rows.y[0], rows.mask[0], {key: value[0] for key, value in rows.context.items()})
            h, g, precision, weight = one(first)
        else:
            h, g, precision, weight = self.program.over_tasks(one)(rows)
        elements = [list(row.unbind(-1)) for row in precision.unbind(-2)]
        return Prior(h, list(g.unbind(-1)), elements, weight)

    def _agrees(self) -> bool:
        """Equal to the generic route at random φ, to rounding."""
        generic = Exact(self.program, self.tasks)
        for phi in _random_phi(self.program, 2):
            mine, theirs = self.per_task(phi, self.data), generic.per_task(phi, generic.data)
            if not torch.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE * float(theirs.abs().max())):
                return False
        return True


def _natural(prior: Prior, w: Tensor, blocks: Blocks) -> tuple[list[list[Tensor]], list[Tensor]]:
    """P = Λ + A'A / σ² and b = g + A'r / σ², elements over tasks."""
    p, m = range(len(prior.g)), range(len(w))
    precision = [[prior.precision[i][j] + blocks.aa[i, j] * prior.weight for j in p] for i in p]
    b = [prior.g[i] + dot([blocks.aw[i, k] for k in m], list(w)) * prior.weight for i in p]
    return precision, b


def _conditional(prior: Prior, w: Tensor, blocks: Blocks) -> Gaussian:
    return Gaussian.from_elements(*_natural(prior, w, blocks))


def _second_moment(mean: list[Tensor], gaussian: Gaussian) -> list[list[Tensor]]:
    """E[θθ'] by element."""
    covariance = gaussian.covariance()
    p = range(len(mean))
    return [[covariance[i][j] + mean[i] * mean[j] for j in p] for i in p]


def _quadratic_form(ww: Tensor, w: Tensor) -> Tensor:
    """w' W_t w for every task (T,)."""
    m = range(len(w))
    return dot([ww[j, k] for j in m for k in m], [w[j] * w[k] for j in m for k in m])


def _over(terms: Tensor, tasks: Tensor) -> Tensor:
    """The sum over tasks of terms (T,), or of one term that all share."""
    return terms.sum() if terms.dim() else terms * len(tasks)


# ---------------------------------------------------------------------------------------------------------
# Detection


def _normal(met: dict[str, Meeting]) -> Any:
    """The Normal of the only observed site, or None where the likelihood is anything else."""
    sites = [meeting for meeting in met.values() if meeting.observed]
    if len(sites) != 1 or sites[0].value.dim() != 1:
        return None
    site = sites[0]
    unscaled = isinstance(site.scale, (int, float)) and site.scale == 1 and site.mask is None
    fn = site.fn
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist
    same_shape = type(fn).__name__ == "Normal" and fn.loc.shape == site.value.shape
    return fn if unscaled and same_shape else None


def _mean(program: Program, z: Tensor, row: Row) -> tuple[Tensor, Tensor] | None:
    """Mean and scale (n,) of the observations at z = [φ, θ]: constrained values of φ, θ itself."""
    q = sum(int(torch.Size(site.shape).numel()) for site in program.structure.phi)
    phi = program.phi_at(_phi_values(program, z[:q]))
    normal = _normal(program.meet(phi.returned, z[q:], row))
    return None if normal is None else (normal.loc, normal.scale.expand(normal.loc.shape))


def _phi_values(program: Program, flat: Tensor) -> dict[str, Tensor]:
    values, start = {}, 0
    for site in program.structure.phi:
        count = torch.Size(site.shape).numel()
        values[site.name] = flat[start : start + count].reshape(site.shape)
        start += count
    return values


def _random_phi(program: Program, count: int, seed: int = 1) -> list[Phi]:
    generator = torch.Generator().manual_seed(seed)
    size = program.structure.phi.size
    return [program.phi(2 * torch.rand(size, generator=generator) - 1) for _ in range(count)]


def _entering(program: Program, rows: list[Row]) -> Tensor | None:
    """Which elements of φ the mean depends on, (b,); None where it is not affine or the scale not constant."""
    if not program.structure.maskable or not rows or not all(site.is_real for site in program.structure.theta):
        return None
    flats = [program.structure.phi.flatten(phi.values) for phi in _random_phi(program, 6)]
    generator = torch.Generator().manual_seed(2)
    entering = torch.zeros(len(flats[0]), dtype=torch.bool)
    for row in rows:
        jacobian = _affine(program, row, flats, generator)
        if jacobian is None:
            return None
        entering |= (jacobian[:, : len(flats[0])] != 0).any(0)
    return entering.nonzero().squeeze(-1)


def _affine(program: Program, row: Row, flats: list[Tensor], generator: torch.Generator) -> Tensor | None:
    """The Jacobian (n, q + p) of the mean in [φ, θ], if it is the same everywhere and the scale fits."""
    p = program.structure.theta.size
    origin = torch.cat([flats[0], torch.randn(p, generator=generator)])
    if _mean(program, origin, row) is None:
        return None
    jacobian: Tensor = torch.func.jacrev(lambda z: _mean(program, z, row)[0])(origin)  # type: ignore[index]
    base = _mean(program, origin, row)
    for flat, distance in zip(flats[1:], (1.0, *DISTANCES), strict=True):
        theta = distance * torch.randn(p, generator=generator)
        here = torch.cat([flat, theta])
        mean = _mean(program, here, row)
        if base is None or mean is None or not _constant_scale(program, flat, theta, row, mean[1]):
            return None
        expected = base[0] + jacobian @ (here - origin)
        size = 1 + base[0].abs().max() + (jacobian.abs() @ (here - origin).abs()).max()
        if not bool(((mean[0] - expected).abs() <= TOLERANCE * size).all()):
            return None
    return jacobian


def _constant_scale(program: Program, flat: Tensor, theta: Tensor, row: Row, scale: Tensor) -> bool:
    """One scale for all observations of the task, and the same at another θ."""
    other = _mean(program, torch.cat([flat, theta + 1.0]), row)
    return bool((scale == scale[0]).all()) and other is not None and bool((other[1] == scale[0]).all())


def _same_for_all(program: Program, tasks: Tasks) -> bool:
    """Whether p(θ | φ) and the scale are the same for all tasks: certain without context and inputs' help."""
    if tasks.context:
        return False
    picked = _some(tasks)
    rows = first_rows(picked)
    p = program.structure.theta.size
    for phi in _random_phi(program, 2):
        for v in (torch.zeros(p), torch.ones(p)):
            prior = program.over_tasks(lambda row, phi=phi, v=v: program.terms(phi.returned, v, row)[0])(rows)
            scale = program.over_tasks(
                lambda row, phi=phi, v=v: _normal(program.meet(phi.returned, v, row)).scale.reshape(-1)[0]
            )(rows)
            if not bool((prior == prior[0]).all() and (scale == scale[0]).all()):
                return False
    return True


def _some(tasks: Tasks, most: int = 12) -> Tasks:
    """A spread of tasks over sizes, enough to look at."""
    order = torch.argsort(tasks.sizes, stable=True)
    pick = torch.linspace(0, len(order) - 1, min(most, len(order))).round().long().unique()
    return tasks[order[pick].tolist()]


# ---------------------------------------------------------------------------------------------------------
# Reduction


def _reduce(program: Program, tasks: Tasks, entering: Tensor, shared: bool) -> Blocks:
    p, m = program.structure.theta.size, len(entering) + 1
    gram = torch.zeros(len(tasks), p + m, p + m)
    origin = torch.cat([program.structure.phi.flatten(_random_phi(program, 1)[0].values), torch.zeros(p)])
    for batch in tasks.padded():
        step = max(1, CHUNK_CELLS // max(1, batch.mask.shape[1] * (p + m)))
        for start in range(0, len(batch.index), step):
            part = slice(start, start + step)
            row = Row(batch.x[part], batch.y[part], batch.mask[part], {k: v[part] for k, v in batch.context.items()})
            design = program.over_tasks(lambda r: _design(program, r, entering, origin))(row)
            gram[batch.index[part]] = design.mT @ design
    rows = first_rows(tasks[:1] if shared else tasks)
    n = tasks.sizes.to(gram.dtype)
    gram = gram.permute(1, 2, 0)
    ww, aa, aw = gram[p:, p:].contiguous(), gram[:p, :p].contiguous(), gram[:p, p:].contiguous()
    return Blocks(aa, aw, ww, n, ww.sum(-1), n.sum(), rows)


def _design(program: Program, row: Row, entering: Tensor, origin: Tensor) -> Tensor:
    """[A, B, y - c] of one task, (n, p + b + 1), zero where padded; `origin` is any point [φ, θ]."""
    q = len(origin) - program.structure.theta.size

    def mean(z: Tensor) -> tuple[Tensor, Tensor]:
        found = _mean(program, z, row)
        loc = found[0] if found else torch.zeros(0)
        return loc, loc

    jacobian, loc = torch.func.jacfwd(mean, has_aux=True)(origin)
    constant = loc - jacobian @ origin
    columns = [jacobian[:, q:], jacobian[:, entering], (row.y - constant).unsqueeze(-1)]
    return torch.cat(columns, -1) * row.mask.unsqueeze(-1)
