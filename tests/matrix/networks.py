"""The networks of the coverage matrix: input, kind, number of independent widths, shortfalls.

Names are those of `precrop.zoo.load_model`. The lists are written out rather than asked of the
libraries, so that a network can be neither lost nor gained unseen; a test compares them with what
torchvision and timm have.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["convolutional", "attention"]


def names(text: str) -> tuple[str, ...]:
    """The names in a text, which is easier to read and to change than a list of strings."""
    return tuple(text.split())


CLASSIFIERS = names(
    """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161
    densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
    efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l
    efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75
    mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf
    regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf
    regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf regnet_y_400mf
    regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50 resnext101_32x8d
    resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
    shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s
    swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32
    vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
    """
)

SEGMENTATION = names(
    """
    deeplabv3_mobilenet_v3_large deeplabv3_resnet101 deeplabv3_resnet50 fcn_resnet101 fcn_resnet50
    lraspp_mobilenet_v3_large
    """
)

VIDEO = names(
    """
    mc3_18 mvit_v1_b mvit_v2_s r2plus1d_18 r3d_18 s3d swin3d_b swin3d_s swin3d_t
    """
)

DETECTION = names(
    """
    fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn
    fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fcos_resnet50_fpn keypointrcnn_resnet50_fpn
    maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn
    retinanet_resnet50_fpn_v2 ssd300_vgg16 ssdlite320_mobilenet_v3_large
    """
)

# One network of every timm module: a small one that is in use, not a toy of timm's own tests.
TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "mobileone_s1",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "tf_mixnet_s",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "coatnet_nano_rw_224",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "eca_nfnet_l0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "ecaresnet26t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}

# More of the convolutional families where other croppers fail: several blocks live in one module.
TIMM_MORE = names(
    """
    botnet26t_256 convnextv2_atto cs3sedarknet_x cspdarknet53 cspresnet50 cspresnext50
    dla60_res2net densenetblur121d dm_nfnet_f0 dpn68b eca_resnet33ts efficientnet_b0 ese_vovnet39b
    fbnetv3_b gcresnext26ts gernet_s ghostnetv2_100 ghostnetv3_100 hrnet_w18_small_v2
    lambda_resnet26rpt_256 mixnet_l mobilenetv4_conv_small nf_regnet_b0 nf_resnet26 regnetz_005
    regnety_002 repvgg_a0 res2net50_26w_4s resnest50d resnetblur50 resnetrs50 resnetv2_50x1_bit
    rexnetr_100 seresnext26d_32x4d skresnext50_32x4d tf_efficientnetv2_b0 xception41
    """
)

OWN = names(
    """
    cifar_efficientnet_b0 cifar_mobilenet_v2 cifar_vgg16_bn resnet20 resnet32 resnet44 resnet56
    resnet110 resnet1202
    """
)

# Networks with self-attention, or another mixing of tokens with each other by products of
# activations (lambda layers, EfficientViM's state spaces, SwiftFormer's additive attention), by an
# MLP (gMLP) or a recurrence (Sequencer). Gates over channels (SE, ECA, SK, split attention, global
# context, GhostNetV2's) and focal modulation are convolutions and sums: networks with only those
# are convolutional.
ATTENTION = frozenset(
    names(
        """
        maxvit_t swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vit_b_16 vit_b_32 vit_h_14
        vit_l_16 vit_l_32 mvit_v1_b mvit_v2_s swin3d_b swin3d_s swin3d_t timm:beit_base_patch16_224
        timm:botnet26t_256 timm:cait_xxs24_224 timm:coat_tiny timm:coatnet_nano_rw_224
        timm:convit_tiny timm:cpubone_nano timm:crossvit_tiny_240 timm:csatv2 timm:davit_tiny
        timm:deepseek_vit_412m timm:deit_tiny_patch16_224 timm:edgenext_xx_small
        timm:efficientformer_l1 timm:efficientformerv2_s0 timm:efficientvim_m1 timm:efficientvit_b0
        timm:efficientvit_m0 timm:gcvit_xxtiny timm:gemma4_vit_167m timm:gmlp_ti16_224
        timm:halonet_h1
        timm:hiera_tiny_224 timm:iformer_t timm:lambda_resnet26rpt_256 timm:levit_128s
        timm:lowformer_b0 timm:mobilenetv5_base timm:mobilevit_xxs timm:mvitv2_tiny
        timm:naflexvit_base_patch16_parfac_gap timm:nest_tiny timm:nextvit_small timm:pit_ti_224
        timm:pvt_v2_b0 timm:qwen3_vit_88m timm:sam2_hiera_tiny timm:samvit_base_patch16_224
        timm:sequencer2d_s timm:shvit_s1 timm:swiftformer_xs timm:swin_tiny_patch4_window7_224
        timm:swinv2_cr_tiny_224 timm:swinv2_tiny_window8_256 timm:tiny_vit_5m_224
        timm:tnt_s_legacy_patch16_224 timm:twins_svt_small timm:visformer_tiny
        timm:vit_tiny_patch16_224 timm:vit_relpos_small_patch16_224
        timm:vit_tiny_patch16_dinov3_qkvb
        timm:vit_tiny_r_s16_p8_224 timm:vitamin_small_224 timm:volo_d1_224 timm:xcit_nano_12_p8_224
        """
    )
)

# Sides of square inputs, where it isn't 224.
SIDES = {
    "inception_v3": 299,
    "timm:inception_v3": 299,
    "timm:inception_v4": 299,
    "timm:inception_resnet_v2": 299,
    "timm:legacy_xception": 299,
    "timm:xception41": 299,
    "timm:xception41p": 299,
    "timm:nasnetalarge": 331,
    "timm:pnasnet5large": 331,
    "timm:crossvit_tiny_240": 240,
    "timm:csatv2": 512,
    "timm:deepseek_vit_412m": 546,
    "timm:dm_nfnet_f0": 192,
    "timm:nf_regnet_b0": 192,
    "timm:tf_efficientnetv2_b0": 192,
    "timm:resnetrs50": 160,
    "timm:gemma4_vit_167m": 768,
    "timm:qwen3_vit_88m": 768,
    "timm:naflexvit_base_patch16_parfac_gap": 384,
    "timm:sam2_hiera_tiny": 896,
    **dict.fromkeys(
        names(
            """
            timm:botnet26t_256 timm:cs3darknet_focus_s timm:cs3sedarknet_x timm:cspdarknet53
            timm:cspresnet50 timm:cspresnext50 timm:eca_resnet33ts timm:ecaresnet26t
            timm:edgenext_xx_small timm:fastvit_t8 timm:gcresnext26ts
        timm:halonet_h1
            timm:lambda_resnet26rpt_256 timm:mobilenetv5_base timm:mobilevit_xxs
            timm:swinv2_tiny_window8_256
        timm:vit_tiny_patch16_dinov3_qkvb
            """
        ),
        256,
    ),
}

# Clips of 16 frames; the smallest that the networks' own weights are for.
CLIPS = dict.fromkeys(("mc3_18", "r2plus1d_18", "r3d_18"), (3, 16, 112, 112))
CLIPS |= {name: (3, 16, 224, 224) for name in VIDEO if name not in CLIPS}
DETECTED = (3, 320, 320)

# The real forward and backward run on smaller images than the plan is for: convolutions take any.
# Auxiliary heads and windows of attention don't; those networks, and others that need it, are here.
SMALL_SIDE = 64
RUN_SIDES = {
    "inception_v3": 299,  # its auxiliary head pools what is left of 299 pixels
    "timm:inception_v3": 128,
    "timm:inception_v4": 128,
    "timm:inception_resnet_v2": 128,
    "timm:nasnetalarge": 128,
    "timm:pnasnet5large": 128,
    "timm:selecsls42": 128,
    "alexnet": 128,
    # Attention over fewer tokens, where the network takes them.
    "timm:csatv2": 256,
    "timm:deepseek_vit_412m": 126,
    "timm:gemma4_vit_167m": 144,
    "timm:mobilenetv5_base": 128,
    "timm:naflexvit_base_patch16_parfac_gap": 128,
    "timm:nextvit_small": 96,
    "timm:qwen3_vit_88m": 128,
    "timm:sam2_hiera_tiny": 224,
    "timm:samvit_base_patch16_224": 112,
}
SMALL_CLIP = (3, 16, 64, 64)
WHOLE_CLIPS = {"s3d", "mvit_v1_b", "mvit_v2_s"}
"""Video networks that need their 224 pixels: to pool over, or for their position tables."""

# The layer that makes the hidden width of an MLP, by its path: a pattern that holds for most
# networks of attention (it passes by the MLPs that make position biases), and those of the others.
HIDDEN = (
    r"(?<!rel_pos\.)\bmlp(_layer|_in|_channels|\d)?"
    r"\.(0|1|fc1|conv1|w0|w1|ln1|gate_proj|up_proj|main\.1)\b"
)
HIDDEN_OF = {
    # Bottlenecks around attention instead of MLPs: the width that the block reduces to.
    "timm:botnet26t_256": r"conv1_1x1",
    "timm:halonet_h1": r"conv1_1x1",
    "timm:lambda_resnet26rpt_256": r"conv1_1x1",
    "timm:cpubone_nano": r"total\.0\.1\.main\.1$",
    "timm:csatv2": r"pwconv1$|stages\.\d\.\d\.mlp\.fc1$",
    "timm:efficientvim_m1": r"ffn\.fc1",
    "timm:efficientvit_b0": r"local_module\.main\.inverted_conv",
    "timm:efficientvit_m0": r"ffn\d?\.m\.pw1",
    "timm:iformer_t": r"mixer\.module\.[01]\.c$",
    "timm:mobilenetv5_base": r"pw_exp",
    "timm:shvit_s1": r"ffn\.m\.pw1",
    "timm:swiftformer_xs": r"linear\.fc1$",
}


@dataclass(frozen=True)
class Entry:
    """A network of the matrix.

    Attributes:
        name: as `precrop.zoo.load_model` knows it.
        shape: the input that it is planned for, without the batch.
        run_shape: the input of the real forward and backward.
        kind: whether it is measured as a convolutional network.
        groups: its number of independent widths; 0 where none is recorded.
        detector: whether its output depends on values, so that MACs can't be compared.
        hidden: a pattern for the layers that make hidden widths of MLPs.
        shortfalls: checks of `tests.matrix.measure.CHECKS` that fail, and why.
    """

    name: str
    shape: tuple[int, ...]
    run_shape: tuple[int, ...]
    kind: Kind
    groups: int
    detector: bool = False
    hidden: str = HIDDEN
    shortfalls: dict[str, str] = field(default_factory=dict)


SHORTFALLS: dict[str, dict[str, str]] = {
    "timm:tnt_s_legacy_patch16_224": {
        "MLPs cropped": "the inner ones, of 24 channels, cost so little that they keep their width"
    },
}
"""Checks that a network fails, and why. The tests insist that it still does."""

# Independent widths, measured by ``python -m scripts.coverage_table --cache FILE --groups`` and
# then looked at one by one. `tests/matrix/test_matrix.py` has those that were counted by hand.
GROUPS_FILE = Path(__file__).parent / "groups.json"


def entries() -> list[Entry]:
    """Every network of the matrix, in the order of the tables."""
    timm = [f"timm:{name}" for name in (*TIMM.values(), *TIMM_MORE)]
    groups: dict[str, int] = json.loads(GROUPS_FILE.read_text()) if GROUPS_FILE.exists() else {}
    listed = (*CLASSIFIERS, *SEGMENTATION, *VIDEO, *DETECTION, *timm, *OWN)
    return [_entry(name, groups.get(name, 0)) for name in listed]


def _entry(name: str, groups: int) -> Entry:
    kind: Kind = "attention" if name in ATTENTION else "convolutional"
    shape = _shape(name)
    return Entry(
        name=name,
        shape=shape,
        run_shape=_run_shape(name, shape, kind),
        kind=kind,
        groups=groups,
        detector=name in DETECTION,
        hidden=HIDDEN_OF.get(name, HIDDEN),
        shortfalls=SHORTFALLS.get(name, {}),
    )


def _shape(name: str) -> tuple[int, ...]:
    if name in OWN:
        return (3, 32, 32)
    if name in DETECTION:
        return DETECTED
    if name in CLIPS:
        return CLIPS[name]
    side = SIDES.get(name, 224)
    return (3, side, side)


def _run_shape(name: str, shape: tuple[int, ...], kind: Kind) -> tuple[int, ...]:
    if name in RUN_SIDES:
        return (3, RUN_SIDES[name], RUN_SIDES[name])
    if name in VIDEO:
        return shape if name in WHOLE_CLIPS else SMALL_CLIP
    whole = kind == "attention" or name in OWN or name in DETECTION
    return shape if whole else (3, SMALL_SIDE, SMALL_SIDE)


# The part of the matrix that every `make test` runs, small but of every family; and networks that
# are only planned, built and counted there.
FAST = names(
    """
    squeezenet1_1 vgg11_bn resnet18 resnet50 densenet121 googlenet mobilenet_v2 mobilenet_v3_small
    mnasnet0_75 shufflenet_v2_x1_0 regnet_y_400mf efficientnet_b0 convnext_tiny swin_t
    lraspp_mobilenet_v3_large r3d_18 fasterrcnn_mobilenet_v3_large_320_fpn
    ssdlite320_mobilenet_v3_large resnet20 cifar_vgg16_bn cifar_mobilenet_v2
    timm:convmixer_768_32 timm:cs3darknet_focus_s timm:dpn48b timm:eca_nfnet_l0 timm:ecaresnet26t
    timm:fasternet_t0 timm:ghostnet_050 timm:hrnet_w18_small timm:inception_next_atto
    timm:levit_128s timm:mambaout_femto timm:nf_resnet26 timm:res2next50 timm:resnest14d
    timm:resnetv2_18 timm:rexnet_100 timm:skresnet18 timm:starnet_s050 timm:tresnet_m
    timm:vit_tiny_patch16_224
    """
)
FAST_PLANS = names("inception_v3 densenet201 timm:tf_mixnet_s timm:cspresnet50")
