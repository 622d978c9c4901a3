"""Linear mixed models reduced once: the evidence from Gram matrices, whatever the number of observations.

Where the observations of task t are Normal with one scale σ_t and a mean that is affine in θ and in the
elements β of φ that enter it,

    y_t ~ Normal(A_t θ + B_t β + c_t, σ_t)

the likelihood depends on the data through D'D alone, D = [A_t, B_t, y_t - c_t], and the evidence is

    log Z_t = h + b'P⁻¹b / 2 + (p log 2π - log det P) / 2 - n_t log(2πσ²) / 2 - r'r / 2σ²
    r = y_t - c_t - B_t β - A_t m,     b = g + A_t'r / σ²,     P = Λ + A_t'A_t / σ²

with log p(m + δ | φ) = h + g'δ - δ'Λδ / 2. A, B and c are read off the user's function by automatic
differentiation; that the mean is affine, the scale constant, and the result the same as the generic route's,
is checked by evaluating, on every row of every task (`Gram.odd`).

θ is counted from the mean m of its prior, held constant where φ is differentiated. Counted from zero, h and
b'P⁻¹b would be of the size m²/τ² and cancel, which for a small sd τ of θ leaves rounding errors alone: chains
that passed there never came back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.evidence.exact import TOLERANCE, Exact, expansion, log_z_of
from bayesmeta.evidence.gaussian import (
    LOG_2PI,
    Gaussian,
    Matrix,
    Vector,
    dot,
    inverse_lower,
    log_integral,
    times_lower,
    times_upper,
)
from bayesmeta.evidence.linear import (
    Linear,
    base_of,
    far_points,
    find_linear,
    jacobian_at,
    mean_and_scale,
    normal_of,
    random_phi,
    some_tasks,
)
from bayesmeta.program import Phi, Program, Row, first_rows
from bayesmeta.sites import Meeting, quiet_pyro
from bayesmeta.tasks import Tasks

__all__ = ["Gram"]

CHUNK_CELLS = 4_000_000
# Tasks that turn out odd are looked at closely, so many at a time.
MOST_ODD = 3


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
    """log p(m + δ | φ) = h + g'δ - δ'Λδ/2 and the precision 1/σ² of the observations; elements are () or (T,).

    The centre m is a constant: the mean of the prior, detached. `root` is the lower Cholesky factor of Λ⁻¹ where it
    can be read off: θ is then standardised by it, because for a correlation near one det Λ is lost in rounding.
    """

    centre: list[Tensor]
    h: Tensor
    g: list[Tensor]
    precision: list[list[Tensor]]
    weight: Tensor
    root: list[list[Tensor]]

    def detached(self) -> Prior:
        """The same numbers as constants."""
        g = [element.detach() for element in self.g]
        precision, root = ([[element.detach() for element in row] for row in m] for m in (self.precision, self.root))
        return Prior(self.centre, self.h.detach(), g, precision, self.weight.detach(), root)


class Moved(NamedTuple):
    """Elements of the blocks of D'D, with A m taken off y, over tasks or summed over them."""

    aa: list[list[Tensor]]
    aw: list[list[Tensor]]
    ww: list[list[Tensor]]

    @staticmethod
    def by(centre: list[Tensor], aa: Tensor, aw: Tensor, ww: Tensor) -> Moved:
        """Blocks (p, p, ...), (p, m, ...), (m, m, ...) with θ counted from `centre`."""
        p, last = range(len(centre)), ww.shape[0] - 1
        moved = [aw[i, last] - dot([aa[i, j] for j in p], centre) for i in p]
        cross = [ww[k, last] - dot([aw[i, k] for i in p], centre) for k in range(last)]
        corner = ww[last, last] - dot([aw[i, last] + moved[i] for i in p], centre)
        inner = [[ww[j, k] for k in range(last)] + [cross[j]] for j in range(last)]
        return Moved(
            [[aa[i, j] for j in p] for i in p],
            [[aw[i, k] for k in range(last)] + [moved[i]] for i in p],
            [*inner, [*cross, corner]],
        )


