from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from precrop.models import nats_sss

SAMPLE = Path(__file__).parents[1] / "evidence" / "nats-sss.parquet"
DATA_SETS = {"cifar10": (10, 32), "cifar100": (100, 32), "imagenet16_120": (120, 16)}


def check(rows: int) -> None:
    table = pd.read_parquet(SAMPLE).sample(rows, random_state=1)
    for _, row in table.iterrows():
        widths = [int(row[f"c{i}"]) for i in range(5)]
        for name, (classes, size) in DATA_SETS.items():
            with torch.device("meta"):
                network = nats_sss(widths, classes).eval()
                image = torch.empty(1, 3, size, size)
            assert sum(p.numel() for p in network.parameters()) == row[f"params_{name}"], widths
            with FlopCounterMode(display=False) as counter:
                network(image)
            assert counter.get_total_flops() // 2 == row[f"macs_{name}"], widths


def test_costs_are_those_of_the_benchmark() -> None:
    check(4)


@pytest.mark.matrix
def test_costs_of_a_thousand_networks_are_those_of_the_benchmark() -> None:
    check(1000)


def test_outputs_and_a_wrong_number_of_widths() -> None:
    assert nats_sss((8, 16, 16, 24, 8), 7)(torch.randn(2, 3, 16, 16)).shape == (2, 7)
    with pytest.raises(ValueError, match="5 numbers"):
        nats_sss((8, 8, 8))
