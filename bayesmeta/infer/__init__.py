"""Back-ends: p(φ | D) from the density of a hierarchy, one back-end a file, all returning `Draws`."""

from __future__ import annotations

from bayesmeta.infer.nuts import NUTS

__all__ = ["NUTS"]
