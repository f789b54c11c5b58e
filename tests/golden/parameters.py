"""Which parameters of a manifest the recorded cases understand."""

from collections.abc import Mapping
from typing import Any

# What a case computes with, by operator.
COMPUTED = {
  "csp": {
    "cross_ratio",
    "hh_ratio",
    "image_position",
    "kv_recent_bias",
    "recent_ratio",
  },
  "dart": {"max_num", "p_img", "p_txt", "reduction_ratio"},
  "diffrate_block": {"merge_kept", "prune_kept"},
  "diffrate_merge": {"class_token", "kept"},
  "diffrate_proxy": {"granularity", "patches", "token_number"},
  "divprune": {"ratio"},
  "evit": {"fuse", "keep_rate"},
  "fastv": {"rank"},
  "globalcom2": {"gh", "gw", "original_size", "retention", "side", "tau"},
  "pooling": {"tokens"},
  "prumerge": {"adaptive", "plus", "ratio", "reduction_ratio"},
  "prumerge_plus": {"adaptive", "plus", "ratio", "reduction_ratio"},
  "pyramiddrop": {
    "cur_tokens",
    "image_pos",
    "image_tokens",
    "prompt_len",
    "ratios",
    "stage",
  },
  "soft_topk": {"k"},
  "sparsevlm_cluster": {"clusters"},
  "sparsevlm_layer": {"bias", "layer", "retain", "scale", "version"},
  "sparsevlm_raters": set(),
  "sparsevlm_select": {"bias", "layer", "retain", "scale", "version"},
  "tome": {"class_token", "distill_token", "k", "r", "sized"},
  "tome_block": {"class_token", "distill_token", "prop_attn", "r", "sized"},
  "visionzip": {"contextual_num", "dominant_num"},
}
# Sizes of the arrays, and where rows lie in them.
_SIZES = {"B", "C", "D", "E", "H", "L", "N", "R", "d", "dh"}
_SIZES |= {"pre", "rank_layer", "sys", "text"}
# How the inputs were drawn; the arrays hold the result.
_DRAWN = {
  "K",
  "cls_row_only",
  "dup_raters",
  "image_shape",
  "n_raters",
  "noise",
  "scale",
  "seed",
  "sharp",
}


def unknown(operator: str, params: Mapping[str, Any]) -> list[str]:
  """Names of the parameters of a case that nothing here reads."""
  return sorted(set(params) - COMPUTED[operator] - _SIZES - _DRAWN)
