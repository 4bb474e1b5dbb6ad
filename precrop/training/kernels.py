"""What replaces PyTorch's own CPU kernels in training, where these are slow or wrong."""

from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from precrop.training.convolutions import conv2d
from precrop.training.narrow import batch_norm

_FASTER = {F.batch_norm: batch_norm, F.conv2d: conv2d}


class CpuKernels(TorchFunctionMode):
    """Within it, batch norms of few channels and some convolutions are done here.

    Only on a CPU, and only where that is faster or safer; everything else goes its usual way.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Let functions of this package stand in for torch's."""
        return _FASTER.get(function, function)(*args, **(kwargs or {}))
