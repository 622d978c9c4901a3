"""θ of a new task without a refit: p(θ_new | D_new, D) = ∫ p(θ_new | φ, D_new) p(φ | D, D_new) dφ.

Every draw of φ is weighted by how well it predicts the new task's own observations, w_s ∝ Z_new(φ_s), and θ is
drawn from its conditional under it. One method a file, all returning `Adapted`.

| method | when |
|---|---|
| `exact` | θ | φ, D is Gaussian: weights and conditionals in closed form |
| `quadrature`, `laplace` | weights by the evidence of the fit, θ from proposals at the mode |
| `nuts` | otherwise: NUTS over θ under the mixture of all draws of φ |
"""

from __future__ import annotations

from bayesmeta.adapt.adapted import Adapted
from bayesmeta.adapt.front import METHODS, adapt, check_like

__all__ = ["METHODS", "Adapted", "adapt", "check_like"]
