"""Whether a machine is quiet enough for measurements: nothing else takes its time."""

import os
from dataclasses import dataclass

from precrop.deployment.timing import interleaved

QUIET = 0.1
"""Spread of one and the same computation up to which times can be trusted."""
_SAMPLES, _SECONDS, _SIDE = 60, 0.005, 256


@dataclass(frozen=True)
class Quiet:
    """How steadily one and the same computation ran, on one thread.

    Attributes:
        spread: from the 10th to the 90th percentile of its time, as a share of the median.
        load: processes that wanted to run in the last minute, on average; None where the system
            does not tell.
    """

    spread: float
    load: float | None

    @property
    def enough(self) -> bool:
        """Whether times measured now can be trusted."""
        return self.spread <= QUIET


def listen() -> Quiet:
    """Run a short computation again and again, for a third of a second."""
    import torch

    factor = torch.ones(_SIDE, _SIDE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timing = interleaved(
            {"product": lambda: factor @ factor}, rounds=_SAMPLES, least_seconds=_SECONDS
        )["product"]
    finally:
        torch.set_num_threads(threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Quiet(timing.spread, load)
