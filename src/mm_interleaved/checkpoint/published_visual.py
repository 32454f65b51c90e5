"""Names of the visual tokenizer in the published checkpoint and in ours.

A template's `{}` stands for one part of a key between dots, `*` at the end for the rest (see `rename.py`). The first rule that fits counts.
"""

from __future__ import annotations

_CLIP = ("visual_tokenizer.encoder.vision_model.", "visual_tokenizer.encoder.")
_BLOCK = (f"{_CLIP[0]}adapter_interactions.{{}}.", f"{_CLIP[1]}adapter_blocks.{{}}.")
_LAYER = ("visual_tokenizer.perceiver_resampler.blip2qformer.encoder.layer.{}.", "visual_tokenizer.resampler.layers.{}.")


def _below(prefixes: tuple[str, str], rules: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((prefixes[0] + published, prefixes[1] + ours) for published, ours in rules)


_DEFORMABLE = (
    ("attn.sampling_offsets.{}", "attention.offsets.{}"),
    ("attn.attention_weights.{}", "attention.attention_weights.{}"),
    ("attn.value_proj.{}", "attention.value_projection.{}"),
    ("attn.output_proj.{}", "attention.output_projection.{}"),
    ("query_norm.{}", "query_norm.{}"),
    ("feat_norm.{}", "value_norm.{}"),
)
_EXTRACTOR = (
    *_DEFORMABLE,
    ("ffn_norm.{}", "feed_forward_norm.{}"),
    ("ffn.fc1.{}", "feed_forward.linear_in.{}"),
    ("ffn.dwconv.dwconv.{}", "feed_forward.convolution.{}"),
    ("ffn.fc2.{}", "feed_forward.linear_out.{}"),
)
_ATTENTION = (
    ("attention.query.{}", "query.{}"),
    ("attention.key.{}", "key.{}"),
    ("attention.value.{}", "value.{}"),
    ("attention.q_norm.{}", "query_norm.{}"),
    ("attention.k_norm.{}", "key_norm.{}"),
    ("output.dense.{}", "output.{}"),
    ("output.LayerNorm.{}", "output_norm.{}"),
)

RULES: tuple[tuple[str, str], ...] = (
    # Head of the tokenizer.
    ("visual_tokenizer.clip_mean", "visual_tokenizer.clip_mean"),
    ("visual_tokenizer.clip_std", "visual_tokenizer.clip_std"),
    ("visual_tokenizer.pos_embed", "visual_tokenizer.position_table"),
    ("visual_tokenizer.pos_proj.{}", "visual_tokenizer.position_projection.{}"),
    ("visual_tokenizer.pos_ln.{}", "visual_tokenizer.position_norm.{}"),
    ("visual_tokenizer.post_ln.{}", "visual_tokenizer.input_norm.{}"),
    ("visual_tokenizer.proj.{}", "visual_tokenizer.projection.{}"),
    # CLIP's own names, one level flatter.
    *_below(
        _CLIP,
        (
            ("embeddings.*", "embeddings.*"),
            ("pre_layrnorm.{}", "pre_layrnorm.{}"),
            ("encoder.layers.*", "encoder.layers.*"),
            ("adapter_level_embed", "adapter_prior.level_embedding"),
            ("adapter_up.{}", "adapter_upsample.{}"),
            # Spatial prior: the published stem counts its ReLUs as modules.
            ("adapter_spm.stem.0.{}", "adapter_prior.stem.0.convolution.{}"),
            ("adapter_spm.stem.1.{}", "adapter_prior.stem.0.norm.{}"),
            ("adapter_spm.stem.3.{}", "adapter_prior.stem.1.convolution.{}"),
            ("adapter_spm.stem.4.{}", "adapter_prior.stem.1.norm.{}"),
            ("adapter_spm.stem.6.{}", "adapter_prior.stem.2.convolution.{}"),
            ("adapter_spm.stem.7.{}", "adapter_prior.stem.2.norm.{}"),
            ("adapter_spm.conv2.0.{}", "adapter_prior.down.0.convolution.{}"),
            ("adapter_spm.conv2.1.{}", "adapter_prior.down.0.norm.{}"),
            ("adapter_spm.conv3.0.{}", "adapter_prior.down.1.convolution.{}"),
            ("adapter_spm.conv3.1.{}", "adapter_prior.down.1.norm.{}"),
            ("adapter_spm.conv4.0.{}", "adapter_prior.down.2.convolution.{}"),
            ("adapter_spm.conv4.1.{}", "adapter_prior.down.2.norm.{}"),
            ("adapter_spm.fc1.{}", "adapter_prior.project.0.{}"),
            ("adapter_spm.fc2.{}", "adapter_prior.project.1.{}"),
            ("adapter_spm.fc3.{}", "adapter_prior.project.2.{}"),
            ("adapter_spm.fc4.{}", "adapter_prior.project.3.{}"),
        ),
    ),
    # Interaction blocks.
    *_below(_BLOCK, (("injector.gamma", "injector.gamma"),)),
    *_below((f"{_BLOCK[0]}injector.", f"{_BLOCK[1]}injector."), _DEFORMABLE),
    *_below((f"{_BLOCK[0]}extractor.", f"{_BLOCK[1]}extractor."), _EXTRACTOR),
    *_below((f"{_BLOCK[0]}extra_extractors.{{}}.", f"{_BLOCK[1]}extra_extractors.{{}}."), _EXTRACTOR),
    # Resampler.
    ("visual_tokenizer.perceiver_resampler.queries", "visual_tokenizer.resampler.queries"),
    ("visual_tokenizer.perceiver_resampler.blip2qformer.layernorm.{}", "visual_tokenizer.resampler.norm.{}"),
    *_below((f"{_LAYER[0]}attention.", f"{_LAYER[1]}self_attention."), _ATTENTION),
    *_below((f"{_LAYER[0]}crossattention.", f"{_LAYER[1]}cross_attention."), _ATTENTION),
    *_below(
        _LAYER,
        (
            ("intermediate_query.dense.{}", "feed_forward_in.{}"),
            ("output_query.dense.{}", "feed_forward_out.{}"),
            ("output_query.LayerNorm.{}", "feed_forward_norm.{}"),
        ),
    ),
)
"""Pairs (published, ours) for every key of the visual tokenizer."""
