"""θ of a new task without a refit: p(θ_new | D_new, D) = ∫ p(θ_new | φ, D_new) p(φ | D, D_new) dφ.

Every draw of φ is weighted by how well it predicts the new task's own observations, w_s ∝ Z_new(φ_s), and θ is
drawn from its conditional under it. One method a file, all returning `Adapted`, all on every task and every draw
of φ at once, whatever the fit was.

| method | when |
|---|---|
| `exact` | log p(y, θ | φ) quadratic in θ: weights and conditionals in closed form |
| `quadrature` | up to three θ: weights by quadrature, θ from proposals at its mode |
| `laplace` | a smooth task with one mode: Gaussian proposals at the mode, weighted |
| `gradient` | any differentiable task, networks too: a few gradient steps from each draw of φ |
| `svi` | many draws of φ, skewed tasks: one Gaussian for θ, proposals from it weighted |
| `langevin` | Laplace's approximation, then Metropolis-adjusted Langevin steps on θ and φ |
| `nuts` | anything else: NUTS over θ under the mixture of all draws of φ |
| `own` | families that know their own evidence |
"""

from __future__ import annotations

from bayesmeta.adapt.adapted import Adapted
from bayesmeta.adapt.exact import Exact
from bayesmeta.adapt.front import adapt
from bayesmeta.adapt.gradient import Gradient
from bayesmeta.adapt.known import check_like
from bayesmeta.adapt.langevin import Langevin
from bayesmeta.adapt.laplace import Laplace
from bayesmeta.adapt.methods import METHODS, Config
from bayesmeta.adapt.nuts import NUTS
from bayesmeta.adapt.quadrature import Quadrature
from bayesmeta.adapt.svi import SVI

__all__ = [
    "METHODS",
    "NUTS",
    "SVI",
    "Adapted",
    "Config",
    "Exact",
    "Gradient",
    "Langevin",
    "Laplace",
    "Quadrature",
    "adapt",
    "check_like",
]
