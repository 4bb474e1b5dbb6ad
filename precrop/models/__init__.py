"""Networks for 32x32 images from the pruning literature that torchvision lacks.

Every function takes ``num_classes`` and returns a freshly initialised network whose input is
``(batch, 3, 32, 32)``.
"""

from precrop.models.efficientnet import cifar_efficientnet_b0
from precrop.models.mobilenet import cifar_mobilenet_v2
from precrop.models.nats import nats_sss
from precrop.models.resnet import resnet20, resnet32, resnet44, resnet56, resnet110, resnet1202
from precrop.models.vgg import cifar_vgg16_bn

__all__ = [
    "cifar_efficientnet_b0",
    "cifar_mobilenet_v2",
    "cifar_vgg16_bn",
    "nats_sss",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
]
