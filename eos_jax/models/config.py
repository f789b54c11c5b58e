"""Shapes of a LLaVA-like vision-language model (VLM)."""

import dataclasses

# gelu by its tanh approximation, gelu by the error function, CLIP's.
ACTIVATIONS = ("gelu", "gelu_exact", "quick_gelu")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """Vision transformer in the shape of CLIP, SigLIP or Qwen2-VL's.

  Attributes:
    image_size: side of the square input picture, or its height and width,
      pixels; what is left over after whole patches is not read.
    patch_size: side of a patch, pixels.
    layers: number of transformer blocks that are run.
    width: features of a token.
    heads: attention heads.
    mlp: hidden features of the MLP.
    activation: one of `ACTIVATIONS`; CLIP has "quick_gelu".
    norm_eps: epsilon of the layer norms.
    class_token: whether a class token goes with the patches (CLIP). Without
      one, the attention that patches receive on average stands for its row.
    patch_bias: whether the embedding of patches has a bias (SigLIP).
    rotary: whether queries and keys are turned by row and column (Qwen2-VL)
      in place of learned positions.
    pre_norm: whether a layer norm precedes the first block (CLIP).
    post_norm: whether a layer norm follows the last block (SigLIP); LLaVA
      reads CLIP without it.
  """

  image_size: int | tuple[int, int] = 96
  patch_size: int = 8
  layers: int = 5
  width: int = 128
  heads: int = 4
  mlp: int = 512
  activation: str = "gelu"
  norm_eps: float = 1e-5
  class_token: bool = True
  patch_bias: bool = False
  rotary: bool = False
  pre_norm: bool = True
  post_norm: bool = True

  def __post_init__(self):
    if min(self.size) < self.patch_size:
      raise ValueError(
        f"image_size={self.image_size} has no whole patch of"
        f" patch_size={self.patch_size}; choose a larger one."
      )
    if self.width % self.heads:
      raise ValueError(
        f"vision width={self.width} is no multiple of heads={self.heads}."
      )
    if self.rotary and (self.class_token or self.width // self.heads % 4):
      raise ValueError(
        "rotary=True turns pairs of features by rows and columns: it needs"
        " class_token=False, and heads whose features are a multiple of 4, not"
        f" {self.width} / {self.heads}."
      )
    _check_activation("vision activation", self.activation)

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the input picture, pixels."""
    if isinstance(self.image_size, int):
      return self.image_size, self.image_size
    return self.image_size

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of the patch grid."""
    height, width = self.size
    return height // self.patch_size, width // self.patch_size

  @property
  def tokens(self) -> int:
    """Number of patch tokens, the class token not counted."""
    return self.grid[0] * self.grid[1]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Llama-shaped causal decoder.

  Attributes:
    vocab: rows of the embedding table.
    layers: number of blocks L.
    width: features D of a token.
    heads: query heads H.
    kv_heads: key and value heads (grouped-query attention).
    head_dim: features of a head.
    mlp: hidden features of the gated MLP.
    rope_theta: base of the rotary frequencies.
    rope_axes: for each rotary pair the axis (0 time, 1 row, 2 column) whose
      position turns it, as in M-RoPE; () = one position for all.
    norm_eps: epsilon of the RMS norms.
    tied: whether the output head is the embedding table.
    qkv_bias: whether queries, keys and values have a bias (Qwen2).
  """

  vocab: int
  layers: int = 5
  width: int = 128
  heads: int = 4
  kv_heads: int = 2
  head_dim: int = 32
  mlp: int = 384
  rope_theta: float = 10_000.0
  rope_axes: tuple[int, ...] = ()
  norm_eps: float = 1e-5
  tied: bool = False
  qkv_bias: bool = False

  def __post_init__(self):
    if self.heads % self.kv_heads:
      raise ValueError(
        f"heads={self.heads} is no multiple of kv_heads={self.kv_heads}."
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim={self.head_dim} must be even (rotary pairs).")
    pairs = self.head_dim // 2
    if self.rope_axes and (
      len(self.rope_axes) != pairs or not set(self.rope_axes) <= {0, 1, 2}
    ):
      raise ValueError(
        f"rope_axes={self.rope_axes} must name an axis, 0, 1 or 2, for each of"
        f" the {pairs} rotary pairs of head_dim={self.head_dim}."
      )


@dataclasses.dataclass(frozen=True)
class VLMConfig:
  """A vision encoder, a projector and a decoder.

  Attributes:
    name: identifies the model; plans made for it carry this name.
    vision: shape of the encoder.
    decoder: shape of the decoder.
    projector: hidden features of the projector's two-layer MLP; 0 = it is one
      linear layer.
    prefix: token ids before the picture (the opening of the chat prompt).
    projector_activation: one of `ACTIVATIONS`.
    projector_bias: whether its linear layers have biases.
    projector_norm: whether a layer norm of each patch comes first (Qwen2-VL).
    merge: side of the squares of patches that the projector makes one token of
      (Qwen2-VL's merger, SmolVLM's pixel shuffle).
    tiles: rows and columns of tiles that a picture has room for, after the
      tile that shows all of it (LLaVA-OneVision), see `models.tiles`; (0, 0) =
      it has none; None = pictures are one tile, and no rows of tokens are
      ended by a learned vector.
  """

  name: str
  vision: VisionConfig
  decoder: DecoderConfig
  projector: int
  prefix: tuple[int, ...]
  projector_activation: str = "gelu"
  projector_bias: bool = True
  projector_norm: bool = False
  merge: int = 1
  tiles: tuple[int, int] | None = None

  def __post_init__(self):
    _check_activation("projector_activation", self.projector_activation)
    if any(side % self.merge for side in self.vision.grid):
      raise ValueError(
        f"a grid of {self.vision.grid} patches has no whole squares of side"
        f" merge={self.merge}; choose another image_size."
      )
    if self.tiles is not None and (
      self.merge > 1
      or len(set(self.vision.grid)) > 1
      or not (self.tiles == (0, 0) or min(self.tiles) > 0)
    ):
      raise ValueError(
        f"tiles={self.tiles} must be rows and columns, both positive or both 0,"
        f" of square pictures with merge=1, not {self.vision.size} pixels and"
        f" {self.merge}."
      )

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of the raster that visual tokens lie in.

    With tiles that of the whole picture, and below it the tiles, each row
    ended by a vector.
    """
    rows, columns = (side // self.merge for side in self.vision.grid)
    if self.tiles is None:
      return rows, columns
    down, across = self.tiles
    return rows + max(down * rows, 1), max(across * columns + 1, columns)

  @property
  def tokens(self) -> int:
    """Number of visual tokens of a picture, at most."""
    patches = self.crops * self.vision.tokens
    return patches // self.merge**2 + self.newlines

  @property
  def crops(self) -> int:
    """Tiles of a picture that the encoder reads, at most."""
    down, across = self.tiles or (0, 0)
    return 1 + down * across

  @property
  def newlines(self) -> int:
    """Visual tokens of a picture that end rows, at most."""
    if self.tiles is None:
      return 0
    return max(self.tiles[0] * self.vision.grid[0], 1)

  @property
  def vision_sites(self) -> int:
    """Encoder blocks in which tokens may be reduced.

    None where the projector needs all of their patches.
    """
    whole = self.merge > 1 or self.tiles is not None
    return 0 if whole else self.vision.layers

  @property
  def sites(self) -> tuple[str, ...]:
    """Names of all places where tokens may be reduced, in order."""
    vision = tuple(f"vision.{i}" for i in range(self.vision_sites))
    return vision + tuple(f"decoder.{i}" for i in range(self.decoder.layers))


def _check_activation(name, value):
  if value not in ACTIVATIONS:
    raise ValueError(
      f"{name}={value!r} is not known; use one of {', '.join(ACTIVATIONS)}."
    )


def tiny(vocab: int, prefix: tuple[int, ...]) -> VLMConfig:
  """The shipped model: 96 x 96 pixels, 144 visual tokens, 2 M parameters."""
  return VLMConfig(
    name="tiny",
    vision=VisionConfig(),
    decoder=DecoderConfig(vocab=vocab, rope_theta=1e6, rope_axes=(1, 2) * 8),
    projector=256,
    prefix=prefix,
  )


def llava_1_5_7b() -> VLMConfig:
  """LLaVA-1.5-7B: CLIP-L/14-336 up to its last but one layer, and Vicuna-7B."""
  return VLMConfig(
    name="llava_1_5_7b",
    vision=VisionConfig(
      image_size=336,
      patch_size=14,
      layers=23,
      width=1024,
      heads=16,
      mlp=4096,
      activation="quick_gelu",
      post_norm=False,
    ),
    decoder=DecoderConfig(
      vocab=32_064,
      layers=32,
      width=4096,
      heads=32,
      kv_heads=32,
      head_dim=128,
      mlp=11_008,
    ),
    projector=4096,
    prefix=(1,),
    projector_activation="gelu_exact",
  )


def wide() -> VLMConfig:
  """A decoder wide enough that its products bind, after a small encoder."""
  return VLMConfig(
    name="wide",
    vision=VisionConfig(
      image_size=336, patch_size=14, layers=4, width=256, heads=4, mlp=1024
    ),
    decoder=DecoderConfig(
      vocab=4096,
      layers=8,
      width=1024,
      heads=16,
      kv_heads=16,
      head_dim=64,
      mlp=2816,
    ),
    projector=1024,
    prefix=(1, 2, 3),
  )
