"""Networks of other people's packages, for docs/coverage-outside.md.

Each is a real class of its package, with random weights and small enough to be measured in seconds.
Nothing here loads weights. The packages are those of constraints-outside.txt; they are imported
only when a network is made, so that a missing one costs its own networks and no others.
"""

import contextlib
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.matrix.networks import names

PACKAGES = names(
    """
    segmentation-models-pytorch ultralytics-opencv-headless monai transformers pytorchcv torchaudio
    spandrel diffusers neuralforecast vit-pytorch pytorch-tcn snac
    """
)
"""Whose networks these are, by their names in the package index."""

MODULES = names(
    """
    segmentation_models_pytorch ultralytics.nn.tasks monai.networks.nets transformers
    pytorchcv.model_provider spandrel diffusers neuralforecast.models
    """
)
"""What takes long to import."""

Make = Callable[[], nn.Module]
Input = Callable[[int], Any]
"""One argument of a forward pass, by the batch size."""


@dataclass(frozen=True)
class Outside:
    """A network and its inputs."""

    name: str  # the package and the network
    make: Make  # the network, with random weights
    args: tuple[Input, ...] = ()  # its positional arguments
    kwargs: dict[str, Input] = field(default_factory=dict)  # those by name
    drop_unused: bool = False  # leave out modules that no pass calls, if they exceed the budget

    def network(self) -> nn.Module:
        """Return the network in eval mode; it is the same at every call."""
        torch.manual_seed(0)
        return self.make().float().eval()

    def inputs(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs of a pass at this batch size; they are the same at every call."""
        torch.manual_seed(0)
        args = tuple(one(batch) for one in self.args)
        return args, {name: one(batch) for name, one in self.kwargs.items()}


def floats(*shape: int) -> Input:
    """Make random numbers in [0, 1), as images and spectra have them."""
    return lambda batch: torch.rand(batch, *shape)


def normal(*shape: int) -> Input:
    """Make random numbers around 0, as waveforms and latents have them."""
    return lambda batch: torch.randn(batch, *shape)


def ids(number: int, *shape: int) -> Input:
    """Make random indices into a table of ``number`` rows; the first two are for special tokens."""
    return lambda batch: torch.randint(2, number, (batch, *shape))


def ones(*shape: int, dtype: torch.dtype = torch.long) -> Input:
    """Make a mask that hides nothing, or a length of one."""
    return lambda batch: torch.ones(batch, *shape, dtype=dtype)


def lengths(length: int) -> Input:
    """Give every sequence of the batch its full length."""
    return lambda batch: torch.full((batch,), length)


def always(value: Any) -> Input:
    """Return the same input for every batch size."""
    return lambda batch: value


def found(path: str) -> Any:
    """Import what ``package.module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def of(path: str, *args: Any, **options: Any) -> Make:
    """Return a call of ``package.module:name``."""
    return lambda: found(path)(*args, **options)


# --------------------------------------------------------------------------- segmentation-models


def segmentation(decoder: str, encoder: str, **options: Any) -> Outside:
    """A decoder on an encoder."""
    make = of(f"segmentation_models_pytorch:{decoder}", encoder, encoder_weights=None, **options)
    return Outside(f"smp {decoder} {encoder}", make, (floats(3, 64, 64),))


SEGMENTATION = [
    *(
        segmentation(decoder, "resnet18")
        for decoder in names("Unet UnetPlusPlus MAnet Linknet FPN DeepLabV3 DeepLabV3Plus UPerNet")
    ),
    Outside(
        "smp PSPNet resnet18 without its unused stages",
        of("segmentation_models_pytorch:PSPNet", "resnet18", encoder_weights=None),
        (floats(3, 64, 64),),
        drop_unused=True,
    ),
    segmentation("Unet", "mobilenet_v2"),
    segmentation("Unet", "efficientnet-b0"),
    segmentation("Unet", "timm-regnetx_002"),
    segmentation("Unet", "mobileone_s0"),
    segmentation("Unet", "vgg11_bn"),
    Outside(
        "smp Unet resnet18 with scSE",
        of(
            "segmentation_models_pytorch:Unet",
            "resnet18",
            encoder_weights=None,
            decoder_attention_type="scse",
        ),
        (floats(3, 64, 64),),
    ),
    segmentation("UnetPlusPlus", "densenet121"),
    segmentation("FPN", "se_resnet50"),
    segmentation("FPN", "mit_b0"),
    segmentation("Segformer", "mit_b0"),
    segmentation("DeepLabV3Plus", "resnext50_32x4d"),
    segmentation("Linknet", "dpn68"),
    segmentation("MAnet", "inceptionv4"),
    segmentation("UPerNet", "tu-convnext_atto"),
    Outside(
        "smp PAN resnet18",
        of("segmentation_models_pytorch:PAN", "resnet18", encoder_weights=None),
        (floats(3, 128, 128),),
    ),
    segmentation("UnetPlusPlus", "xception"),
]

# ------------------------------------------------------------------------------------ ultralytics


def yolo(name: str, kind: str = "Detection", size: int = 64) -> Outside:
    """A network of the package's own YAML files; the scale is part of the name."""
    make = of(f"ultralytics.nn.tasks:{kind}Model", f"{name}.yaml", verbose=False)
    return Outside(f"ultralytics {name}", make, (floats(3, size, size),))


YOLO = [
    *(
        yolo(name)
        for name in names(
            "yolov3-tiny yolov5n yolov6n yolov8n yolov8n-ghost yolov8n-p2 yolov9t yolov9s yolov10n"
            " yolov10s yolo11n yolo12n yolo26n"
        )
    ),
    yolo("yolov5n-p6", size=128),
    yolo("yolov8n-cls", "Classification"),
    yolo("yolo11n-cls", "Classification"),
    yolo("yolov8n-seg", "Segmentation"),
    yolo("yolo11n-seg", "Segmentation"),
    yolo("yolov8n-pose", "Pose"),
    yolo("yolo11n-pose", "Pose"),
    yolo("yolo11n-obb", "OBB"),
    yolo("rtdetr-resnet50", "RTDETRDetection", size=160),
    yolo("rtdetr-l", "RTDETRDetection", size=160),
    yolo("yolov8n-world", "World"),
]

# ------------------------------------------------------------------------------------------ monai


def monai(name: str, *inputs: Input, label: str = "", **options: Any) -> Outside:
    """A network of MONAI; its options are those of its class."""
    return Outside(
        f"monai {label or name}", of(f"monai.networks.nets:{name}", **options), tuple(inputs)
    )


CUBE = floats(1, 16, 16, 16)
SLICE = floats(1, 32, 32)
WIDTHS: dict[str, Any] = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
PLANE: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
SPACE: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
VAE: dict[str, Any] = {
    "channels": (32, 64),
    "num_res_blocks": 1,
    "norm_num_groups": 8,
    "attention_levels": (False, True),
}
VIT: dict[str, Any] = {"hidden_size": 64, "mlp_dim": 128, "num_heads": 4}

MONAI = [
    monai("UNet", SLICE, **PLANE, **WIDTHS, num_res_units=2),
    monai("UNet", CUBE, label="UNet 3d", **SPACE, **WIDTHS),
    monai("AttentionUnet", SLICE, **PLANE, **WIDTHS),
    monai("BasicUNet", SLICE, **PLANE),
    monai("BasicUNetPlusPlus", SLICE, **PLANE),
    monai("AutoEncoder", SLICE, **PLANE, channels=(16, 32, 64), strides=(2, 2, 2)),
    monai(
        "VarAutoEncoder",
        SLICE,
        spatial_dims=2,
        in_shape=(1, 32, 32),
        out_channels=1,
        latent_size=8,
        channels=(16, 32, 64),
        strides=(2, 2, 2),
    ),
    monai("SegResNet", CUBE, **SPACE, init_filters=16),
    monai("SegResNetDS", CUBE, **SPACE, init_filters=16),
    monai("SegResNetVAE", CUBE, **SPACE, input_image_size=(16, 16, 16), init_filters=16),
    monai(
        "DynUNet",
        SLICE,
        **PLANE,
        kernel_size=(3, 3, 3, 3),
        strides=(1, 2, 2, 2),
        upsample_kernel_size=(2, 2, 2),
    ),
    monai(
        "DynUNet",
        SLICE,
        label="DynUNet deep supervision",
        **PLANE,
        kernel_size=(3, 3, 3, 3),
        strides=(1, 2, 2, 2),
        upsample_kernel_size=(2, 2, 2),
        deep_supervision=True,
        deep_supr_num=1,
        res_block=True,
    ),
    monai("VNet", CUBE, **SPACE),
    monai("UNETR", CUBE, **SPACE, **VIT, img_size=(16, 16, 16)),
    monai("SwinUNETR", floats(1, 64, 32, 32), **SPACE, feature_size=12),
    monai("DenseNet", SLICE, **PLANE, init_features=32, block_config=(2, 4, 4)),
    monai("HighResNet", floats(1, 16, 16, 16), **SPACE),
    monai("AHNet", floats(1, 32, 32, 32), **SPACE, psp_block_num=0),
    monai("FlexibleUNet", floats(3, 64, 64), in_channels=3, out_channels=2, backbone="resnet18"),
    monai("MedNeXt", CUBE, **SPACE, init_filters=16, blocks_down=(1, 1), blocks_up=(1, 1)),
    monai("PatchDiscriminator", SLICE, spatial_dims=2, channels=16, in_channels=1),
    monai("Discriminator", SLICE, in_shape=(1, 32, 32), channels=(8, 16, 32), strides=(2, 2, 2)),
    monai(
        "Classifier",
        SLICE,
        in_shape=(1, 32, 32),
        classes=4,
        channels=(8, 16, 32),
        strides=(2, 2, 2),
    ),
    monai(
        "Generator",
        normal(16),
        latent_shape=(16,),
        start_shape=(32, 4, 4),
        channels=(32, 16, 8, 1),
        strides=(2, 2, 2, 1),
    ),
    monai("AutoencoderKL", SLICE, spatial_dims=2, latent_channels=4, **VAE),
    monai(
        "VQVAE",
        SLICE,
        **PLANE,
        channels=(32, 64),
        num_res_channels=(32, 64),
        num_res_layers=1,
        downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
        upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        ddp_sync=False,
    ),
    monai(
        "DiffusionModelUNet",
        floats(1, 32, 32),
        ids(100),
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        **VAE,
    ),
    monai("ViT", SLICE, in_channels=1, img_size=(32, 32), patch_size=(8, 8), spatial_dims=2, **VIT),
    monai("RegUNet", SLICE, spatial_dims=2, in_channels=1, num_channel_initial=16, depth=3),
    monai("SEResNet50", floats(3, 64, 64), spatial_dims=2, in_channels=3, num_classes=10),
    monai("EfficientNetBN", floats(3, 64, 64), model_name="efficientnet-b0", pretrained=False),
]

# ----------------------------------------------------------------------------------- transformers


def configured(name: str, head: str, **options: Any) -> nn.Module:
    """Return a model of transformers by two names, as ``ResNet`` and ``ForImageClassification``."""
    config = found(f"transformers:{name}Config")(**options)
    model: nn.Module = found(f"transformers:{name}{head}")(config)
    return model


def hugging(name: str, head: str, inputs: dict[str, Input], **options: Any) -> Outside:
    """Return a model of transformers with a configuration of ours."""
    make = partial(configured, name, head, **options)
    return Outside(f"transformers {name}{head}", make, (), inputs)


def classifier(name: str, **options: Any) -> Outside:
    """Return a model of transformers that classifies images."""
    return hugging(name, "ForImageClassification", IMAGE, **options)


IMAGE: dict[str, Any] = {"pixel_values": floats(3, 64, 64)}
SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
PATCHES: dict[str, Any] = {**SMALL, "image_size": 64, "patch_size": 8}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
WORDS: dict[str, Any] = {"vocab_size": 64, "use_cache": False}
TOKENS: dict[str, Any] = {**WORDS, **SMALL}
CODERS: dict[str, Any] = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
TEXT: dict[str, Any] = {"input_ids": ids(64, 12)}
WAVES: dict[str, Any] = {
    **SMALL,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
    "vocab_size": 20,
    "mask_time_prob": 0.0,
}
WAVE: dict[str, Any] = {"input_values": normal(1600)}
SERIES: dict[str, Any] = {
    "context_length": 32,
    "prediction_length": 8,
    "num_input_channels": 3,
    "d_model": 32,
}
FORECAST: dict[str, Any] = {
    "use_cache": False,
    "prediction_length": 8,
    "context_length": 24,
    "lags_sequence": [1, 2],
    "num_time_features": 2,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}
PAST: dict[str, Any] = {
    "past_values": floats(26),
    "past_time_features": floats(26, 2),
    "past_observed_mask": ones(26, dtype=torch.float32),
    "future_values": floats(8),
    "future_time_features": floats(8, 2),
}
DETECT: dict[str, Any] = {
    **CODERS,
    "d_model": 64,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_queries": 10,
    "use_pretrained_backbone": False,
}


def resnet_config() -> Any:
    """A small backbone for detectors."""
    return found("transformers:ResNetConfig")(
        embedding_size=16,
        hidden_sizes=[32, 48, 64, 96],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )


def detr(name: str) -> Outside:
    """A DETR on a small ResNet."""

    def make() -> nn.Module:
        backbone = {"backbone_config": resnet_config(), "use_timm_backbone": False}
        return configured(name, "ForObjectDetection", **DETECT, **backbone, backbone=None)

    return Outside(f"transformers {name}ForObjectDetection", make, (), IMAGE)


def mask2former() -> nn.Module:
    """Mask2Former on a small Swin."""
    backbone = found("transformers:SwinConfig")(
        image_size=64,
        patch_size=4,
        embed_dim=24,
        depths=[1, 1, 1, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return configured(
        "Mask2Former",
        "ForUniversalSegmentation",
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=64,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=4,
        dim_feedforward=64,
        num_queries=10,
    )


VISION = [
    classifier("ResNet", embedding_size=16, hidden_sizes=[32, 64, 96, 128], depths=[1] * 4),
    classifier(
        "RegNet",
        embedding_size=16,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 1, 2, 1],
        groups_width=16,
    ),
    classifier("ConvNext", hidden_sizes=[24, 48, 72, 96], depths=[1, 1, 2, 1]),
    classifier("ConvNextV2", hidden_sizes=[24, 48, 72, 96], depths=[1, 1, 2, 1]),
    classifier("ViT", **PATCHES),
    hugging("DeiT", "ForImageClassificationWithTeacher", IMAGE, **PATCHES),
    classifier("Beit", **PATCHES),
    classifier("Dinov2", **PATCHES),
    classifier("Swin", **SWIN),
    classifier("Swinv2", **SWIN),
    *map(classifier, names("MobileNetV1 MobileNetV2 MobileViT MobileViTV2")),
    classifier("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280),
    hugging(
        "Segformer",
        "ForSemanticSegmentation",
        IMAGE,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=64,
        num_attention_heads=[1, 2, 3, 4],
    ),
    classifier("PoolFormer"),
    classifier("Bit", depths=[1, 1, 1, 1]),
    classifier("Cvt", embed_dim=[24, 48, 96]),
    classifier("PvtV2", image_size=64),
    classifier("FocalNet", image_size=64, embed_dim=24, depths=[1, 1, 2, 1]),
    classifier("SwiftFormer"),
    classifier("Levit", image_size=64),
    classifier(
        "Hiera", image_size=[64, 64], embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]
    ),
    hugging("ViTMAE", "Model", IMAGE, **PATCHES),
    hugging("Yolos", "ForObjectDetection", IMAGE, **{**PATCHES, "image_size": [64, 64]}),
    *map(detr, names("Detr ConditionalDetr DeformableDetr")),
    Outside("transformers Mask2FormerForUniversalSegmentation", mask2former, (), IMAGE),
    hugging(
        "DPT",
        "ForDepthEstimation",
        IMAGE,
        **{**PATCHES, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
    ),
    hugging(
        "Swin2SR",
        "ForImageSuperResolution",
        IMAGE,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=8,
    ),
    hugging("CLIPVision", "Model", IMAGE, **PATCHES),
    hugging("SiglipVision", "Model", IMAGE, **PATCHES),
]

LANGUAGE = [
    hugging("Bert", "ForSequenceClassification", TEXT, **TOKENS),
    hugging("Roberta", "ForMaskedLM", TEXT, **TOKENS),
    hugging("Electra", "ForSequenceClassification", TEXT, **TOKENS),
    hugging(
        "DistilBert",
        "ForSequenceClassification",
        TEXT,
        vocab_size=64,
        dim=48,
        n_layers=2,
        n_heads=4,
        hidden_dim=96,
    ),
    hugging("GPT2", "LMHeadModel", TEXT, **WORDS, n_embd=48, n_layer=2, n_head=4),
    hugging(
        "T5",
        "ForConditionalGeneration",
        {"input_ids": ids(64, 12), "decoder_input_ids": ids(64, 8)},
        **WORDS,
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
    ),
    hugging("Llama", "ForCausalLM", TEXT, **TOKENS, num_key_value_heads=2),
    hugging(
        "Mixtral",
        "ForCausalLM",
        TEXT,
        **TOKENS,
        num_key_value_heads=2,
        num_local_experts=4,
        experts_implementation="eager",
    ),
]

SPEECH = [
    *(hugging(name, "ForCTC", WAVE, **WAVES) for name in names("Wav2Vec2 Hubert WavLM")),
    hugging("SEW", "ForCTC", WAVE, **WAVES, squeeze_factor=2),
    hugging("Wav2Vec2Conformer", "ForCTC", WAVE, **WAVES, conv_depthwise_kernel_size=7),
    hugging(
        "Whisper",
        "ForConditionalGeneration",
        {"input_features": floats(20, 100), "decoder_input_ids": ids(64, 8)},
        **WORDS,
        d_model=48,
        **CODERS,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_source_positions=50,
        max_target_positions=32,
        num_mel_bins=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    ),
    hugging(
        "Speech2Text",
        "ForConditionalGeneration",
        {"input_features": floats(40, 20), "decoder_input_ids": ids(64, 8)},
        **WORDS,
        d_model=32,
        **CODERS,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        conv_channels=64,
        input_feat_per_channel=20,
    ),
    hugging(
        "AST",
        "ForAudioClassification",
        {"input_values": floats(64, 32)},
        **SMALL,
        max_length=64,
        num_mel_bins=32,
    ),
    hugging(
        "Encodec",
        "Model",
        {"input_values": normal(1, 640)},
        num_filters=8,
        upsampling_ratios=[4, 2],
        hidden_size=32,
        codebook_size=16,
        target_bandwidths=[24.0],
    ),
    hugging(
        "SpeechT5HifiGan",
        "",
        {"spectrogram": floats(16, 20)},
        model_in_dim=20,
        upsample_initial_channel=64,
        upsample_rates=[4, 2],
        upsample_kernel_sizes=[8, 4],
    ),
]

SEQUENCES = [
    hugging(
        "PatchTST",
        "ForPrediction",
        {"past_values": floats(32, 3)},
        **SERIES,
        patch_length=8,
        patch_stride=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
    ),
    hugging(
        "PatchTSMixer",
        "ForPrediction",
        {"past_values": floats(32, 3)},
        **SERIES,
        patch_length=8,
        patch_stride=8,
        num_layers=2,
    ),
    hugging("TimeSeriesTransformer", "ForPrediction", PAST, **FORECAST),
    hugging("Informer", "ForPrediction", PAST, **FORECAST),
    hugging("Autoformer", "ForPrediction", PAST, **FORECAST, label_length=8, moving_average=5),
]

# -------------------------------------------------------------------------------------- pytorchcv


def pytorchcv(name: str, size: int = 64, **options: Any) -> Outside:
    """A network by its name in pytorchcv."""
    make = of("pytorchcv.model_provider:get_model", name, pretrained=False, **options)
    return Outside(f"pytorchcv {name}", make, (floats(3, size, size),))


PYTORCHCV = [
    *(
        pytorchcv(f"{name}_cifar10", 32)
        for name in names(
            "nin resnet20 preresnet20 seresnet20 sepreresnet20 pyramidnet110_a48 densenet40_k12"
            " xdensenet40_2_k24_bc wrn16_10 ror3_56 rir shakeshakeresnet20_2x16d diaresnet20"
            " resnext29_32x4d"
        )
    ),
    *(
        pytorchcv(name, 224)
        for name in names(
            "resneta10 bagnet9 fishnet99 drnc26 darknet53 dla34 hrnet_w18_small_v1 vovnet27s"
            " selecsls42b hardnet39ds squeezenet_v1_0 sqnxt23_w1 shufflenet_g1_wd4"
            " shufflenetv2_wd2 menet108_8x1_g3 mobilenet_wd4 fdmobilenet_wd4 mobilenetv2_wd4"
            " igcv3_wd4 mobilenetv3_small_w7d20 fbnet_cb mnasnet_b1 darts proxylessnas_cpu"
            " spnasnet efficientnet_b0 mixnet_s ghostnet diracnet18v2 cbam_resnet18"
            " bam_resnet18 ibn_resnet50 revnet38 irevnet301 sknet50 condensenet74_c4_g4 peleenet"
            " espnetv2_wd2 octresnet10_ad2 resattnet56 bninception regnetx002 sparsenet121"
            " msdnet22 channelnet sharesnet18 airnet50_1x64d_r2 tresnet_m isqrtcovresnet18"
            " resnesta18 scnet50 dicenet_wd5 seresnext50_32x4d airnext50_32x4d_r2"
        )
    ),
    *(
        pytorchcv(name, 128, in_size=(128, 128))
        for name in names(
            "fastscnn_cityscapes cgnet_cityscapes dabnet_cityscapes sinet_cityscapes"
            " fpenet_cityscapes lednet_cityscapes esnet_cityscapes edanet_cityscapes"
            " enet_cityscapes erfnet_cityscapes linknet_cityscapes segnet_cityscapes"
            " unet_cityscapes simplepose_resnet18_coco alphapose_fastseresnet101b_coco"
            " centernet_resnet18_voc lwopenpose2d_mobilenet_cmupan_coco"
        )
    ),
    Outside(
        "pytorchcv quartznet5x5_en_ls",
        of(
            "pytorchcv.model_provider:get_model",
            "quartznet5x5_en_ls",
            pretrained=False,
            from_audio=False,
        ),
        (floats(64, 96), lengths(96)),
    ),
    Outside(
        "pytorchcv jasper5x3",
        of("pytorchcv.model_provider:get_model", "jasper5x3", pretrained=False, from_audio=False),
        (floats(64, 96), lengths(96)),
    ),
]

# ------------------------------------------------------------------------------------- torchaudio


def torchaudio(name: str, *inputs: Input, label: str = "", **options: Any) -> Outside:
    """A network of torchaudio; its options are those of its class."""
    make = of(f"torchaudio.models:{name}", **options)
    return Outside(f"torchaudio {label or name}", make, tuple(inputs))


EXTRACTOR: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5), (32, 3, 2), (32, 3, 2)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 48,
    "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 96,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_norm_first": False,
    "aux_num_out": 20,
}

TORCHAUDIO = [
    torchaudio("wav2vec2_model", normal(1600), **EXTRACTOR, encoder_layer_drop=0.0),
    torchaudio(
        "wav2vec2_model",
        normal(1600),
        label="wav2vec2_model layer drop",
        **{**EXTRACTOR, "extractor_mode": "layer_norm", "encoder_layer_norm_first": True},
        encoder_layer_drop=0.1,
    ),
    torchaudio(
        "wavlm_model",
        normal(1600),
        **EXTRACTOR,
        encoder_layer_drop=0.0,
        encoder_num_buckets=32,
        encoder_max_distance=64,
    ),
    torchaudio(
        "Conformer",
        floats(40, 32),
        lengths(40),
        input_dim=32,
        num_heads=4,
        ffn_dim=64,
        num_layers=2,
        depthwise_conv_kernel_size=7,
    ),
    torchaudio(
        "ConvTasNet",
        normal(1, 800),
        enc_num_feats=64,
        msk_num_feats=32,
        msk_num_hidden_feats=64,
        msk_num_layers=3,
        msk_num_stacks=2,
    ),
    torchaudio("DeepSpeech", floats(1, 20, 26), n_feature=26, n_hidden=64),
    torchaudio(
        "Emformer",
        floats(24, 32),
        lengths(20),
        input_dim=32,
        num_heads=4,
        ffn_dim=64,
        num_layers=2,
        segment_length=4,
        right_context_length=4,
    ),
    torchaudio("HDemucs", normal(2, 16384), sources=["a", "b"], channels=8, nfft=4096, depth=6),
    torchaudio("Wav2Letter", normal(1, 3200), num_classes=20),
    torchaudio(
        "WaveRNN",
        normal(1, 64),
        floats(1, 20, 12),
        upsample_scales=[2, 2, 2],
        n_classes=32,
        hop_length=8,
        n_res_block=2,
        n_rnn=32,
        n_fc=32,
        n_freq=20,
        n_hidden=32,
        n_output=32,
    ),
    torchaudio(
        "Tacotron2",
        ids(30, 10),
        lengths(10),
        floats(20, 12),
        lengths(12),
        n_mels=20,
        n_symbol=30,
        symbol_embedding_dim=32,
        encoder_embedding_dim=32,
        decoder_rnn_dim=48,
        attention_rnn_dim=48,
        attention_hidden_dim=16,
        prenet_dim=24,
        postnet_embedding_dim=32,
    ),
    torchaudio(
        "squim_objective_model",
        normal(3200),
        feat_dim=32,
        win_len=64,
        d_model=32,
        nhead=4,
        hidden_dim=32,
        num_blocks=2,
        rnn_type="LSTM",
        chunk_size=15,
    ),
]

# --------------------------------------------------------------------------------------- spandrel


def spandrel(path: str, size: int = 32, channels: int = 3, **options: Any) -> Outside:
    """A network that restores images; the path leaves out the common part."""
    folder, _, name = path.rpartition(":")
    make = of(f"spandrel.architectures.{folder}:{name}", **options)
    return Outside(f"spandrel {name}", make, (floats(channels, size, size),))


WINDOWS: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 2)}