class Gram:
    """Evidence and conditional p(θ | φ, D) of linear mixed models from Gram matrices.

    Args:
        program: The hierarchy's functions.
        tasks: The tasks; they are read once, here.
        linear: The structure of the linear mixed model, as `find_linear` found it on a few tasks.

    Attributes:
        odd: The tasks that this structure does not describe; an evidence in use has none.
    """

    data: Any

    road = (
        "exact, from Gram matrices: θ is integrated out in closed form, and each task was reduced once to "
        "the Gram matrix of its linear model"
    )
    gram = True

    def __init__(self, program: Program, tasks: Tasks, linear: Linear) -> None:
        self.program = program
        self.tasks = tasks
        self.linear = linear
        with quiet_pyro():
            self.data, fits = _reduce(program, tasks, linear)
            if linear.prior != "general":
                fits = fits & self._prior_fits()
        self.odd: list[int] = (~fits).nonzero().squeeze(-1).tolist()
        self.cells = len(tasks) * (program.structure.theta.size + len(linear.entering) + 1)

    @classmethod
    def find(cls, program: Program, tasks: Tasks) -> Gram | None:
        """The reduction of these tasks, or None where the model is not a linear mixed model."""
        seen: list[int] = []
        with quiet_pyro():
            linear = find_linear(program, tasks, seen)
            while linear is not None:
                found = cls(program, tasks, linear)
                if found.odd and linear.prior != "general":
                    found = cls(program, tasks, replace(linear, prior="general"))
                if not found.odd:
                    return found if found._agrees() else None
                if set(found.odd[:MOST_ODD]) <= set(seen):
                    return None
                seen += found.odd[:MOST_ODD]
                linear = find_linear(program, tasks, seen)
        return None

    def on(self, tasks: Tasks) -> Gram | Exact:
        """The same reduction of other tasks; the generic route where it does not describe all of them."""
        moved = Gram(self.program, tasks, self.linear)
        return Exact(self.program, tasks) if moved.odd else moved

    def take(self, index: Tensor) -> Any:
        """The data of the tasks at these positions, for `total` and `per_task`; nothing is read again."""
        blocks = Blocks(*self.data)
        ww, n = blocks.ww[..., index], blocks.n[index]
        rows = blocks.rows if self.linear.shared else pytree.tree_map(lambda leaf: leaf[index], blocks.rows)
        return Blocks(blocks.aa[..., index], blocks.aw[..., index], ww, n, ww.sum(-1), n.sum(), rows)

    def total(self, phi: Phi, data: Any) -> Tensor:
        """Σ_t log Z_t(φ), with its first derivative in φ by Fisher's identity.

        ∇ log Z = E[∇ log p(y, θ | φ)] under p(θ | φ, D): the expectation needs only the moments of θ, which are
        held constant, so that the derivative never passes through a Cholesky factor and what runs over tasks
        is evaluated once, forwards. Second derivatives in φ are not those of log Z.
        """
        blocks = Blocks(*data)
        w, prior = self._w(phi), self._prior(phi, blocks)
        moved = Moved.by(prior.centre, blocks.aa, blocks.aw, blocks.ww)
        log_z, mean, square = _integrated(prior.detached(), w.detach(), moved)
        value = _over(log_z, blocks.n)
        p, m = range(len(mean)), range(len(w))
        fitted = [dot([moved.aw[i][k] for i in p], mean) for k in m]
        energy = dot([moved.aa[i][j] for i in p for j in p], [square[i][j] for i in p for j in p])
        # where all tasks share the prior, sums over tasks come first, and φ meets a handful of numbers
        add = torch.sum if self.linear.shared else _each
        count = blocks.n.numel() if self.linear.shared else 1
        moments = [add(element) for row in square for element in row]
        given_theta = count * prior.h + dot(prior.g, [add(element) for element in mean])
        given_theta = given_theta - 0.5 * dot([element for row in prior.precision for element in row], moments)
        given_data = prior.weight * (dot(list(w), [add(element) for element in fitted]) - 0.5 * add(energy))
        expected = given_theta.sum() + given_data.sum()
        return expected + (value - expected).detach() + self._likelihood_constant(w, prior, moved, blocks)

    def _likelihood_constant(self, w: Tensor, prior: Prior, moved: Moved, blocks: Blocks) -> Tensor:
        """What does not involve θ: -n log(2πσ²)/2 - r'r/2σ², summed over tasks."""
        n = blocks.n
        if self.linear.shared:
            n = blocks.n_sum
            moved = Moved.by(prior.centre, blocks.aa.sum(-1), blocks.aw.sum(-1), blocks.ww_sum)
        residual = _quadratic_form(moved.ww, w)
        return 0.5 * (n * (prior.weight.log() - LOG_2PI) - residual * prior.weight).sum()

    def per_task(self, phi: Phi, data: Any) -> Tensor:
        """log Z_t(φ) in nats, (T,)."""
        blocks = Blocks(*data)
        w, prior = self._w(phi), self._prior(phi, blocks)
        moved = Moved.by(prior.centre, blocks.aa, blocks.aw, blocks.ww)
        fit, _, _ = _integrated(prior, w, moved)
        residual = _quadratic_form(moved.ww, w)
        return fit + 0.5 * (blocks.n * (prior.weight.log() - LOG_2PI) - residual * prior.weight)

    def conditional(self, phi: Phi, data: Any) -> tuple[Tensor, Tensor]:
        """p(θ_t | φ, D_t) as precision P (T, p, p) and P·mean (T, p)."""
        blocks = Blocks(*data)
        w, prior = self._w(phi), self._prior(phi, blocks)
        precision, b = _natural(prior, w, Moved.by(prior.centre, blocks.aa, blocks.aw, blocks.ww))
        b = [of_delta + dot(row, prior.centre) for of_delta, row in zip(b, precision, strict=True)]
        return torch.stack([torch.stack(row, -1) for row in precision], -2), torch.stack(b, -1)

    def _w(self, phi: Phi) -> Tensor:
        flat = self.program.structure.phi.flatten(phi.values)
        return torch.cat([-flat[self.linear.entering], torch.ones(1)])

    def _prior(self, phi: Phi, blocks: Blocks) -> Prior:
        read = {
            "independent": self._independent_prior,
            "normal": self._normal_prior,
            "general": self._general_prior,
        }[self.linear.prior]
        rows = blocks.rows
        if self.linear.shared:
            first = Row(rows.x[0], rows.y[0], rows.mask[0], {key: value[0] for key, value in rows.context.items()})
            return read(phi, first)
        return Prior(*self.program.over_tasks(lambda row: tuple(read(phi, row)))(rows))

    def _general_prior(self, phi: Phi, row: Row) -> Prior:
        """By second-order expansion of log p(θ | φ), whatever its form."""

        def log_prior(v: Tensor) -> Tensor:
            return self.program.terms(phi.returned, v, row)[0]

        _, slope, precision = expansion(log_prior, self.program.structure.theta.size)
        centre = [element.detach() for element in Gaussian.of(precision, slope).mean()]
        g, h = torch.func.grad_and_value(log_prior)(torch.stack(centre))
        elements = [list(line.unbind(-1)) for line in precision.unbind(-2)]
        return Prior(centre, h, list(g.unbind(-1)), elements, self._weight(phi, row), [])

    def _independent_prior(self, phi: Phi, row: Row) -> Prior:
        """Read off a product of Normals."""
        met = self.program.meet(phi.returned, torch.zeros(self.program.structure.theta.size), row)
        sites = [base_of(met[name].fn) for name in self.program.structure.theta.names]
        loc = torch.cat([site.loc.expand(site.batch_shape).reshape(-1) for site in sites])
        scale = torch.cat([site.scale.expand(site.batch_shape).reshape(-1) for site in sites])
        precision = scale.pow(-2)
        centre = loc.detach()
        away = loc - centre
        h = -(0.5 * away * away * precision + scale.log() + 0.5 * LOG_2PI).sum()
        diagonal, zero = list(precision.unbind(-1)), torch.zeros(())
        p = range(len(diagonal))
        elements = [[diagonal[i] if i == j else zero for j in p] for i in p]
        g = list((away * precision).unbind(-1))
        return Prior(list(centre.unbind(-1)), h, g, elements, self._weight(phi, row, met), [])

    def _normal_prior(self, phi: Phi, row: Row) -> Prior:
        """Read off Normals and multivariate normals: their means and the Cholesky factors of their covariances."""
        met = self.program.meet(phi.returned, torch.zeros(self.program.structure.theta.size), row)
        sites = [base_of(met[name].fn) for name in self.program.structure.theta.names]
        locs, roots = zip(*(_loc_and_root(site) for site in sites), strict=True)
        loc, root = list(torch.cat(locs).unbind(-1)), _block_diagonal(roots)
        p = range(len(loc))
        inverse = inverse_lower(root)
        columns = [[inverse[i][j] if j <= i else torch.zeros(()) for i in p] for j in p]
        precision = [times_upper(inverse, column) for column in columns]
        centre = [element.detach() for element in loc]
        away = [element - constant for element, constant in zip(loc, centre, strict=True)]
        g = [dot(row, away) for row in precision]
        log_det = torch.stack([root[i][i].log() for i in p]).sum()
        h = -(log_det + 0.5 * dot(g, away) + 0.5 * len(loc) * LOG_2PI)
        return Prior(centre, h, g, precision, self._weight(phi, row, met), root)

    def _weight(self, phi: Phi, row: Row, met: dict[str, Meeting] | None = None) -> Tensor:
        """1/σ² of the observations of a task."""
        met = met or self.program.meet(phi.returned, torch.zeros(self.program.structure.theta.size), row)
        weight: Tensor = normal_of(met).scale.reshape(-1)[0].pow(-2)
        return weight

    def _prior_fits(self) -> Tensor:
        """Where log p(θ | φ) has the value at a random point that was read off; (T,), or () where all share it."""
        blocks = Blocks(*self.data)
        (phi,) = random_phi(self.program, 1, seed=3)
        v = torch.linspace(-1.0, 2.0, self.program.structure.theta.size)
        centre, h, g, precision, _, _ = self._prior(phi, blocks)
        elements = [at - from_ for at, from_ in zip(v, centre, strict=True)]
        square = dot([x * y for x in elements for y in elements], [element for row in precision for element in row])
        expected = h + dot(g, elements) - 0.5 * square
        value = _log_prior(self.program, blocks.rows)
        fits: Tensor = (value - expected).abs() <= TOLERANCE * (1 + value.abs() + square.abs())
        return fits

    def _agrees(self) -> bool:
        """Equal to the generic route at random φ, to rounding, on a few tasks."""
        some = some_tasks(self.tasks)
        gram = Gram(self.program, some, self.linear)
        for phi in random_phi(self.program, 2):
            mine = gram.per_task(phi, gram.data)
            theirs = torch.stack([log_z_of(self.program, phi, task) for task in some])
            if not torch.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE * float(theirs.abs().max())):
                return False
        return True


