"""Plans of networks by name; networks that were read, and plans, are cached."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import precrop
from precrop.costs.profiles import ROOFLINES, find_profile
from precrop.errors import PlanError, PrecropError
from precrop.explore.controls import DIVISORS, STRATEGIES, Controls, Named
from precrop.files import read_text
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan
from precrop.read.reading import Reading
from precrop.zoo import default_input_shape, library_names, load_model

READINGS, PLANS = 4, 64
"""Numbers of networks and of plans that are cached."""
LARGEST_FILE = 16 * 2**20
"""Bytes that a plan file may have; those of the largest networks have a few million."""
LONGEST = 1000
"""Characters that the patterns of ignored layers may have together."""


class Explorer:
    """Answers the page. Names outside its tables are refused, so that no browser can run code."""

    def __init__(
        self,
        first: ModelSpec,
        input_shape: tuple[int, ...] | None = None,
        *,
        names: Iterable[str] | None = None,
        profiles: Iterable[str] = (),
    ) -> None:
        """Make ``first`` the first network, without building it; the rest is as for `page.app`."""
        if names is None:
            names = [name for found in library_names().values() for name in found]
        self.networks: Mapping[str, Named] = {
            str(first): Named(first, input_shape),
            **{name: Named(ModelSpec(name, {})) for name in names if name != str(first)},
        }
        self.profiles = tuple(dict.fromkeys((*profiles, *ROOFLINES)))
        for profile in self.profiles:
            find_profile(profile)
        self.reading = functools.lru_cache(READINGS)(self._reading)
        self.plan = functools.lru_cache(PLANS)(self._plan)

    def named(self, name: Any) -> Named:
        """Return a network on the page.

        Raises:
            PrecropError: there is no such network.
        """
        if not isinstance(name, str) or name not in self.networks:
            raise PrecropError(f"no network on this page is called {str(name)[:60]!r}")
        return self.networks[name]

    def _reading(self, name: str) -> Reading:
        network = self.named(name)
        model = load_model(network.spec.name, network.spec.args)
        shape = network.input_shape or default_input_shape(network.spec.name, model)
        return Reading(model, shape)

    def _plan(self, controls: Controls) -> Plan:
        network = self.named(controls.network)
        for what, value, known in (
            ("strategy", controls.strategy, STRATEGIES),
            ("profile", controls.profile, self.profiles),
            ("divisor", controls.divisor, DIVISORS),
        ):
            if value not in known:
                raise PrecropError(f"no {what} on this page is called {str(value)[:60]!r}")
        if sum(map(len, controls.ignore)) > LONGEST:
            raise PrecropError(f"patterns of more than {LONGEST} characters are not looked at")
        plan = precrop.plan(self.reading(controls.network), **controls.keywords)
        return dataclasses.replace(plan, source=network.spec)


def uploaded(path: Path) -> Plan:
    """Load a plan from an untrusted file of bounded size; no code that it names runs.

    Raises:
        PlanError: the file is too large, or is not a plan.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise PlanError(f"a plan file has no more than {LARGEST_FILE // 2**20} MiB")
        return Plan.from_json(read_text(path, "a plan file"))
    except OSError as error:
        raise PlanError("the file cannot be read") from error
