"""Reading a Llama-shaped language model from a GGUF file.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Needs the
extra `gguf`.
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Bool, Float
from eos_jax.models import config as config_lib
from eos_jax.models import decoder, loading, weight_files
from eos_jax.models.families import decoders
from eos_jax.models.families import fields as fields_lib
from eos_jax.models.families import table as table_lib

_ARCHITECTURE = "llama"
_UNSCALED = "scaled rotary positions are not read, use another model"
_REQUIRED = (
  "embedding_length",
  "block_count",
  "feed_forward_length",
  "attention.head_count",
  "attention.layer_norm_rms_epsilon",
)


def metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The metadata of a GGUF file, by key.

  Raises:
    ModuleNotFoundError: the extra `gguf` is not installed.
    ValueError: the file cannot be read.
  """
  return _metadata(path, _open(path)[1])


def load(
  path: str | os.PathLike[str], *, dtype: Any = jnp.float32
) -> tuple[config_lib.DecoderConfig, Any]:
  """Reads a decoder, tensor after tensor.

  Args:
    path: a GGUF file of architecture "llama".
    dtype: of all parameters; quantised ones are expanded to it.

  Returns:
    The shape of the decoder, and parameters as `models.decoder.init` makes
    them.

  Raises:
    ModuleNotFoundError: the extra `gguf` is not installed.
    ValueError: the file cannot be read, is of another architecture, or its
      metadata or tensors do not fit; all of the faults are listed. Or a weight
      is NaN or infinite.
  """
  gguf, reader = _open(path)
  path = pathlib.Path(path)
  tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
  cfg = _config(path, _metadata(path, reader), tied)
  like = jax.eval_shape(lambda key: decoder.init(cfg, key), jax.random.key(0))
  found = [
    # Every type is expanded to float32.
    loading.Tensor(t.name, path, tuple(map(int, reversed(t.shape))), "F32")
    for t in reader.tensors
  ]
  places, faults = loading.match(_table(tied), like, found)
  if faults:
    raise ValueError(
      f"the tensors of {path} do not fit its metadata; use an unchanged file"
      " of a Llama-shaped model:\n  "
      + "\n  ".join(weight_files.shortened(faults))
    )
  dtype = jnp.dtype(dtype)
  made = {
    name: np.empty(leaf.shape, dtype)
    for name, leaf in loading.flat(like).items()
  }
  for tensor in reader.tensors:
    for place in places.get(tensor.name, ()):
      value = _halves(cfg, place.path, _expanded(gguf, path, tensor))
      entry = ... if place.layer is None else place.layer
      made[place.path][entry] = place.weight.ours(value)
      loading.check_finite(
        made[place.path][entry],
        f"{tensor.name} in {path}",
        tensor.tensor_type.name,
      )
  arrays = [jnp.asarray(made.pop(name)) for name in list(made)]
  return cfg, jax.tree.unflatten(jax.tree.structure(like), arrays)


def text_only(
  cfg: config_lib.DecoderConfig, params: Any, *, name: str = "text_only"
) -> tuple[config_lib.VLMConfig, Any]:
  """A language model in the form that `models.Engine` answers with.

  Its tower is one block over one patch, with weights of zero that nothing
  depends on: give the pictures of `no_pictures`, whose only token is padding.

  Args:
    cfg: shape of the decoder.
    params: its parameters.
    name: of the model.
  """
  whole = config_lib.VLMConfig(
    name=name,
    vision=config_lib.VisionConfig(
      image_size=1, patch_size=1, layers=1, width=2, heads=1, mlp=2
    ),
    decoder=cfg,
    projector=0,
    prefix=(),
  )
  shapes = loading.shapes(whole)
  tower = {
    part: jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, params["embed"].dtype), shapes[part]
    )
    for part in ("vision", "projector")
  }
  return whole, tower | {"decoder": params}


def no_pictures(
  samples: int,
) -> tuple[Float[Array, "B 1 1 1 3"], Bool[np.ndarray, "B 1 1"]]:
  """`image` and `valid` for a model of `text_only`: padding alone.

  Args:
    samples: B of the batch.
  """
  return jnp.zeros((samples, 1, 1, 1, 3)), np.zeros((samples, 1, 1), bool)


def _open(path):
  """The package, and its reader of a file."""
  try:
    import gguf
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "GGUF files are read with the package gguf, which is not installed;"
      " pip install 'eos_jax[gguf]'"
    ) from error
  path = pathlib.Path(path)
  try:
    if path.exists() and not path.is_file():
      raise ValueError(f"{path} is no regular file; give a GGUF file")
    with path.open("rb") as file:
      magic = file.read(4)
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read ({error.strerror}); give a GGUF file"
    ) from error
  if magic != b"GGUF":
    raise ValueError(
      f"{path} is no GGUF file: it begins with {magic!r}, expected b'GGUF';"
      " give another file"
    )
  try:
    return gguf, gguf.GGUFReader(path)
  # Whatever a damaged file makes the reader raise.
  except (
    ArithmeticError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
  ) as error:
    if "GGMLQuantizationType" in str(error):
      raise ValueError(
        f"{path} has a tensor of an unknown type ({error}); use a file with"
        " types that the package gguf knows, such as Q4_1 or F16"
      ) from error
    raise ValueError(
      f"{path} is truncated or damaged ({error}); fetch it again"
    ) from error