def _each(terms: Tensor) -> Tensor:
    return terms


def _natural(prior: Prior, w: Tensor, moved: Moved) -> tuple[list[list[Tensor]], list[Tensor]]:
    """P = Λ + A'A / σ² and b = g + A'r / σ², elements over tasks."""
    p = range(len(prior.g))
    precision = [[prior.precision[i][j] + moved.aa[i][j] * prior.weight for j in p] for i in p]
    b = [prior.g[i] + dot(moved.aw[i], list(w)) * prior.weight for i in p]
    return precision, b


def _loc_and_root(site: Any) -> tuple[Tensor, Tensor]:
    """Mean (k,) and lower Cholesky factor (k, k) of a θ site that is Normal or multivariate normal."""
    if type(site).__name__ == "MultivariateNormal":
        k = site.event_shape[0]
        return site.loc.reshape(k), site.scale_tril.reshape(k, k)
    loc, scale = (part.expand(site.batch_shape).reshape(-1) for part in (site.loc, site.scale))
    return loc, torch.diag_embed(scale)


def _block_diagonal(blocks: Sequence[Tensor]) -> Matrix:
    """The elements of a block-diagonal matrix, by rows."""
    size, zero = sum(len(block) for block in blocks), torch.zeros(())
    rows: Matrix = []
    for block in blocks:
        before = len(rows)
        for row in block.unbind(-2):
            rest = size - before - len(block)
            rows.append([*[zero] * before, *row.unbind(-1), *[zero] * rest])
    return rows


