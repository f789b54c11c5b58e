"""Operators that act at the decoder's input, in its layers, or on its cache."""

from eos_jax.ops import types
from eos_jax.ops.presets.registry import Placement, register

FASTV = register(
  types.OperatorSpec(
    name="fastv", scores=("last_row_previous",), pi=(1.0,), retention=0.5
  ),
  title="FastV",
  paper="2403.06764",
  repository="pkunlp-icler/FastV",
  placement=Placement(layers=(2,), depth=32),
  doc="At the input of decoder layer K = 2 of 32 keeps the tokens with the "
  "most attention from the last prompt row in layer K - 1, mean over heads; R "
  "= 50 % dropped, original rotary positions kept, ascending order. The first "
  "release re-ranked at every generated token and its masked variant removed "
  "nothing; later code and this preset decide once, at prefill. Layers before "
  "K see all tokens, so small layer averages cannot be reached at K = 2.",
  left_out="a batch is cut where the attention of its first sample says",
)

_SPARSEVLM = dict(
  title="SparseVLM", paper="2410.04417", repository="Gumpest/SparseVLMs"
)

SPARSEVLM = register(
  types.OperatorSpec(
    name="sparsevlm",
    scores=("rater_rows",),
    pi=(1.0,),
    diversity="density",
    kappa=300 / 309,
    assign="clusters",
    recycle=0.3,
    alpha="one",
    beta="one",
    gamma=1.0,
    eta=0.0,
    order_second="score",
    positions="renumbered",
  ),
  **_SPARSEVLM,
  placement=Placement(
    layers=(3, 7, 16, 20),
    depth=32,
    schedule=(309 / 576, 204 / 576, 113 / 576, 113 / 576),
  ),
  doc="First release: after layers 2, 6, 15 and 19 of 32 keeps tokens by the "
  "attention of the text raters (`signals.text_raters`) in that layer, mean "
  "over heads; int(rank scale + bias) of them, `count.rank`. Of what is "
  "dropped the best 30 % come back as means of clusters, a tenth as many "
  "(`count.clusters`), after the kept ones. The paper's rank rule is only in "
  "this release; its layer averages count the pruning layer as already "
  "reduced.",
)

SPARSEVLM_1_5 = register(
  SPARSEVLM.replace(name="sparsevlm_1_5"),
  **_SPARSEVLM,
  placement=Placement(
    layers=(3, 7, 16), depth=32, schedule=(309 / 576, 204 / 576, 113 / 576)
  ),
  doc="SparseVLM 1.5: as 'sparsevlm', after layers 2, 6 and 15, with tabled "
  "counts (`count.SPARSEVLM_1_5`) in place of the rank that the paper still "
  "describes.",
)

SPARSEVLM_2_0 = register(
  types.OperatorSpec(name="sparsevlm_2_0", scores=("rater_rows",), pi=(1.0,)),
  **_SPARSEVLM,
  placement=Placement(
    layers=(3, 7, 16), depth=32, schedule=(300 / 576, 200 / 576, 118 / 576)
  ),
  doc="SparseVLM+ (USE_VERSION=2_0): tabled counts (`count.SPARSEVLM_2_0`), "
  "nothing comes back, original positions. The code also divides attention by "
  "the rotary response of constant queries and keys and averages the 14 heads "
  "that look most at the image: that is left to whoever computes the signal.",
)

PYRAMIDDROP = register(
  types.OperatorSpec(
    name="pyramiddrop",
    scores=("last_row",),
    pi=(1.0,),
    positions="renumbered",
    retention=0.5,
  ),
  title="PyramidDrop",
  paper="2410.17247",
  repository="Cooperx521/PyramidDrop",
  placement=Placement(
    layers=(8, 16, 24), depth=32, schedule=(0.5, 0.25, 0.125)
  ),
  doc="Before layers 8, 16 and 24 of 32 keeps int(V ratio) tokens, ratios "
  "0.5, 0.25, 0.125 of the original number (`count.pyramid`), by the "
  "attention of the last prompt token in the coming layer, recomputed; raster "
  "order, renumbered positions. Layer average 270 of 576. In training it "
  "averages the rows in front of the answers.",
)

DART = register(
  types.OperatorSpec(
    name="dart",
    scores=("key_norm",),
    pi=(1.0,),
    diversity="pivots",
    kappa=4 / 196,
    retention=196 / 576,
  ),
  title="DART",
  paper="2502.11494",
  repository="ZichenWen1/DART",
  placement=Placement(layers=(2,), depth=32),
  doc="At the input of layer 2 of 32 keeps 4 visual pivots, those of greatest "
  "L1 key norm, and for these and 4 text pivots in turn the tokens least like "
  "each among those left, by the states after the final norm "
  "(`signals.dart_pivots`). Keeps 4 more than its nominal budget "
  "(`count.dart`). The code visits pivots in the order of a Python set, which "
  "changes the result; here the caller gives the order.",
  left_out="pivots are visited in the order of a Python set",
)

DIVPRUNE = register(
  types.OperatorSpec(
    name="divprune",
    diversity="max_min",
    kappa=0.0,
    positions="renumbered",
    retention=0.098,
  ),
  title="DivPrune",
  paper="2503.02175",
  repository="vbdi/divprune",
  doc="On the projected tokens keeps round(0.098 V) by greedy max-min cosine "
  "distance, in raster order. The code may pick a token twice where fewer "
  "distinct ones exist than it asks for; here each is picked once.",
  left_out="the same token may be picked again where too few differ",
)

GLOBALCOM2 = register(
  types.OperatorSpec(
    name="globalcom2", scores=("class_guided",), pi=(1.0,), retention=0.25
  ),
  title="GlobalCom2",
  paper="2501.05179",
  repository="xuyang-liu16/GlobalCom2",
  doc="Of a thumbnail and crops (LLaVA-NeXT) each keeps its own share "
  "(`count.crop_shares`, given as one count for each image), by its class "
  "scores before the softmax plus the thumbnail's at the same place "
  "(`signals.crop_guide`), each over its norm. The code writes kept tokens "
  "back to other cells where crops are padded; here they stay where they were.",
  left_out="kept tokens are written back to other cells where crops are padded",
)

VISION_SELECTOR = register(
  types.OperatorSpec(
    name="vision_selector", scores=("learned",), pi=(1.0,), retention=0.2
  ),
  title="VisionSelector",
  paper="2510.16598",
  repository="JulietChoo/VisionSelector",
  doc="On the encoder's output keeps int(0.2 V) tokens by a trained scorer "
  "(mean over keys of (W_q x)(W_k x)^T / sqrt(D)); in training the soft top-k "
  "multiplies the tokens (`soft_top_k` with unit mass and T = 1), where here "
  "the mass enters attention.",
)

CSP = register(
  types.OperatorSpec(name="csp", select="two_lists", kappa=0.9),
  title="CSP",
  paper="2412.04652",
  repository="TerryPei/CSP",
  doc="At prefill, in every layer and for each head, keeps entries of the KV "
  "cache: int(K (1 - gamma)) by what they receive from recent rows of their "
  "own modality and int(K gamma) by what they receive from the other "
  "(`signals.modality_sums`, gamma = 1 - kappa), and all recent ones, which "
  "the caller leaves out of the tokens. An entry on both lists is stored "
  "twice. The code fixes 1 and 308 for gamma <= 0.",
)
