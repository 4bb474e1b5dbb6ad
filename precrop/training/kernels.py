"""What replaces PyTorch's own CPU kernels in training, where these are slow or wrong."""

import torch.nn.functional as F

from precrop.modules.instead import Instead
from precrop.training.convolutions import conv2d
from precrop.training.narrow import batch_norm


class CpuKernels(Instead):
    """Within it, batch norms of few channels and some convolutions are done here.

    Only on a CPU, and only where that is faster or safer; everything else goes its usual way.
    """

    def __init__(self) -> None:
        super().__init__({F.batch_norm: batch_norm, F.conv2d: conv2d})
