"""The settings on the page, as `precrop.plan`, a shell and Python take them."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from precrop.model_spec import ModelSpec
from precrop.solve.program import BALANCE

COSTS = {"params": "parameters", "macs": "MACs", "latency": "latency", "memory": "activations"}
"""Costs that can have a budget on the page, with their names there."""
STRATEGIES: dict[str, dict[str, str]] = {
    "SynExp": {},
    "Uniform": {"rule": "uniform"},
    "Exact": {"objective": "exact"},
    "Exact output": {"objective": "exact-output"},
}
"""Ways of finding widths, as keywords of `precrop.plan`."""
USUAL = "cpu"
"""The profile that the divisor ``auto`` comes from by default."""
DIVISORS: tuple[int | Literal["auto"], ...] = ("auto", 1, 2, 4, 8, 16, 32)
_OPTIONS = {"device_profile": "profile"}
"""Keywords of `precrop.plan` whose options in a shell have other names."""


@dataclass(frozen=True)
class Named:
    """A network by name, and the shape of its input, or of several, if not the default."""

    spec: ModelSpec
    input_shape: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Controls:
    """The values of the page's controls; equal ones give equal plans.

    Attributes:
        network: its name on the page.
        budgets: shares of the original's costs, by the names in `COSTS`.
        strategy: a name in `STRATEGIES`; attributes not listed are keywords of `precrop.plan`.
        profile: the device profile for latency and for the divisor ``auto``.
    """

    network: str
    budgets: tuple[tuple[str, float], ...]
    divisor: int | Literal["auto"]
    strategy: str
    balance: float
    expand: bool
    ignore: tuple[str, ...]
    profile: str

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords for `precrop.plan`; the divisor is always given, other defaults are not."""
        found: dict[str, Any] = {**dict(self.budgets), "divisor": self.divisor}
        found |= STRATEGIES[self.strategy]
        if "rule" not in found and self.balance != BALANCE:
            found["balance"] = self.balance
        if self.expand:
            found["expand"] = True
        if self.ignore:
            found["ignore"] = list(self.ignore)
        if "latency" in found or (self.divisor == "auto" and self.profile != USUAL):
            found["device_profile"] = self.profile
        return found

    def command(self, network: Named) -> str:
        """Return a shell command that writes the same plan to a file."""
        words = ["precrop", "plan", network.spec.name]
        for name, value in network.spec.args.items():
            words += ["--arg", f"{name}={value!r}"]
        for shape in _shapes(network.input_shape):
            words += ["--input-shape", ",".join(map(str, shape))]
        for keyword, value in self.keywords.items():
            words += _option(keyword, value)
        return shlex.join([*words, "-o", file_name(network)])

    def python(self, network: Named, input_shape: tuple[int, ...]) -> str:
        """Return five lines of Python that make the same plan and the cropped network."""
        given = "".join(f", {name}={value!r}" for name, value in self.keywords.items())
        return "\n".join(
            (
                "import precrop",
                "from precrop.zoo import load_model",
                f"model = load_model({network.spec.name!r}, {dict(network.spec.args)!r})",
                f"plan = precrop.plan(model, {input_shape!r}{given})",
                "small = plan.build(model)",
            )
        )


def _shapes(given: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """Return the shapes of all inputs; none if they are the default."""
    if given is None:
        return ()
    return (given,) if isinstance(given[0], int) else given


def _option(keyword: str, value: Any) -> Iterator[str]:
    """Yield a keyword of `precrop.plan` as words of a command."""
    option = f"--{_OPTIONS.get(keyword, keyword)}"
    if value is True:
        yield option
        return
    for one in value if isinstance(value, list) else [value]:
        yield from (option, str(one))


def file_name(network: Named) -> str:
    """Return the name of the plan's file."""
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in network.spec.name)
    return f"{stem.strip('.-') or 'plan'}.json"
