"""Pictures of a posterior: one plot a file, matplotlib loaded when the first is drawn."""

from __future__ import annotations

from bayesmeta.plot.sbc import sbc
from bayesmeta.plot.shrinkage import shrinkage

__all__ = ["sbc", "shrinkage"]
