"""The mode of log p(y_t, θ | φ) in θ, for all tasks at once: Newton's method outside the differentiated graph.

    v ← v + s P⁻¹ g,      g = ∇ log p(y_t, v | φ),  P = -∇² log p(y_t, v | φ)

over standardised θ. Close to the mode s is one; far from it, or where P is not positive definite (it is then
moved until it is), s is the best of a ladder of step lengths. How far a task still is from its mode is measured
by √(g'P⁻¹g): the length of the step in posterior standard deviations. A search that does not arrive is made once
more with care: no step is longer than a few prior standard deviations, and negative curvature counts as positive.

The search is one opaque operation to whatever surrounds it: `torch.func.vmap` hands it all points at once,
`make_fx` records one call, and derivatives do not enter it. A `Workspace` around the density lets it start where
it stopped last, and records and compiles its steps.

At many points at once nothing is recorded: derivatives are then taken outside the maps over points and tasks,
where they are plain tensor operations, and points that have arrived drop out of the search.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bayesmeta.density import record_call
from bayesmeta.errors import BayesmetaError
from bayesmeta.evidence.newton import LADDER, Step, best, newton_step, shortened
from bayesmeta.mapping import chunk_size, mapped, over_draws
from bayesmeta.program import Phi, Program, Row
from bayesmeta.sites import quiet_pyro
from bayesmeta.workspace import Workspace, current

__all__ = ["At", "Found", "Modes"]

# Modes (T, p) in standardised θ and roots of P⁻¹ there (T, p, p), in the order of the batches.
At: TypeAlias = tuple[Tensor, Tensor]

MOST_STEPS = 60
# Newton steps this short, in posterior standard deviations, are taken whole without a look at the density, so many
# times; should they not converge, each further one is looked at.
BOLD, BOLD_STEPS = 3.0, 8
# Numbers per cell of the data, coordinate of θ and point that a step keeps alive: chunks stay within the cache.
NUMBERS = 10
# Standardised coordinates to start from: off zero, where a symmetric density would have a saddle.
START = 0.1


class Found(NamedTuple):
    """The modes (..., T, p) in standardised θ, the root of P⁻¹ there, and the last decrement (..., T)."""

    mode: Tensor
    root: Tensor
    decrement: Tensor
    definite: Tensor


class Modes:
    """Finds the modes of tasks.

    Args:
        program: The hierarchy's functions.
        data: The tasks in batches, as the evidence holds them.
        observed: Of each batch, whether anything is observed; where not, only p(θ | φ) is looked at.
        tolerance: Largest decrement that a last step may start from.
    """

    def __init__(self, program: Program, data: Sequence[Row], observed: Sequence[bool], tolerance: float) -> None:
        self.program = program.with_centring(False)
        self.observed = tuple(observed)
        self.tolerance = tolerance
        self._spec = pytree.tree_flatten(list(data))[1]
        self._key = torch.tensor(next(_numbers))
        _solvers[int(self._key)] = self

    def at(self, phi: Phi, data: Sequence[Row]) -> At:
        """Modes (T, p) and roots (T, p, p) in the order of the batches, as constants; NaN where there is none."""
        flat = self.program.structure.phi.flatten(phi.values).detach()
        count, p = sum(len(row.mask) for row in data), self.program.structure.theta.size
        leaves = pytree.tree_flatten(list(data))[0]
        mode, root = _modes(self._key, flat, torch.zeros(count, p, dtype=torch.float64), leaves)
        return mode, root

    def many(self, u: Tensor, data: Sequence[Row]) -> At:
        """Modes (S, T, p) and roots (S, T, p, p) in the order of the batches at coordinates of φ (S, q)."""
        program, structure = self.program, self.program.structure
        leaves = pytree.tree_flatten(list(data))[0]
        count = sum(len(row.mask) for row in data)
        like = torch.zeros(count, structure.theta.size, dtype=torch.float64)

        def flat(u: Tensor) -> Tensor:
            return structure.phi.flatten(program.phi(u).values)

        mode, root = _modes(self._key, over_draws(program, flat, (u,), chunk_size(structure.phi.size)), like, leaves)
        return mode, root

    def log_joint(self, returned: Any, v: Tensor, row: Row, observed: bool) -> Tensor:
        """log p(y, θ | φ) of one task at standardised coordinates v (p,)."""
        log_prior, log_likelihood = self.program.terms(returned, v, row)
        return log_prior + log_likelihood if observed else log_prior

    def solve(self, flat: Tensor, start: Tensor, leaves: Sequence[Tensor]) -> Found:
        """Modes from a start (..., T, p), at the flattened values of φ (..., m); leading axes are one or none."""
        workspace = current()
        with quiet_pyro():
            if flat.dim() == 1:
                return self._iterate(*self._at_one_point(flat, start, leaves, workspace), flat, start)
            return self._many(flat, start, leaves)

    def rescued(self, found: Found, flat: Tensor, start: Tensor, leaves: Sequence[Tensor]) -> Found:
        """What was found, and where tasks were lost a second search, with care, from a start (..., T, p)."""
        if flat.dim() == 1:
            many = Found(*(part.unsqueeze(0) for part in found))
            return Found(*(part[0] for part in self.rescued(many, flat.unsqueeze(0), start.unsqueeze(0), leaves)))
        lost = torch.nonzero(~torch.isfinite(found.mode).all(-1).all(-1)).squeeze(-1)
        with quiet_pyro():
            again = self._many(flat[lost], start[lost], leaves, careful=True)
        better = torch.isfinite(again.mode).all(-1) & ~torch.isfinite(found.mode[lost]).all(-1)
        parts = []
        for old, new in zip(found, again, strict=True):
            mask = better.reshape(*better.shape, *(1,) * (old.dim() - 2))
            parts.append(old.index_copy(0, lost, torch.where(mask, new, old[lost])))
        return Found(*parts)

    def reason(self, phi: Phi, data: Sequence[Row], position: int) -> str:
        """Why the task at this position (in the order of the batches) has no mode at this φ."""
        flat = self.program.structure.phi.flatten(phi.values).detach()
        leaves = pytree.tree_flatten(list(data))[0]
        count, p = sum(len(row.mask) for row in data), self.program.structure.theta.size
        found = self.solve(flat, torch.full((count, p), START, dtype=torch.float64), leaves)
        decrement, definite = float(found.decrement[position]), bool(found.definite[position])
        if not math.isfinite(decrement):
            return "log p(y, θ | φ) or its derivatives are not finite where the search came to"
        if not definite:
            return (
                "where the search stopped, the Hessian of -log p(y, θ | φ) is not positive definite: the density has "
                "no peak there, but a saddle or a plane"
            )
        return (
            f"after {MOST_STEPS} Newton steps the search was still {decrement:.2g} posterior standard deviations "
            "away: the density has a kink or no finite mode"
        )

    # ------------------------------------------------------------------------------------------------------

    def _many(self, flat: Tensor, start: Tensor, leaves: Sequence[Tensor], *, careful: bool = False) -> Found:
        """Many points at once, in chunks of bounded memory."""
        rows = pytree.tree_unflatten(list(leaves), self._spec)
        cells = sum(row.mask.numel() for row in rows) * (start.shape[-1] + 1)
        chunk = chunk_size(NUMBERS * cells)
        parts = [self._chunk(f, v, rows, careful) for f, v in zip(flat.split(chunk), start.split(chunk), strict=True)]
        return parts[0] if len(parts) == 1 else Found(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _chunk(self, flat: Tensor, v: Tensor, rows: Sequence[Row], careful: bool) -> Found:
        """The search at some points, of which those that have arrived drop out."""
        out: Found | None = None
        left = torch.arange(len(flat))
        for count in range(MOST_STEPS):
            found = newton_step(*self._derivatives(flat[left], v, rows), careful=careful)
            found = shortened(found) if careful else found
            moved = self._moved(flat[left], v, rows, found, bold=count < BOLD_STEPS and not careful)
            done = (found.decrement < self.tolerance) & found.definite
            still = ~done & (moved != v).any(-1)
            mode = torch.where(done.unsqueeze(-1), moved, math.nan)
            now = Found(mode, found.root, found.decrement, found.definite)
            out = now if out is None else Found(*(a.index_copy(0, left, b) for a, b in zip(out, now, strict=True)))
            some = still.any(-1)
            if not bool(some.any()):
                break
            left, v = left[some], moved[some]
        return Found(*out) if out is not None else Found(v, v, v, v)

    def _derivatives(self, flat: Tensor, v: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Gradients (P, T, p) and minus Hessians (P, T, p, p) at P points: no task's density knows another's θ."""
        with torch.enable_grad():
            leaf = v.detach().requires_grad_(True)
            total = self._values(flat, leaf, rows).sum()
            (g,) = torch.autograd.grad(total, leaf, create_graph=True)
            columns = [_grad(g[..., i].sum(), leaf) for i in range(v.shape[-1])]
        hessian = torch.stack(columns, -1)
        return g.detach(), -0.5 * (hessian + hessian.mT)

    def _moved(self, flat: Tensor, v: Tensor, rows: Sequence[Row], found: Step, *, bold: bool) -> Tensor:
        """v (P, T, p) after the step: whole where all tasks of a point are near, else at its best length."""
        far = torch.nonzero(~((found.decrement < BOLD) & found.definite).all(-1) | (not bold)).squeeze(-1)
        moved = v + found.step
        if len(far):
            step = torch.where(torch.isfinite(found.step[far]), found.step[far], 0.0)
            ladder = torch.tensor([0.0, *LADDER], dtype=torch.float64)[:, None, None, None]
            tried = (v[far] + ladder * step).flatten(0, 1)
            seen = self._values(flat[far].repeat(len(ladder), 1), tried, rows).unflatten(0, (len(ladder), len(far)))
            moved = moved.index_copy(0, far, v[far] + best(seen).unsqueeze(-1) * step)
        return moved

    def _values(self, flat: Tensor, v: Tensor, rows: Sequence[Row]) -> Tensor:
        """log p(y_t, θ | φ) (P, T) at P points."""

        def point(flat: Tensor, v: Tensor) -> Tensor:
            returned = self._returned(flat)

            def one(v: Tensor, row: Row, observed: bool) -> Tensor:
                return self.log_joint(returned, v, row, observed)

            return torch.cat(self._batches(one, v, rows))

        values: Tensor = mapped(self.program, point, (flat, v))
        return values

    def _iterate(
        self,
        newton: Callable[..., Sequence[Tensor]],
        ahead: Callable[..., Sequence[Tensor]],
        flat: Tensor,
        start: Tensor,
    ) -> Found:
        v = start
        for count in range(MOST_STEPS):
            found = Step(*newton(flat, v))
            near = (found.decrement < BOLD) & found.definite
            if bool(near.all()) and count < BOLD_STEPS:
                moved = v + found.step
            else:
                step = torch.where(torch.isfinite(found.step), found.step, 0.0)
                moved = v + best(ahead(flat, v, step)[0]).unsqueeze(-1) * step
            done = (found.decrement < self.tolerance) & found.definite
            if bool(done.all()):
                return Found(moved, found.root, found.decrement, found.definite)
            if bool((done | ~(moved != v).any(-1)).all()):
                break  # nothing moves any more
            v = moved
        gone = (~done).unsqueeze(-1)
        mode = torch.where(gone, math.nan, moved)
        return Found(mode, found.root, found.decrement, found.definite)

    def _at_one_point(
        self, flat: Tensor, v: Tensor, leaves: Sequence[Tensor], workspace: Workspace | None
    ) -> tuple[Callable[..., Sequence[Tensor]], Callable[..., Sequence[Tensor]]]:
        """The step and the look ahead at one point: recorded and compiled, where a workspace asks for it."""
        if workspace is None or workspace.mode == "eager":
            return lambda *args: self._newton(*args, *leaves), lambda *args: self._ahead(*args, *leaves)
        key = (int(self._key), flat.shape, tuple(leaf.shape for leaf in leaves))
        if key not in workspace.recorded:
            newton = record_call(self._newton, (flat, v), leaves, compile=workspace.mode == "compiled")
            workspace.recorded[key] = (
                newton,
                record_call(self._ahead, (flat, v, torch.ones_like(v)), leaves, compile=False),
            )
        calls = workspace.recorded[key]
        inputs = _inputs(calls, leaves, workspace, key)
        return lambda *args: calls[0](*args, *inputs[0]), lambda *args: calls[1](*args, *inputs[1])

    def _newton(self, flat: Tensor, v: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        """The elements of a `Step` at one φ (m,) and v (T, p)."""
        returned, rows = self._returned(flat), pytree.tree_unflatten(list(leaves), self._spec)

        def one(v: Tensor, row: Row, observed: bool) -> tuple[Tensor, Tensor]:
            gradient = torch.func.grad(lambda v: self.log_joint(returned, v, row, observed))

            def twice(v: Tensor) -> tuple[Tensor, Tensor]:
                g = gradient(v)
                return g, g

            hessian, g = torch.func.jacrev(twice, has_aux=True)(v)
            return g, -0.5 * (hessian + hessian.mT)

        parts = self._batches(one, v, rows)
        g, precision = (torch.cat([part[k] for part in parts]) for k in range(2))
        return tuple(newton_step(g, precision))

    def _ahead(self, flat: Tensor, v: Tensor, step: Tensor, *leaves: Tensor) -> tuple[Tensor]:
        """log p(y_t, θ | φ) (1 + ladder, T) at v and at v moved by each multiple of the step."""
        returned, rows = self._returned(flat), pytree.tree_unflatten(list(leaves), self._spec)

        def one(v: Tensor, row: Row, observed: bool) -> Tensor:
            return self.log_joint(returned, v, row, observed)

        return (torch.stack([torch.cat(self._batches(one, v + s * step, rows)) for s in (0.0, *LADDER)]),)

    def _batches(self, one: Callable[..., Any], v: Tensor, rows: Sequence[Row]) -> list[Any]:
        """`one(v, row, observed)` over the tasks of each batch."""
        parts = v.split([len(row.mask) for row in rows])
        return [
            self.program.over_tasks(lambda v, row, observed=observed: one(v, row, observed))(part, row)
            for part, row, observed in zip(parts, rows, self.observed, strict=True)
        ]

    def _returned(self, flat: Tensor) -> Any:
        values, start = {}, 0
        for site in self.program.structure.phi:
            count = math.prod(site.shape)
            values[site.name] = flat[start : start + count].reshape(site.shape)
            start += count
        return self.program.phi_at(values).returned


def _grad(value: Tensor, leaf: Tensor) -> Tensor:
    """The gradient, zero where the value does not depend on the leaf; the graph is kept."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (grad,) = torch.autograd.grad(value, leaf, retain_graph=True, materialize_grads=True)
    return grad


def _inputs(calls: Any, leaves: Sequence[Tensor], workspace: Workspace, key: Any) -> list[tuple[Tensor, ...]]:
    """What recorded calls take beside φ and v, computed once for these data."""
    # the data are kept with it: an address that is in use cannot be another tensor's
    kept = workspace.last.get(("inputs", key))
    addresses = [leaf.data_ptr() for leaf in leaves]
    if kept is None or kept[0] != addresses:
        kept = workspace.last[("inputs", key)] = (addresses, list(leaves), [call.inputs(leaves) for call in calls])
    inputs: list[tuple[Tensor, ...]] = kept[2]
    return inputs


# ----------------------------------------------------------------------------------------------------------
# The opaque operation

_numbers = itertools.count()
_solvers: weakref.WeakValueDictionary[int, Modes] = weakref.WeakValueDictionary()
# What torch is doing around the operation (recording, differentiating) is not done inside it.
_PLAIN = (torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set())


@torch.library.custom_op(
    "bayesmeta::modes",
    mutates_args=(),
    schema="(Tensor key, Tensor flat, Tensor like, Tensor[] data) -> (Tensor, Tensor)",
)
def _modes(key: Tensor, flat: Tensor, like: Tensor, data: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Modes (..., T, p) and roots (..., T, p, p) at flattened values of φ (..., m); `like` is (T, p)."""
    solver = _solvers.get(int(key))
    if solver is None:
        raise BayesmetaError("the evidence that this density was recorded from is gone: keep it")
    with torch._C._ForceDispatchKeyGuard(*_PLAIN), torch.no_grad():
        workspace = current()
        cold = torch.full((*flat.shape[:-1], *like.shape), START, dtype=torch.float64)
        place = (int(key), like.shape)
        warm = None if workspace is None else _warm(workspace.last.get(place), cold)
        found = solver.solve(flat, cold if warm is None else warm, data)
        if warm is not None and not bool(torch.isfinite(found.mode).all()):
            found = solver.solve(flat, cold, data)
        if (workspace is None or workspace.patient) and not bool(torch.isfinite(found.mode).all()):
            found = solver.rescued(found, flat, cold, data)
        if workspace is not None and bool(torch.isfinite(found.mode).all()):
            workspace.last[place] = found.mode
    return found.mode.clone(), found.root.clone()


def _warm(last: Tensor | None, cold: Tensor) -> Tensor | None:
    """Where to start: at the last modes, or for another number of points at their median."""
    if last is None or last.shape == cold.shape:
        return last
    return (last if last.dim() < cold.dim() else last.reshape(-1, *last.shape[-2:]).median(0).values).expand_as(cold)


@_modes.register_fake
def _shapes(key: Tensor, flat: Tensor, like: Tensor, data: list[Tensor]) -> tuple[Tensor, Tensor]:
    count, p = like.shape
    return flat.new_empty((*flat.shape[:-1], count, p)), flat.new_empty((*flat.shape[:-1], count, p, p))


@_modes.register_vmap
def _batched(info: Any, in_dims: Any, key: Tensor, flat: Tensor, like: Tensor, data: list[Tensor]) -> Any:
    """All points in one call; where data have a batch axis too, one after the other."""
    size = info.batch_size
    flat = flat.expand(size, *flat.shape) if in_dims[1] is None else flat.movedim(in_dims[1], 0)
    if all(dim is None for dim in in_dims[3]):
        lead = flat.shape[:-1]
        mode, root = _modes(key, flat.reshape(-1, flat.shape[-1]), like, data)
        return (mode.reshape(*lead, *mode.shape[1:]), root.reshape(*lead, *root.shape[1:])), (0, 0)

    def pick(tensor: Tensor, dim: int | None, i: int) -> Tensor:
        return tensor if dim is None else tensor.select(dim, i)

    found = [
        _modes(key, flat[i], like, [pick(t, d, i) for t, d in zip(data, in_dims[3], strict=True)]) for i in range(size)
    ]
    return (torch.stack([mode for mode, _ in found]), torch.stack([root for _, root in found])), (0, 0)