SPANDREL = [
    spandrel("SPAN:SPAN", num_in_ch=3, num_out_ch=3, feature_channels=24),
    spandrel("ESRGAN:ESRGAN", num_filters=16, num_blocks=2),
    spandrel(
        "SwinIR:SwinIR", **WINDOWS, window_size=8, img_size=32, upsampler="pixelshuffle", upscale=2
    ),
    spandrel(
        "HAT:HAT",
        **WINDOWS,
        window_size=8,
        img_size=32,
        squeeze_factor=6,
        upsampler="pixelshuffle",
        upscale=2,
    ),
    spandrel("NAFNet:NAFNet", width=16, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1], middle_blk_num=1),
    spandrel("Compact:Compact", num_feat=24, num_conv=4),
    spandrel("OmniSR:OmniSR", num_feat=32, res_num=2),
    spandrel("RealCUGAN:UpCunet2x", size=64),
    spandrel("SCUNet:SCUNet", size=64, dim=64, config=[1, 1, 1, 1, 1, 1, 1]),
    spandrel("SAFMN:SAFMN", dim=24, n_blocks=2),
    spandrel("DAT:DAT", embed_dim=24, depth=[2], num_heads=[2], split_size=[2, 4], img_size=32),
    spandrel(
        "DRCT:DRCT",
        **WINDOWS,
        window_size=8,
        img_size=32,
        gc=8,
        upscale=2,
        upsampler="pixelshuffle",
    ),
    spandrel("DRUNet:DRUNet", channels=1, nc=[16, 24, 32, 48], nb=1),
    spandrel("DnCNN:DnCNN", channels=1, nc=24, nb=5),
    spandrel("FBCNN:FBCNN", nb=1),
    spandrel("FFTformer:FFTformer", size=64, dim=16, num_blocks=[1, 1, 1], num_refinement_blocks=1),
    spandrel("KBNet:KBNet_s", width=16, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    spandrel("MixDehazeNet:MixDehazeNet", size=64),
    spandrel("MoSR:MoSR", n_block=2, dim=24),
    spandrel("PLKSR:PLKSR", dim=32, n_blocks=2),
    spandrel("PLKSR:RealPLKSR", dim=32, n_blocks=2),
    spandrel("RCAN:RCAN", n_resgroups=2, n_resblocks=2, n_feats=32),
    spandrel("RetinexFormer:RetinexFormer", n_feat=16, stage=1),
    spandrel("SwiftSRGAN:SwiftSRGAN", num_channels=24, num_blocks=2),
    spandrel("Swin2SR:Swin2SR", **WINDOWS, window_size=8, img_size=32, upsampler="pixelshuffle"),
    spandrel("Uformer:Uformer", size=128, img_size=128, embed_dim=16, depths=[1] * 9),
    spandrel("SeemoRe:SeemoRe", num_layers=2, embedding_dim=36, num_experts=3),
    spandrel("CRAFT:CRAFT", embed_dim=48, depths=[1], num_heads=[6]),
    spandrel("DCTLSA:DCTLSA", nf=20),
    spandrel("MoESR:MoESR", dim=24, n_blocks=1, n_block=2),
    spandrel("FDAT:FDAT", embed_dim=24, num_groups=1, depth_per_group=2, num_heads=2),
    Outside(
        "spandrel CIDNet",
        of("spandrel.architectures.HVICIDNet:HVICIDNet", channels=[16, 16, 24, 32]),
        (floats(3, 64, 64),),
    ),
]

