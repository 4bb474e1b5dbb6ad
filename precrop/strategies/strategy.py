"""What a strategy is: from the program of a network to continuous widths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from precrop.read.network import Network
from precrop.solve.program import BALANCE, Program
from precrop.solve.relax import Allocation
from precrop.solve.structure import Floats

GIVEN = "given"
"""Status of widths that were given, not solved for."""


@dataclass(frozen=True)
class Solution:
    """Continuous widths, and the program whose objective whole units are judged by.

    Attributes:
        problem: as `precrop.solve.rounding` takes it.
        allocation: the widths.
        value: what is really maximised, as a function of log ratios.
        targets: densities that were aimed at, by layer name.
        report: what else is worth telling, for the plan.
    """

    problem: Program
    allocation: Allocation
    value: Callable[[Floats], float]
    targets: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


Solver = Callable[[Program], Solution]


@dataclass(frozen=True)
class Strategy:
    """How the widths of a plan are found; subclasses are values too.

    A subclass either is called itself, or overrides `solver`. It gets the program with the
    structure, the costs and their limits, the bounds and steps of all widths, and the penalty of
    the balance term; whole units follow from what it returns.
    """

    balance = BALANCE
    """Weight of the balance term in the program that it gets, gamma in docs/method.md."""
    follows_every_call = False
    """Whether repeated steps of recurrent layers must all be read."""

    @property
    def budgeted(self) -> bool:
        """Whether it needs a budget."""
        return True

    def record(self) -> dict[str, Any]:
        """What a plan says of it among its options: its balance, objective and rule if it has any.

        By default the rule is the name of its class. A strategy of one's own may have attributes of
        these names that mean something else: what is no number or text is not recorded.
        """
        usual = {"balance": BALANCE, "objective": "synexp", "rule": type(self).__name__}
        own = {name: getattr(self, name, None) for name in usual}
        return usual | {name: v for name, v in own.items() if isinstance(v, (int, float, str))}

    def solver(self, network: Network) -> Solver:
        """The strategy for one network.

        Raises:
            PrecropError: it names layers that the network does not have.
        """
        return self

    def __call__(self, problem: Program) -> Solution:
        """Widths within every budget, before rounding."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__ or solver")
