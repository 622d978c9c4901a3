"""The demonstration: learn a population, hide a few tasks, adapt to some of their observations, predict the rest.

Run it by `make demo` or `python -m bayesmeta.demo --out runs/demo`; as a function it is `run`.
"""

from __future__ import annotations

from bayesmeta.demo.experiment import Round, Setting, run
from bayesmeta.demo.page import write
from bayesmeta.demo.result import Result
from bayesmeta.demo.screen import show

__all__ = ["Result", "Round", "Setting", "run", "show", "write"]
