"""Names of the image decoder in the published checkpoint and ours.

Source: layout of `OpenGVLab/MM-Interleaved` (spec §9). The UNet and the autoencoder keep diffusers' own names. `ignore_token` is
stored as [1, 1, 1, width] and is [width] with us: the reader reshapes where the number of elements agrees.
"""

from __future__ import annotations

_BLOCKS = {
    "image_decoder.decoder.mmfs_module.mmfs_down_blocks.{}": "image_decoder.unet.skip_synchronizers.{}",
    "image_decoder.decoder.mmfs_module.mmfs_mid_block": "image_decoder.unet.middle_synchronizer",
}
"""Synchronizers of the skips, and of the middle."""

_BLOCK_PARTS = {
    "pos_embed": "position_table",
    "query_norm.{}": "query_norm.{}",
    "feat_norm.{}": "feature_norm.{}",
    "conv.{}": "output_convolution.{}",
    "mmfs.dynamic_offset_mask.{}": "mmfs.query_projection.{}",
    "mmfs.sampling_offsets.{}": "mmfs.offsets.{}",
    "mmfs.attention_weights.{}": "mmfs.attention_weights.{}",
    "mmfs.value_proj.{}": "mmfs.value_projection.{}",
    "mmfs.output_proj.{}": "mmfs.output_projection.{}",
    "mmfs.query_relpos.{}": "mmfs.recency.{}",
    "mmfs.ignore_token": "mmfs.null_value",
}
"""Inner names of one synchronizer."""

_LAYER = "image_decoder.perceiver_resampler.blip2qformer.encoder.layer.{}"
_OUR_LAYER = "image_decoder.resampler.layers.{}"

_ATTENTION_PARTS = {
    "output.dense.{}": "output.{}",
    "output.LayerNorm.{}": "output_norm.{}",
    "attention.{}.{}": "{}.{}",
}
"""Inner names of one attention of the context resampler; the general line last, so that every name also finds its way back."""

_RESAMPLER = [
    ("image_decoder.perceiver_resampler.queries", "image_decoder.resampler.queries"),
    ("image_decoder.perceiver_resampler.blip2qformer.layernorm.{}", "image_decoder.resampler.norm.{}"),
    *(
        (f"{_LAYER}.{published}.{part}", f"{_OUR_LAYER}.{ours}.{our_part}")
        for published, ours in (("attention", "self_attention"), ("crossattention", "cross_attention"))
        for part, our_part in _ATTENTION_PARTS.items()
    ),
    (f"{_LAYER}.intermediate_query.dense.{{}}", f"{_OUR_LAYER}.feed_forward_in.{{}}"),
    (f"{_LAYER}.output_query.dense.{{}}", f"{_OUR_LAYER}.feed_forward_out.{{}}"),
    (f"{_LAYER}.output_query.LayerNorm.{{}}", f"{_OUR_LAYER}.feed_forward_norm.{{}}"),
]

IMAGE_DECODER_RULES: list[tuple[str, str | None]] = [
    ("image_decoder.neg_prompt_embeds", "image_decoder.negative_tokens"),
    *_RESAMPLER,
    *((f"{block}.{part}", f"{our_block}.{our_part}") for block, our_block in _BLOCKS.items() for part, our_part in _BLOCK_PARTS.items()),
    # After the synchronizers: ours stand inside the UNet, and the first rule that fits a key counts.
    ("image_decoder.decoder.unet.*", "image_decoder.unet.*"),
    ("image_decoder.decoder.vae.*", "image_decoder.vae.*"),
]
"""Pairs (published, ours) for every key below `image_decoder.`."""
