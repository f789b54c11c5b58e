"""Shapes of a LLaVA-like vision-language model (VLM)."""

import dataclasses

# gelu by its tanh approximation, gelu by the error function, CLIP's.
ACTIVATIONS = ("gelu", "gelu_exact", "quick_gelu")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
  """CLIP-shaped vision transformer with a class token.

  Attributes:
    image_size: side of the square input picture, pixels.
    patch_size: side of a patch, pixels.
    layers: number of transformer blocks that are run.
    width: features of a token.
    heads: attention heads.
    mlp: hidden features of the MLP.
    activation: one of `ACTIVATIONS`; CLIP has "quick_gelu".
    norm_eps: epsilon of the layer norms.
    post_norm: whether a layer norm follows the last block (SigLIP); LLaVA
      reads CLIP without it.
  """

  image_size: int = 96
  patch_size: int = 8
  layers: int = 5
  width: int = 128
  heads: int = 4
  mlp: int = 512
  activation: str = "gelu"
  norm_eps: float = 1e-5
  post_norm: bool = True

  def __post_init__(self):
    if self.image_size % self.patch_size:
      raise ValueError(
        f"image_size={self.image_size} is no multiple of"
        f" patch_size={self.patch_size}; choose a multiple."
      )
    if self.width % self.heads:
      raise ValueError(
        f"vision width={self.width} is no multiple of heads={self.heads}."
      )
    _check_activation("vision activation", self.activation)

  @property
  def grid(self) -> tuple[int, int]:
    """Rows and columns of the patch grid."""
    side = self.image_size // self.patch_size
    return side, side

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
  """A vision encoder, a two-layer MLP projector and a decoder.

  Attributes:
    name: identifies the model; plans made for it carry this name.
    vision: shape of the encoder.
    decoder: shape of the decoder.
    projector: hidden features of the projector MLP.
    prefix: token ids before the picture (the opening of the chat prompt).
    projector_activation: one of `ACTIVATIONS`.
  """

  name: str
  vision: VisionConfig
  decoder: DecoderConfig
  projector: int
  prefix: tuple[int, ...]
  projector_activation: str = "gelu"

  def __post_init__(self):
    _check_activation("projector_activation", self.projector_activation)

  @property
  def sites(self) -> tuple[str, ...]:
    """Names of all places where tokens may be reduced, in order."""
    vision = tuple(f"vision.{i}" for i in range(self.vision.layers))
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
