"""The methods of adaptation by name: the config of each, and its ``run(problem, config) -> Result``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple, TypeAlias

from bayesmeta.adapt import exact, gradient, langevin, laplace, nuts, quadrature, svi
from bayesmeta.adapt.collapsed import adapt_collapsed
from bayesmeta.adapt.problem import Problem, Result
from bayesmeta.errors import NotAvailableError, OptionError, unknown
from bayesmeta.evidence import Own

__all__ = ["METHODS", "Config", "Method", "method_of", "run_own"]

Config: TypeAlias = (
    exact.Exact | quadrature.Quadrature | laplace.Laplace | gradient.Gradient | langevin.Langevin | nuts.NUTS | svi.SVI
)


class Method(NamedTuple):
    """A method: the type of its config, and what runs it."""

    config: Callable[..., Any]
    run: Callable[[Problem, Any], Result]


def run_own(problem: Problem, config: exact.Exact) -> Result:
    """Draws of φ and θ by the formulas of the family.

    Raises:
        NotAvailableError: The family has none.
    """
    if not isinstance(problem.evidence, Own):
        raise NotAvailableError("method='own' is for families that bring their own evidence: use method='auto'")
    return adapt_collapsed(problem, problem.evidence)


METHODS: dict[str, Method] = {
    "exact": Method(exact.Exact, exact.run),
    "quadrature": Method(quadrature.Quadrature, quadrature.run),
    "laplace": Method(laplace.Laplace, laplace.run),
    "gradient": Method(gradient.Gradient, gradient.run),
    "langevin": Method(langevin.Langevin, langevin.run),
    "nuts": Method(nuts.NUTS, nuts.run),
    "svi": Method(svi.SVI, svi.run),
    "own": Method(exact.Exact, run_own),
}


def method_of(method: object, options: object) -> tuple[str, Any]:
    """The name and the config of a method, given by name and options, or by its config alone.

    The config is None for ``"auto"``.

    Raises:
        OptionError: An unknown method or option, or options that do not go with the method.
    """
    if not isinstance(method, str):
        return _by_config(method, options)
    if method == "auto":
        if options is not None:
            raise OptionError(f"options are those of one method, and method='auto' chooses it; got {options!r}")
        return method, None
    if method not in METHODS:
        raise OptionError(unknown("method", method, ("auto", *METHODS)))
    kind: Any = METHODS[method].config
    if options is None:
        return method, kind()
    if isinstance(options, kind):
        return method, options
    if not isinstance(options, Mapping):
        raise OptionError(
            f"options must be a {kind.__name__} from bayesmeta.adapt or a mapping, got {type(options).__name__}"
        )
    valid = [field.name for field in fields(kind)]
    for name in options:
        if name not in valid:
            raise OptionError(unknown(f"option of method {method!r}", name, valid))
    return method, kind(**options)


def _by_config(config: object, options: object) -> tuple[str, Any]:
    names = [name for name, method in METHODS.items() if type(config) is method.config]
    if not names:
        raise OptionError(
            f"method must be a name ({', '.join(METHODS)}) or the config of one, got {type(config).__name__}"
        )
    if options is not None:
        raise OptionError(f"method is a {type(config).__name__} already, which holds its options; leave options out")
    return names[0], config
