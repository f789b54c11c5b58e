"""Operators that act in the vision encoder or on what it gives out."""

from eos_jax.ops import types
from eos_jax.ops.presets.registry import Placement, register

_IN_CLIP = Placement(site="vision", layers=tuple(range(24)), depth=24)
_TOME = dict(
  title="ToMe",
  paper="2210.09461",
  repository="facebookresearch/ToMe",
  placement=_IN_CLIP,
)

TOME = register(
  types.OperatorSpec(
    name="tome",
    select="bipartite",
    assign="selected",
    affinity="keys",
    gamma=1.0,
    delta=1.0,
    protect=1,
  ),
  **_TOME,
  doc="In every vision block, between attention and MLP, merges the r closest "
  "pairs of an alternating bipartite matching of head-averaged keys; "
  "size-weighted mean, log size added to attention. At most half per block. "
  "The paper's class token rule: never merged. Ports to vision-language "
  "models carry no sizes and add no log size, see 'tome_port'. No "
  "proportional attention for models pre-trained by masked autoencoding.",
  left_out="unmerge with a distillation token takes rows for those of the "
  "other set",
)

TOME_KTH = register(
  TOME.replace(
    name="tome_kth", select="kth", stride=3, protect=0, retention=1 / 3
  ),
  **_TOME,
  doc="The k-th variant in tome/merge.py: the last of every k = `stride` "
  "tokens is a target, the others merge into their best target; V mod k "
  "tokens at the end are lost, nothing is protected. The paper does not have "
  "it.",
)

TOME_PORT = register(
  TOME.replace(
    name="tome_port", alpha="one", beta="one", delta=0.0, sizes="keep"
  ),
  title="ToMe",
  repository="ModelTC/LightCompress",
  placement=_IN_CLIP,
  doc="As comparisons of vision-language models run it "
  "(token_reduction/tome.py): in every block of CLIP the r = 16 closest pairs "
  "merge by a plain mean; sizes are not carried on and do not enter "
  "attention. Weaker than 'tome', the paper's operator.",
)

_EVIT = dict(
  title="EViT",
  paper="2202.07800",
  repository="youweiliang/evit",
  placement=Placement(site="vision", layers=(3, 6, 9), depth=12),
)

EVIT = register(
  types.OperatorSpec(
    name="evit",
    scores=("class_row",),
    pi=(1.0,),
    fused=1,
    alpha="raw",
    beta="one",
    gamma=1.0,
    eta=0.0,
    order="score",
    protect=1,
    retention=0.7,
  ),
  **_EVIT,
  doc="In blocks 3, 6 and 9 of 12, after the attention, keeps the ceil(0.7 V) "
  "tokens of greatest class attention (mean over heads), best first; one more "
  "token is the sum of the dropped ones weighted by their attention. The "
  "paper speaks of a fused token; in code its weights are not normalised, so "
  "its norm falls with what it stands for. At later blocks it is an ordinary "
  "token.",
)

EVIT_DROP = register(
  EVIT.replace(name="evit_drop", fused=0),
  **_EVIT,
  doc="Without --fuse_token: the dropped tokens leave nothing.",
)

VISIONZIP = register(
  types.OperatorSpec(
    name="visionzip",
    scores=("class_row",),
    pi=(1.0,),
    diversity="stride",
    kappa=53 / 63,
    assign="nearest",
    affinity="vision_keys",
    receivers="second",
    alpha="one",
    beta="one",
    gamma=1.0,
    zeta=1,
    eta=0.0,
    order_second="raster",
    positions="renumbered",
    protect=1,
    retention=1 / 9,
  ),
  title="VisionZip",
  paper="2412.04467",
  repository="dvlab-research/VisionZip",
  doc="On the output of the encoder's last but one layer, dominant tokens by "
  "class attention (sum over heads), in raster order, the class token among "
  "them; then contextual tokens: equal steps through the list of what is "
  "left, each plus the mean of the leftovers nearest to it by keys. 64 = 54 + "
  "10 (here: 53 and the class token, kappa = 53 / 63), 128 = 108 + 20, 192 = "
  "162 + 30. The paper calls contextual tokens merged averages; the code adds "
  "target and mean, about twice the norm.",
)

VISIONZIP_PRUNE = register(
  VISIONZIP.replace(
    name="visionzip_prune",
    diversity="none",
    kappa=1.0,
    assign="none",
    receivers="kept",
  ),
  title="VisionZip",
  repository="ModelTC/LightCompress",
  doc="The dominant tokens alone: the switch prune_only.",
)

_PRUMERGE = dict(
  title="LLaVA-PruMerge",
  paper="2403.15388",
  repository="42Shawn/LLaVA-PruMerge",
)

PRUMERGE = register(
  types.OperatorSpec(
    name="prumerge",
    scores=("class_row",),
    pi=(1.0,),
    assign="gather",
    affinity="vision_keys",
    sources="all",
    neighbours=32,
    alpha="raw",
    beta="one",
    gamma=1.0,
    eta=0.0,
    sizes="keep",
    fused=1,
    order="score",
    positions="renumbered",
    retention=1 / 8,
  ),
  **_PRUMERGE,
  doc="On the encoder's output keeps the outliers of class attention "
  "(`count.outliers`; attention of one full-width head, "
  "`signals.full_width_row`), best first; each adds its 32 nearest tokens by "
  "key, weighted by their attention; one more token is the weighted sum of "
  "all that is not kept. The paper describes clusters of pruned tokens and a "
  "weighted mean; the code takes neighbours among all other tokens, kept ones "
  "included, and a sum.",
)

PRUMERGE_PLUS = register(
  PRUMERGE.replace(
    name="prumerge_plus",
    diversity="raster",
    order_second="raster",
    kappa=0.25,
    retention=0.25,
  ),
  **_PRUMERGE,
  doc="PruMerge+, adaptive mode: PruMerge with every g-th token of the raster "
  "as a further centre, g = V // n // 3 for n outliers (`count.raster_rows`). "
  "The code asks for 576 tokens and fails without outliers or with more than "
  "a third of them. Its fixed mode keeps duplicates; they are no point of "
  "this space.",
  left_out="fixed mode: duplicated centres, and as many unselected tokens lost",
)

DIFFRATE = register(
  types.OperatorSpec(
    name="diffrate",
    scores=("class_row",),
    pi=(1.0,),
    assign="nearest",
    alpha="one",
    beta="one",
    gamma=1.0,
    sizes="similarity",
    delta=1.0,
    order="score",
    protect=1,
    retention=0.9,
  ),
  title="DiffRate",
  paper="2305.17997",
  repository="OpenGVLab/DiffRate",
  placement=Placement(site="vision", layers=tuple(range(1, 12)), depth=12),
  doc="In every block but the first sorts by class attention, drops the tail "
  "and merges the middle, each into its most similar kept token by the "
  "features themselves; plain mean. `recycle` is the share of the removed "
  "tokens that merges. Sizes grow by size times similarity, which the paper "
  "does not say, and enter attention as logs. Counts are learned "
  "(`count.learned`).",
)
