"""Names of the language side in the released checkpoint: decoder with MMFS, text head, begin-of-image embedding, projection.

Source: spec §9, "State-dict layout". Deviations: `ignore_token` and `soi_token` lose their leading axes of length 1.
"""

from __future__ import annotations

from mm_interleaved.checkpoint.rename import RuleLike

_PUBLISHED_BLOCK = "mm_decoder.layers.{}.llama_cross_attn."
_OUR_BLOCK = "language_model.layers.{}.synchronizer."

MMFS_NAMES: tuple[tuple[str, str, int], ...] = (
    ("ignore_token", "null_value", 3),
    ("sampling_offsets.{}", "offsets.{}", 0),
    ("dynamic_offset_mask.{}", "query_projection.{}", 0),
    ("attention_weights.{}", "attention_weights.{}", 0),
    ("value_proj.{}", "value_projection.{}", 0),
    ("output_proj.{}", "output_projection.{}", 0),
    ("query_relpos.{}", "recency.{}", 0),
)
"""Names inside one MMFS, and the leading axes that the published tensor has more."""

RULES: tuple[RuleLike, ...] = (
    (_PUBLISHED_BLOCK + "gate", _OUR_BLOCK + "gate"),
    (_PUBLISHED_BLOCK + "norm1.weight", _OUR_BLOCK + "query_norm.weight"),
    (_PUBLISHED_BLOCK + "norm2.weight", _OUR_BLOCK + "feature_norm.weight"),
    *((_PUBLISHED_BLOCK + "attn." + theirs, _OUR_BLOCK + "mmfs." + ours, axes) for theirs, ours, axes in MMFS_NAMES),
    # Everything else of the decoder has upstream's names on both sides.
    ("mm_decoder.*", "language_model.*"),
    ("text_decoder.head.{}", "text_head.head.{}"),
    ("text_decoder.head_new.{}", "text_head.control_head.{}"),
    ("soi_token", "begin_image_embedding", 1),
    ("context_feat_proj.{}", "context_projection.{}"),
)
"""`(published, ours)` or `(published, ours, leading axes)`, see `rename.Rule`."""