# -------------------------------------------------------------------------------------- diffusers

BLOCKS: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}


def diffusers(
    name: str, *inputs: Input, named: dict[str, Input] | None = None, **options: Any
) -> Outside:
    """A network of diffusers; its options are those of its class."""
    return Outside(f"diffusers {name}", of(f"diffusers:{name}", **options), inputs, named or {})


DIFFUSERS = [
    diffusers(
        "UNet2DModel",
        normal(3, 32, 32),
        always(10),
        sample_size=32,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **BLOCKS,
    ),
    diffusers(
        "UNet2DConditionModel",
        normal(4, 16, 16),
        always(10),
        normal(6, 32),
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        **BLOCKS,
    ),
    diffusers(
        "UNet1DModel",
        normal(14, 32),
        always(10),
        block_out_channels=(16, 32, 48),
        sample_size=32,
        in_channels=14,
        out_channels=14,
        use_timestep_embedding=True,
        time_embedding_type="positional",
        flip_sin_to_cos=False,
        freq_shift=1.0,
        out_block_type="OutConv1DBlock",
        mid_block_type="MidResTemporalBlock1D",
        down_block_types=("DownResnetBlock1D", "DownResnetBlock1D", "DownResnetBlock1D"),
        up_block_types=("UpResnetBlock1D", "UpResnetBlock1D"),
        act_fn="swish",
    ),
    diffusers(
        "AutoencoderKL",
        normal(3, 32, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        **BLOCKS,
    ),
    diffusers(
        "VQModel",
        normal(3, 32, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        num_vq_embeddings=32,
        **BLOCKS,
    ),
    diffusers(
        "AutoencoderTiny",
        floats(3, 32, 32),
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
    ),
    diffusers(
        "AsymmetricAutoencoderKL",
        normal(3, 32, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        down_block_out_channels=(32, 64),
        layers_per_down_block=1,
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        up_block_out_channels=(32, 64),
        layers_per_up_block=1,
        norm_num_groups=8,
    ),
    diffusers(
        "AutoencoderDC",
        floats(3, 64, 64),
        encoder_block_out_channels=(16, 32, 64),
        decoder_block_out_channels=(16, 32, 64),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        latent_channels=8,
        attention_head_dim=8,
    ),
    diffusers(
        "DiTTransformer2DModel",
        normal(4, 16, 16),
        named={"timestep": ids(100), "class_labels": ids(10)},
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
        num_embeds_ada_norm=10,
        norm_num_groups=4,
    ),
    diffusers(
        "PixArtTransformer2DModel",
        normal(4, 16, 16),
        named={
            "encoder_hidden_states": normal(6, 32),
            "timestep": ids(100),
            "added_cond_kwargs": always({"resolution": None, "aspect_ratio": None}),
        },
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        caption_channels=32,
        cross_attention_dim=32,
        sample_size=16,
        use_additional_conditions=False,
    ),
    diffusers(
        "SD3Transformer2DModel",
        normal(4, 16, 16),
        named={
            "encoder_hidden_states": normal(6, 32),
            "pooled_projections": normal(24),
            "timestep": ids(100),
        },
        sample_size=16,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=24,
        out_channels=4,
        pos_embed_max_size=32,
    ),
    diffusers(
        "UVit2DModel",
        ids(64, 16, 16),
        normal(6, 32),
        normal(24),
        normal(5),
        hidden_size=32,
        cond_embed_dim=24,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=20,
        encoder_hidden_size=32,
        vocab_size=66,
        codebook_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        block_out_channels=32,
        in_channels=32,
        sample_size=16,
        block_num_heads=2,
        use_bias=False,
    ),
    diffusers(
        "ControlNetModel",
        normal(4, 16, 16),
        always(10),
        normal(6, 32),
        floats(3, 128, 128),
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(8, 16, 24, 32),
    ),
    diffusers(
        "UNetSpatioTemporalConditionModel",
        normal(3, 8, 16, 16),
        always(10),
        normal(1, 32),
        floats(3),
        sample_size=16,
        num_frames=3,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=(2, 4),
        layers_per_block=1,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    ),
    diffusers(
        "PriorTransformer",
        normal(32),
        always(5),
        normal(32),
        normal(6, 32),
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=32,
        num_embeddings=6,
        additional_embeddings=4,
    ),
    diffusers(
        "AutoencoderOobleck",
        normal(2, 640),
        encoder_hidden_size=16,
        downsampling_ratios=[2, 4],
        channel_multiples=[1, 2],
        decoder_channels=16,
        decoder_input_channels=8,
        audio_channels=2,
    ),
    diffusers(
        "AutoencoderKLTemporalDecoder",
        normal(3, 32, 32),
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        block_out_channels=(64, 128),
        layers_per_block=1,
    ),
]

# ------------------------------------------------------------------------- forecasts, and the rest


def forecast(name: str, **options: Any) -> Outside:
    """A network of neuralforecast; it reads a dict of windows."""

    def make() -> nn.Module:
        options.setdefault("input_size", 32)
        model: nn.Module = found(f"neuralforecast.models:{name}")(h=8, **options)
        return model

    channels = options.get("n_series", 1)
    windows = {
        "insample_y": floats(32, channels),
        "insample_mask": ones(32, channels, dtype=torch.float32),
    }

    def batch_of(batch: int) -> dict[str, Any]:
        tensors: dict[str, Any] = {key: one(batch) for key, one in windows.items()}
        return {**tensors, "futr_exog": None, "hist_exog": None, "stat_exog": None}

    return Outside(f"neuralforecast {name}", make, (batch_of,))


MLPS = {"mlp_units": [[32, 32]] * 3}

SERIES_NETS = [
    forecast("NBEATS", **MLPS),
    forecast("NHITS", **MLPS),
    forecast("TCN", encoder_hidden_size=16, decoder_hidden_size=16),
    forecast("TimesNet", hidden_size=16, conv_hidden_size=16, num_kernels=3),
    forecast("PatchTST", hidden_size=32, n_heads=4, linear_hidden_size=64, encoder_layers=2),
    forecast("iTransformer", n_series=3, hidden_size=32, n_heads=4, d_ff=64),
    forecast("TSMixer", n_series=8, ff_dim=128),
    forecast("BiTCN"),
    forecast("TiDE", hidden_size=32, decoder_output_dim=8, temporal_decoder_dim=16),
    forecast("LSTM", encoder_hidden_size=16, decoder_hidden_size=16),
    forecast("KAN", hidden_size=16),
    forecast("TFT", hidden_size=16),
]

VITS: dict[str, Any] = {"num_classes": 10, "dim": 48, "depth": 2, "heads": 3, "mlp_dim": 96}


def vit_pytorch(path: str, size: int = 64, **options: Any) -> Outside:
    """A network of vit-pytorch; its options are those of its class."""
    module, _, name = path.rpartition(":")
    make = of(f"vit_pytorch.{module}:{name}", **options)
    return Outside(f"vit-pytorch {name}", make, (floats(3, size, size),))


OTHERS = [
    vit_pytorch("simple_vit:SimpleViT", image_size=64, patch_size=16, **VITS),
    vit_pytorch("cvt:CvT", num_classes=10, s1_emb_dim=16, s2_emb_dim=32, s3_emb_dim=48, s3_depth=2),
    vit_pytorch(
        "mobile_vit:MobileViT",
        size=128,
        image_size=(128, 128),
        dims=[48, 64, 80],
        channels=[16, 16, 24, 24, 48, 48, 64, 64, 80, 80, 96],
        num_classes=10,
    ),
    vit_pytorch("max_vit:MaxViT", size=224, num_classes=10, dim=16, depth=(1, 1, 1, 1), dim_head=8),
    vit_pytorch(
        "crossformer:CrossFormer",
        size=224,
        num_classes=10,
        dim=(32, 48, 64, 96),
        depth=(1, 1, 1, 1),
    ),
    vit_pytorch(
        "nest:NesT",
        image_size=64,
        patch_size=4,
        num_classes=10,
        dim=24,
        heads=3,
        num_hierarchies=3,
        block_repeats=(1, 1, 1),
        dim_head=8,
    ),
    vit_pytorch("xcit:XCiT", image_size=64, patch_size=16, cls_depth=1, **VITS),
    Outside(
        "pytorch-tcn TCN",
        of("pytorch_tcn:TCN", 8, [24, 24, 32], use_skip_connections=True),
        (normal(8, 40),),
    ),
    Outside(
        "snac SNAC",
        of(
            "snac:SNAC",
            encoder_dim=16,
            encoder_rates=[2, 4],
            decoder_dim=64,
            decoder_rates=[4, 2],
            attn_window_size=None,
            codebook_size=16,
            vq_strides=[2, 1],
            noise=False,
        ),
        (normal(1, 640),),
    ),
]


NETWORKS: tuple[Outside, ...] = (
    *SEGMENTATION,
    *YOLO,
    *MONAI,
    *VISION,
    *LANGUAGE,
    *SPEECH,
    *SEQUENCES,
    *PYTORCHCV,
    *TORCHAUDIO,
    *SPANDREL,
    *DIFFUSERS,
    *SERIES_NETS,
    *OTHERS,
)


def prepare() -> None:
    """Import the packages, and keep them from asking a hub for anything."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "YOLO_OFFLINE": "true"})
    _import_packages()


def _import_packages() -> None:
    """Import them once here, rather than in the process of every network.

    torchaudio refuses a PyTorch made for another CUDA, which doesn't matter where no GPU is used.
    """
    with mock.patch("torch.version.cuda", None), contextlib.suppress(ImportError):
        importlib.import_module("torchaudio")
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def outputs(tree: Any) -> list[Tensor]:
    """Return the floating-point tensors in whatever a network returns."""
    if isinstance(tree, Tensor):
        return [tree] if tree.is_floating_point() or tree.is_complex() else []
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [tensor for one in tree for tensor in outputs(one)]
    return outputs(list(vars(tree).values())) if hasattr(tree, "__dict__") else []