def _integrated(prior: Prior, w: Tensor, moved: Moved) -> tuple[Tensor, Vector, Matrix]:
    """log of the integral over θ, but for what does not involve θ; mean and second moments of θ - m."""
    if prior.root:
        return _standardised(prior, w, moved)
    gaussian = Gaussian.from_elements(*_natural(prior, w, moved))
    mean = gaussian.mean()
    return log_integral(prior.h, gaussian), mean, _second_moment(mean, gaussian)


def _standardised(prior: Prior, w: Tensor, moved: Moved) -> tuple[Tensor, Vector, Matrix]:
    """The same by θ = m + Rz, z standard normal: P = I + R'A'AR / σ² is never near singular."""
    root, p = prior.root, range(len(prior.g))
    right = [times_upper(root, row) for row in moved.aa]
    curved = [times_upper(root, [right[i][k] for i in p]) for k in p]
    precision = [[curved[j][k] * prior.weight + float(j == k) for k in p] for j in p]
    b = [prior.g[i] + dot(moved.aw[i], list(w)) * prior.weight for i in p]
    gaussian = Gaussian.from_elements(precision, times_upper(root, b))
    log_det = dot([root[i][i].log() for i in p], [torch.ones(()) for _ in p])
    z, spread = gaussian.mean(), gaussian.covariance()
    mean = times_lower(root, z)
    halves = [times_lower(root, [spread[i][k] for i in p]) for k in p]
    covariance = [times_lower(root, [halves[k][i] for k in p]) for i in p]
    square = [[covariance[i][j] + mean[i] * mean[j] for j in p] for i in p]
    return log_integral(prior.h + log_det, gaussian), mean, square


