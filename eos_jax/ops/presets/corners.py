"""The corners of the operator space, baselines, and where a search starts."""

from eos_jax.ops import types
from eos_jax.ops.presets.registry import register

# "class_row" decides the order in which tokens count as better; its own weight
# is too small to move a token past a more unique one.
_UNIQUE = dict(scores=("class_row", "uniqueness"), pi=(0.01, 0.99))
_PAPER = "2606.05232"

PRUNE = register(
  types.OperatorSpec(name="prune", **_UNIQUE, gamma=0.0),
  paper=_PAPER,
  doc="Corner of the space: gamma = 0, rho = 0. Keeps the tokens least like a "
  "token of higher class attention, drops the others.",
)

REWEIGHT = register(
  types.OperatorSpec(
    name="reweight", **_UNIQUE, gamma=0.0, rho=0.5, rho_attn=0.5
  ),
  paper=_PAPER,
  doc="Corner of the space: gamma = 0, rho > 0. Prunes and scales what stays "
  "by 1 + rho w; since a normalisation layer cancels a pure scaling, rho_attn "
  "also adds log w to the attention logits. The paper prints no number for "
  "rho; 0.5 is ours.",
)

MERGE = register(
  types.OperatorSpec(
    name="merge", **_UNIQUE, assign="softmax", gamma=1.0, tau=types.TAU_FLOOR
  ),
  paper=_PAPER,
  doc="Corner of the space: gamma = 1, tau -> 0. Each dropped token goes to "
  "its nearest kept one by cosine; size-weighted mean as in ToMe (eta = 1, "
  "alpha = beta = size).",
)

MERGE_PROPORTIONAL = register(
  MERGE.replace(name="merge_proportional", delta=1.0),
  doc="The merge corner with ToMe's proportional attention (delta = 1): the "
  "log size of a token is added to the attention logits of its key.",
)

POOL_SOFT = register(
  MERGE.replace(name="pool_soft", tau=100.0),
  paper=_PAPER,
  doc="Corner of the space: gamma = 1, tau -> infinity. Dropped tokens spread "
  "evenly over all kept ones. 100 stands for infinity: shares then differ by "
  "at most 2 percent. For pooling of grid cells see 'pool'.",
)

RANDOM = register(
  types.OperatorSpec(name="random", scores=("random",), pi=(1.0,)),
  doc="Baseline: keeps tokens at random, by the noise that the caller draws.",
)

GRID = register(
  types.OperatorSpec(name="grid", scores=("grid",), pi=(1.0,)),
  doc="Baseline: keeps tokens that spread evenly over the grid, whatever the "
  "image shows.",
)

POOL = register(
  types.OperatorSpec(
    name="pool",
    select="cells",
    assign="selected",
    gamma=1.0,
    eta=0.0,
    chi=0,
    zeta=1,
  ),
  doc="Average pooling after the projector by adaptive cells, rows x columns "
  "= K for any K. Where square blocks divide the grid this is the published "
  "pooling of Matryoshka Multimodal Models, see 'matryoshka'.",
)

MATRYOSHKA = register(
  POOL.replace(name="matryoshka", select="blocks", stride=2, retention=0.25),
  title="Matryoshka Multimodal Models",
  paper="2405.17430",
  repository="mu-cai/matryoshka-mm",
  doc="llava_arch.py: after the projector, means of square blocks of "
  "int(sqrt(V / K)) tokens a side (`stride`); the remainder of the grid is "
  "cut, so K is met only where the block divides it. Scales 576, 144, 36, 9, "
  "1 of 24 x 24.",
)

HYBRID = register(
  types.OperatorSpec(
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
  ),
  paper=_PAPER,
  doc="Warm start of a search (the paper searches such a space; its printed "
  "hybrid has gamma = 0.08, tau = 0.22 at decoder layer 6): unique tokens, "
  "merge, proportional attention, with every group free to move.",
)
