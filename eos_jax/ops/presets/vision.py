"""Operators that act in the vision encoder or on what it gives out."""

from eos_jax.ops import types

TOME = types.OperatorSpec(
  name="tome",
  select="bipartite",
  assign="selected",
  affinity="keys",
  gamma=1.0,
  delta=1.0,
  protect=1,
  site="vision",
  layers=tuple(range(24)),
  depth=24,
  doc="ToMe (arXiv 2210.09461), facebookresearch/ToMe: in every vision block, "
  "between attention and MLP, merges the r closest pairs of an alternating "
  "bipartite matching of head-averaged keys; size-weighted mean, log size "
  "added to attention. At most half per block. The paper's class token "
  "rule: never merged. Ports to vision-language models "
  "(ModelTC/LightCompress, constant r = 16) carry no sizes and add no log "
  "size: replace(delta=0.0, alpha='one', beta='one') is that weaker "
  "operator for one block. No proportional attention for models "
  "pre-trained by masked autoencoding.",
)

TOME_PORT = TOME.replace(
  name="tome_port",
  alpha="one",
  beta="one",
  delta=0.0,
  sizes="keep",
  doc="ToMe as comparisons of vision-language models run it, "
  "ModelTC/LightCompress (token_reduction/tome.py): in every block of CLIP "
  "the r = 16 closest pairs merge by a plain mean; sizes are not carried "
  "on and do not enter attention. Weaker than 'tome', the paper's "
  "operator.",
)

TOME_KTH = TOME.replace(
  name="tome_kth",
  select="kth",
  stride=3,
  protect=0,
  retention=1 / 3,
  doc="The k-th variant in facebookresearch/ToMe, tome/merge.py: the last of "
  "every k = `stride` tokens is a target, the others merge into their best "
  "target; V mod k tokens at the end are lost, nothing is protected. The "
  "paper (arXiv 2210.09461) does not have it.",
)

EVIT = types.OperatorSpec(
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
  site="vision",
  layers=(3, 6, 9),
  depth=12,
  retention=0.7,
  doc="EViT (arXiv 2202.07800), youweiliang/evit: in blocks 3, 6 and 9 of 12, "
  "behind the attention, keeps the ceil(0.7 V) tokens of greatest class "
  "attention (mean over heads), best first; one more token is the sum of "
  "the dropped ones weighted by their attention. The paper speaks of a "
  "fused token; in code its weights are not normalised, so its norm falls "
  "with what it stands for. At later blocks it is an ordinary token.",
)

EVIT_DROP = EVIT.replace(
  name="evit_drop",
  fused=0,
  doc="EViT (arXiv 2202.07800), youweiliang/evit without --fuse_token: the "
  "dropped tokens leave nothing behind.",
)

VISIONZIP = types.OperatorSpec(
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
  layers=(0,),
  retention=1 / 9,
  doc="VisionZip (arXiv 2412.04467), dvlab-research/VisionZip: on the output "
  "of the encoder's last but one layer, dominant tokens by class attention "
  "(sum over heads), in raster order, the class token among them; then "
  "contextual tokens: equal steps through the list of what is left, each "
  "plus the mean of the leftovers nearest to it by keys. 64 = 54 + 10 "
  "(here: 53 and the class token, kappa = 53 / 63), 128 = 108 + 20, 192 = "
  "162 + 30. The paper calls contextual tokens merged averages; the code "
  "adds target and mean, about twice the norm.",
)

VISIONZIP_PRUNE = VISIONZIP.replace(
  name="visionzip_prune",
  diversity="none",
  kappa=1.0,
  assign="none",
  receivers="kept",
  doc="VisionZip's dominant tokens alone: the switch prune_only in "
  "ModelTC/LightCompress.",
)

PRUMERGE = types.OperatorSpec(
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
  layers=(0,),
  retention=1 / 8,
  doc="LLaVA-PruMerge (arXiv 2403.15388), 42Shawn/LLaVA-PruMerge: on the "
  "encoder's output keeps the outliers of class attention "
  "(`count.outliers`; attention of one full-width head, "
  "`signals.full_width_row`), best first; each adds its 32 nearest tokens "
  "by key, weighted by their attention; one more token is the weighted sum "
  "of all that is not kept. The paper describes clusters of pruned tokens "
  "and a weighted mean; the code takes neighbours among all other tokens, "
  "kept ones included, and a sum.",
)

PRUMERGE_PLUS = PRUMERGE.replace(
  name="prumerge_plus",
  diversity="raster",
  order_second="raster",
  kappa=0.25,
  retention=0.25,
  doc="PruMerge+ (arXiv 2403.15388), 42Shawn/LLaVA-PruMerge, adaptive mode: "
  "PruMerge with every g-th token of the raster as a further centre, g = V "
  "// n // 3 for n outliers (`count.raster_rows`). The code asks for 576 "
  "tokens and fails without outliers or with more than a third of them. "
  "Its fixed mode keeps duplicates; they are no point of this space.",
)

DIFFRATE = types.OperatorSpec(
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
  site="vision",
  layers=tuple(range(1, 12)),
  depth=12,
  retention=0.9,
  doc="DiffRate (arXiv 2305.17997), OpenGVLab/DiffRate: in every block but the "
  "first sorts by class attention, drops the tail and merges the middle, "
  "each into its most similar kept token by the features themselves; plain "
  "mean. `recycle` is the share of the removed tokens that merges. Sizes "
  "grow by size times similarity, which the paper does not say, and enter "
  "attention as logs. Counts are learned (`count.learned`).",
)

POOL = types.OperatorSpec(
  name="pool",
  select="cells",
  assign="selected",
  gamma=1.0,
  eta=0.0,
  chi=0,
  zeta=1,
  doc="Average pooling after the projector by adaptive cells, rows x columns = "
  "K for any K. Where square blocks divide the grid this is the published "
  "pooling of Matryoshka Multimodal Models, see 'matryoshka'.",
)

MATRYOSHKA = POOL.replace(
  name="matryoshka",
  select="blocks",
  stride=2,
  retention=0.25,
  doc="Matryoshka Multimodal Models (arXiv 2405.17430), mu-cai/matryoshka-mm, "
  "llava_arch.py: after the projector, means of square blocks of "
  "int(sqrt(V / K)) tokens a side (`stride`); the remainder of the grid is "
  "cut, so K is met only where the block divides it. Scales 576, 144, 36, "
  "9, 1 of 24 x 24.",
)
