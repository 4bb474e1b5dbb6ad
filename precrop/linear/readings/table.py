"""The linear readings of all operations."""

from collections.abc import Callable, Sequence
from typing import Any

from precrop.linear.readings import arithmetic, layers, shapes, unchanged
from precrop.read.trace import Call

Handler = Callable[[Call, Sequence[Any]], Any]
"""Maps a call and its arguments (values in place of tensors) to its first output or a list."""

_BY_READING: tuple[tuple[Handler, str], ...] = (
    (
        unchanged.same,
        """
        relu silu gelu hardswish leaky_relu elu celu selu mish softplus prelu _prelu_kernel
        threshold tanh hardshrink softshrink log_sigmoid log_sigmoid_forward clamp_min clamp_max
        rrelu_with_noise log_softmax _log_softmax abs neg
        dropout native_dropout feature_dropout alpha_dropout batch_norm native_batch_norm
        _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
        _native_batch_norm_legit_functional native_layer_norm layer_norm native_group_norm
        group_norm rms_norm _fused_rms_norm instance_norm
        clone alias detach contiguous tensor_of_numbers _to_copy to
        renorm embedding_renorm _weight_norm_interface
        """,
    ),
    (
        shapes.linear,
        """
        sum cumsum reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
        replication_pad2d replication_pad3d zero_pad2d avg_pool1d avg_pool2d avg_pool3d
        adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d
        upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
        _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
        upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        im2col col2im unfold index gather amax stream_read stream_write
        """,
    ),
    (unchanged.gate_of, "sigmoid hardsigmoid _softmax softmax _safe_softmax"),
    (unchanged.bounded, "hardtanh clamp"),
    (unchanged.gated_half, "glu"),
    (unchanged.statistic, "var_mean std_mean var std linalg_vector_norm norm"),
    (unchanged.of_weights, "mv dot vdot"),
    (unchanged.of_statistic, "sqrt rsqrt pow"),
    (
        unchanged.blank,
        "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty",
    ),
    (unchanged.copied, "copy fill zero"),
    (unchanged.take_memory, "set"),
    (shapes.restrided, "as_strided"),
    (lambda call, args: shapes.linear(call, args[:2]), "constant_pad_nd"),  # by zero
    (unchanged.packed, "_pack_padded_sequence"),
    (shapes.join, "cat stack"),
    (arithmetic.add, "add"),
    (
        lambda call, args: arithmetic.add(call, [args[0], arithmetic.multiply(call, args[1:3])]),
        "addcmul",
    ),
    (arithmetic.subtract, "sub"),
    (lambda call, args: arithmetic.subtract(call, args[1::-1]), "rsub"),
    (arithmetic.multiply, "mul"),
    (arithmetic.divide, "div"),
    (layers.convolution, "convolution"),
    (layers.deformed, "deform_conv2d"),
    (layers.product, "mm bmm"),
    (lambda call, args: layers.product(call, args[1:]), "addmm"),
    (unchanged.signed, "_fft_r2c _fft_c2r _fft_c2c"),
)
READINGS: dict[str, Handler] = {
    **dict.fromkeys(
        (*shapes.KEEPING, *shapes.MAX_POOLS, *shapes.ADAPTIVE_MAX_POOLS), shapes.linear
    ),
    **{name: handler for handler, names in _BY_READING for name in names.split()},
}
"""Linear readings by operation name; a max-pool stays a max-pool."""

AVERAGES: dict[str, Handler] = {
    **dict.fromkeys(shapes.MAX_POOLS, shapes.pooled),
    **dict.fromkeys(shapes.ADAPTIVE_MAX_POOLS, shapes.adaptively_pooled),
    "amax": shapes.averaged,
}
"""Readings that replace maxima by averages, which makes R multilinear."""