def _second_moment(mean: list[Tensor], gaussian: Gaussian) -> list[list[Tensor]]:
    """E[θθ'] by element."""
    covariance = gaussian.covariance()
    p = range(len(mean))
    return [[covariance[i][j] + mean[i] * mean[j] for j in p] for i in p]


def _quadratic_form(ww: list[list[Tensor]], w: Tensor) -> Tensor:
    """w' W w, for every task (T,) or for their sum ()."""
    return dot([dot(row, list(w)) for row in ww], list(w))


def _over(terms: Tensor, tasks: Tensor) -> Tensor:
    """The sum over tasks of terms (T,), or of one term that all share."""
    return terms.sum() if terms.dim() else terms * len(tasks)


def _reduce(program: Program, tasks: Tasks, linear: Linear) -> tuple[Blocks, Tensor]:
    """The blocks, and for each task whether it is what they make of it."""
    p, m = program.structure.theta.size, len(linear.entering) + 1
    gram = torch.zeros(len(tasks), p + m, p + m)
    fits = torch.zeros(len(tasks), dtype=torch.bool)
    scale, prior = torch.zeros(len(tasks), 2), torch.zeros(len(tasks))
    probes = far_points(program, 3)
    for batch in tasks.padded():
        step = max(1, CHUNK_CELLS // max(1, batch.mask.shape[1] * (p + m)))
        for start in range(0, len(batch.index), step):
            part = slice(start, start + step)
            at = batch.index[part]
            row = Row(batch.x[part], batch.y[part], batch.mask[part], {k: v[part] for k, v in batch.context.items()})
            over_tasks = program.over_tasks(lambda r, *read: _design(program, r, linear.entering, probes, *read))
            design, fits[at], scale[at] = over_tasks(row, *_mean_and_jacobian(program, row, probes[0]))
            gram[at] = design.mT @ design
            prior[at] = _log_prior(program, row)
    by_first_row = _log_prior(program, first_rows(tasks))
    fits &= (prior - by_first_row).abs() <= TOLERANCE * (1 + prior.abs())
    if linear.shared:
        fits &= (scale == scale[0]).all(1) & (by_first_row == by_first_row[0])
    rows = first_rows(tasks[:1] if linear.shared else tasks)
    n = tasks.sizes.to(gram.dtype)
    gram = gram.permute(1, 2, 0)
    ww, aa, aw = gram[p:, p:].contiguous(), gram[:p, :p].contiguous(), gram[:p, p:].contiguous()
    return Blocks(aa, aw, ww, n, ww.sum(-1), n.sum(), rows), fits


def _log_prior(program: Program, rows: Row) -> Tensor:
    """log p(θ | φ) of each task at one random point (T,)."""
    (phi,) = random_phi(program, 1, seed=3)
    v = torch.linspace(-1.0, 2.0, program.structure.theta.size)

    def one(row: Row) -> Tensor:
        met = program.meet(phi.returned, v, row)
        return torch.stack([met[name].log_prob() for name in program.structure.theta.names]).sum()

    terms: Tensor = program.over_tasks(one)(rows)
    return terms


def _mean_and_jacobian(program: Program, rows: Row, z: Tensor) -> tuple[Tensor, Tensor]:
    """The means (T, n) of the observations of many tasks at z = [φ, θ], and their Jacobians (T, n, q + p)."""

    def mean(z: Tensor, row: Row) -> Tensor:
        found = mean_and_scale(program, z, row)
        return found[0] if found else torch.zeros(0)

    return jacobian_at(lambda z: program.over_tasks(lambda row: mean(z, row))(rows), z)


def _design(
    program: Program, row: Row, entering: Tensor, probes: Tensor, loc: Tensor, jacobian: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """[A, B, y - c] of one task, (n, p + b + 1), zero where padded; whether it gives the mean at other points.

    `probes` are points [φ, θ]: A, B and c are read off the mean and Jacobian at the first. The scales at the others
    are the third result (2,).
    """
    q = probes.shape[1] - program.structure.theta.size
    constant = loc - jacobian @ probes[0]
    slopes = torch.cat([jacobian[:, q:], jacobian[:, entering]], 1)
    fits, scales = [], []
    for probe in probes[1:].unbind():
        there = torch.cat([probe[q:], probe[entering]])
        found = mean_and_scale(program, probe, row)
        loc, scale = found if found else (loc, torch.full_like(loc, torch.nan))
        size = 1 + constant.abs() + slopes.abs() @ there.abs()
        near = (loc - constant - slopes @ there).abs() <= TOLERANCE * size
        fits.append((near & (scale == scale[0]) | ~row.mask).all())
        scales.append(scale[0])
    design = torch.cat([slopes, (row.y - constant).unsqueeze(-1)], -1) * row.mask.unsqueeze(-1)
    return design, torch.stack(fits).all(), torch.stack(scales)
