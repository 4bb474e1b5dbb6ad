"""What one sets on the page, as `precrop.plan`, a shell and Python take it."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from precrop.model_spec import ModelSpec
from precrop.solve.program import BALANCE

COSTS = {"params": "parameters", "macs": "MACs", "latency": "latency", "memory": "activations"}
"""What has a budget on the page, and what it is called there."""
STRATEGIES: dict[str, dict[str, str]] = {
    "SynExp": {},
    "Uniform": {"rule": "uniform"},
    "Exact": {"objective": "exact"},
    "Exact output": {"objective": "exact-output"},
}
"""Ways of finding widths, as keywords of `precrop.plan`."""
USUAL = "cpu"
"""The profile that a divisor comes from unless another is named."""
DIVISORS: tuple[int | Literal["auto"], ...] = ("auto", 1, 2, 4, 8, 16, 32)
_OPTIONS = {"device_profile": "profile"}
"""Keywords of `precrop.plan` that a shell calls otherwise."""


@dataclass(frozen=True)
class Named:
    """A network by name, and the shape of its input, or of several, if not the usual one."""

    spec: ModelSpec
    input_shape: tuple[int, ...] | tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Controls:
    """The page's controls; equal ones give equal plans.

    Attributes:
        network: its name on the page.
        budgets: shares of what the original costs, by the names in `COSTS`.
        strategy: a name in `STRATEGIES`; the rest are keywords of `precrop.plan`.
        profile: whose latency.
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
        """What `precrop.plan` takes. A divisor is always said; else what is usual is not."""
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
        """The same plan in a shell, written to a file."""
        words = ["precrop", "plan", network.spec.name]
        for name, value in network.spec.args.items():
            words += ["--arg", f"{name}={value!r}"]
        for shape in _shapes(network.input_shape):
            words += ["--input-shape", ",".join(map(str, shape))]
        for keyword, value in self.keywords.items():
            words += _option(keyword, value)
        return shlex.join([*words, "-o", file_name(network)])

    def python(self, network: Named, input_shape: tuple[int, ...]) -> str:
        """The same plan in five lines of Python, and the network that it is for."""
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
    """The shapes of all inputs, where there are any."""
    if given is None:
        return ()
    return (given,) if isinstance(given[0], int) else given


def _option(keyword: str, value: Any) -> Iterator[str]:
    """A keyword of `precrop.plan` as words of a command."""
    option = f"--{_OPTIONS.get(keyword, keyword)}"
    if value is True:
        yield option
        return
    for one in value if isinstance(value, list) else [value]:
        yield from (option, str(one))


def file_name(network: Named) -> str:
    """What the plan's file is called."""
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in network.spec.name)
    return f"{stem.strip('.-') or 'plan'}.json"
