"""The oracle on the convolutional networks of the coverage matrix."""

import pytest
import torch
from torch import nn

from precrop.zoo import load_model
from tests.matrix.networks import Entry, entries
from tests.trained.oracle import difference, identity_kept, trained

# What networks warn about on their way is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")

LARGEST = 30e6
"""Parameters of the largest network that is compared."""

TOLERANCE = 1e-5
OVER_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)
CONVOLUTIONAL = [e for e in entries() if e.kind == "convolutional" and not e.detector]
FEW = ("squeezenet1_1", "shufflenet_v2_x1_0")
STANDARDISED = ("timm:nf_resnet26", "timm:nf_regnet_b0", "timm:eca_nfnet_l0", "timm:dm_nfnet_f0")
"""Their weights' means and variances run over the channels that they read."""


def check(entry: Entry) -> None:
    torch.manual_seed(0)
    model = load_model(entry.name, {})
    if sum(parameter.numel() for parameter in model.parameters()) > LARGEST:
        pytest.skip(f"more than {LARGEST:,.0f} parameters")
    model = trained(model)
    plan = identity_kept(model, entry.run_shape, params=0.5, rule="uniform", divisor=1)
    found = difference(model, plan)
    if entry.name in STANDARDISED or any(isinstance(m, OVER_CHANNELS) for m in model.modules()):
        assert found > TOLERANCE, f"{entry.name} is exact: it is no exception"
    else:
        assert found <= TOLERANCE


@pytest.mark.parametrize("entry", [e for e in CONVOLUTIONAL if e.name in FEW], ids=lambda e: e.name)
def test_a_few_networks(entry: Entry) -> None:
    check(entry)


@pytest.mark.matrix
@pytest.mark.parametrize("entry", CONVOLUTIONAL, ids=lambda e: e.name)
def test_every_network(entry: Entry) -> None:
    check(entry)