def _metadata(path, reader):
  try:
    return {key: field.contents() for key, field in reader.fields.items()}
  except ValueError as error:  # text in another encoding
    raise ValueError(
      f"the metadata of {path} cannot be read ({error}); fetch it again"
    ) from error


def _config(path, fields: Mapping[str, Any], tied):
  found = fields.get("general.architecture")
  if found != _ARCHITECTURE:
    raise ValueError(
      f"{path} has general.architecture={fields_lib.quoted(found)}, expected"
      f" {_ARCHITECTURE!r}; use a file of a Llama-shaped model"
    )
  prefix = f"{_ARCHITECTURE}."
  own = fields_lib.Fields(
    {
      key.removeprefix(prefix): value
      for key, value in fields.items()
      if key.startswith(prefix)
    },
    _ARCHITECTURE,
    [
      f"missing {prefix}{key}"
      for key in _REQUIRED
      if prefix + key not in fields
    ],
  )
  cfg = _decoder(own, fields.get("tokenizer.ggml.tokens"), tied)
  if own.faults:
    raise ValueError(
      f"the metadata of {path} cannot be used; take another file:\n  "
      + "\n  ".join(own.faults)
    )
  return cfg


def _decoder(own, tokens, tied):
  """The decoder; faults are noted in `own`."""
  _refuse_scaling(own)
  if tokens is None and not own.has("vocab_size"):
    own.faults.append("missing llama.vocab_size")
  count = len(tokens) if isinstance(tokens, list) else 0
  vocab = own.whole("vocab_size", count or 1)
  if vocab < count:
    own.fault(
      "vocab_size",
      f"at least {count}, the length of tokenizer.ggml.tokens",
      "use a file whose tokenizer belongs to the model",
    )
  width = own.whole("embedding_length", 1)
  heads = own.whole("attention.head_count", 1)
  head_dim = own.whole("attention.key_length", width // heads)
  turned = own.whole("rope.dimension_count", head_dim)
  if turned != head_dim:
    own.fault(
      "rope.dimension_count",
      f"all {head_dim} features of a head",
      "use another model",
    )
  return own.built(
    config_lib.DecoderConfig,
    vocab=vocab,
    layers=own.whole("block_count", 1, most=decoders.MOST_LAYERS),
    width=width,
    heads=heads,
    kv_heads=own.whole("attention.head_count_kv", heads),
    head_dim=head_dim,
    mlp=own.whole("feed_forward_length", 1),
    rope_theta=own.positive("rope.freq_base", 10_000.0),
    norm_eps=own.positive("attention.layer_norm_rms_epsilon", 1e-5),
    tied=tied,
  )


def _refuse_scaling(own):
  """Notes a fault where rotary positions are scaled.

  As in llama.cpp, a factor without a type means linear scaling, its older name
  counts where the newer one is absent, and factors of 0 and 1 change nothing.
  """
  kind = own.get("rope.scaling.type", "linear")
  if kind == "none":
    return
  name = "rope.scaling.factor"
  if not own.has(name):
    name = "rope.scale_linear"
  factor = own.get(name, 1)
  if kind != "linear":
    own.fault("rope.scaling.type", "'none'", _UNSCALED)
  elif factor not in (0, 1):
    own.fault(name, "1, which is unscaled", _UNSCALED)


def _table(tied):
  linear = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "out": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
  }
  weights = [
    table_lib.Weight("embed", "token_embd.weight"),
    table_lib.Weight("norm.scale", "output_norm.weight"),
    table_lib.Weight("blocks.norm1.scale", "blk.{}.attn_norm.weight"),
    table_lib.Weight("blocks.norm2.scale", "blk.{}.ffn_norm.weight"),
    *(
      table_lib.linear(f"blocks.{ours}", f"blk.{{}}.{theirs}")
      for ours, theirs in linear.items()
    ),
  ]
  if not tied:
    weights.append(table_lib.linear("head.out", "output"))
  return table_lib.Table(tuple(weights))


def _expanded(gguf, path, tensor):
  try:
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type)
  except NotImplementedError as error:
    raise ValueError(
      f"{tensor.name} in {path} has the type {tensor.tensor_type.name}, which"
      " the package gguf cannot expand; use a file of another type, such as"
      " Q4_1 or F16"
    ) from error


def _halves(cfg, path, value):
  """Rows of queries and keys from interleaved pairs to halves of a head."""
  heads = {"blocks.q.kernel": cfg.heads, "blocks.k.kernel": cfg.kv_heads}
  if path not in heads:
    return value
  pairs = value.reshape(heads[path], cfg.head_dim // 2, 2, -1)
  return pairs.swapaxes(1, 2).reshape(value.shape)
