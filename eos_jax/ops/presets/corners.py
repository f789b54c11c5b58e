"""The corners of the operator space, baselines, and where a search starts."""

from eos_jax.ops import types

# "class_row" decides the order in which tokens count as better; its own weight
# is too small to move a token past a more unique one.
_UNIQUE = dict(scores=("class_row", "uniqueness"), pi=(0.01, 0.99))

PRUNE = types.OperatorSpec(
  name="prune",
  **_UNIQUE,
  gamma=0.0,
  doc="Corner of the space (arXiv 2606.05232): gamma = 0, rho = 0. Keeps the "
  "tokens least like a token of higher class attention, drops the others. "
  "Acts at the decoder input.",
)

REWEIGHT = types.OperatorSpec(
  name="reweight",
  **_UNIQUE,
  gamma=0.0,
  rho=0.5,
  rho_attn=0.5,
  doc="Corner of the space (arXiv 2606.05232): gamma = 0, rho > 0. Prunes and "
  "scales what stays by 1 + rho w; since a normalisation layer cancels a "
  "pure scaling, rho_attn also adds log w to the attention logits. The "
  "paper prints no number for rho; 0.5 is ours.",
)

MERGE = types.OperatorSpec(
  name="merge",
  **_UNIQUE,
  assign="softmax",
  gamma=1.0,
  tau=types.TAU_FLOOR,
  doc="Corner of the space (arXiv 2606.05232): gamma = 1, tau -> 0. Each "
  "dropped token goes to its nearest kept one by cosine; size-weighted "
  "mean as in ToMe (eta = 1, alpha = beta = size).",
)

MERGE_PROPORTIONAL = MERGE.replace(
  name="merge_proportional",
  delta=1.0,
  doc="The merge corner with ToMe's proportional attention (delta = 1): the "
  "log size of a token is added to the attention logits of its key.",
)

POOL_SOFT = MERGE.replace(
  name="pool_soft",
  tau=100.0,
  doc="Corner of the space (arXiv 2606.05232): gamma = 1, tau -> infinity. "
  "Dropped tokens spread evenly over all kept ones. 100 stands for "
  "infinity: shares then differ by at most 2 percent. For pooling of grid "
  "cells see 'pool'.",
)

RANDOM = types.OperatorSpec(
  name="random",
  scores=("random",),
  pi=(1.0,),
  doc="Baseline: keeps tokens at random, by the noise that the caller draws. "
  "Acts at the decoder input.",
)

GRID = types.OperatorSpec(
  name="grid",
  scores=("grid",),
  pi=(1.0,),
  doc="Baseline: keeps tokens that spread evenly over the grid, whatever the "
  "picture shows. Acts at the decoder input.",
)

HYBRID = types.OperatorSpec(
  name="hybrid",
  scores=("last_row", "text_rows", "class_row", "uniqueness", "norm"),
  pi=(0.02, 0.02, 0.02, 0.92, 0.02),
  diversity="grid",
  assign="softmax",
  kappa=1.0,
  gamma=0.9,
  tau=0.05,
  delta=1.0,
  eta=1.0,
  doc="Warm start of a search (arXiv 2606.05232 searches such a space; its "
  "printed hybrid has gamma = 0.08, tau = 0.22 at decoder layer 6): unique "
  "tokens, merge, proportional attention, with every group free to move.",
)
