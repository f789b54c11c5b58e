"""The models that a benchmark measures, and whether they fit the machine."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eos_jax import cost, models
from eos_jax.evaluation import evaluator, programs
from eos_jax.models import fits
from eos_jax.tasks import common

# dtype of parameters, activations and cache; of all other models float32.
_DTYPES = {"llava_1_5_7b": "bfloat16"}


def wide() -> models.VLMConfig:
  """A decoder wide enough that its products bind, behind a small encoder."""
  return models.VLMConfig(
    name="wide",
    vision=models.VisionConfig(
      image_size=336, patch_size=14, layers=4, width=256, heads=4, mlp=1024
    ),
    decoder=models.DecoderConfig(
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


def config(name: str) -> models.VLMConfig:
  """The shape of a model, by its name in `benchmark_settings.MODELS`."""
  if name == "tiny":
    return common.model()[1]
  return {"wide": wide, "llava_1_5_7b": models.llava_1_5_7b}[name]()


def dtype(name: str) -> str:
  """The dtype that a model is measured in."""
  return _DTYPES.get(name, "float32")


def load(name: str, seed: int) -> programs.Model:
  """A model on the device: shipped weights for "tiny", else random ones."""
  cfg = config(name)
  if name == "tiny":
    params = jax.device_put(common.read_weights(cfg, ""))
    params = models.for_inference(params)
  else:
    params = random_params(cfg, dtype(name), jax.random.key(seed))
  return programs.Model(cfg, params, dtype(name))


def random_params(cfg: models.VLMConfig, kind: str, key: jax.Array) -> Any:
  """Random parameters in a dtype, as `models.for_inference` has them.

  Made array by array: `models.init` would need room for all of them in float32
  at first, and then for both forms.
  """
  shapes = jax.eval_shape(
    lambda key: models.for_inference(models.init(cfg, key)), key
  )
  leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
  made = []
  for index, (path, leaf) in enumerate(leaves):
    name = path[-1].key
    if name in ("scale", "bias"):
      value = jnp.full(leaf.shape, name == "scale", kind)
    else:
      inputs = leaf.shape[0] if name == "kernel" else 1
      value = _normal(jax.random.fold_in(key, index), leaf.shape, kind, inputs)
    made.append(value)
  return jax.tree_util.tree_unflatten(treedef, made)


@functools.partial(jax.jit, static_argnames=("shape", "kind", "inputs"))
def _normal(key, shape, kind, inputs):
  return jax.random.normal(key, shape, kind) * jnp.asarray(inputs**-0.5, kind)


def lacking_memory(name: str, batch: int, text_tokens: int, steps: int) -> str:
  """Says why a model does not fit the free memory; "" = it does.

  Args:
    name: of the model.
    batch: greatest number of samples at once.
    text_tokens: of the prompt.
    steps: tokens decoded behind it.
  """
  cfg, kind = config(name), dtype(name)
  shape = evaluator.model_shape(cfg)
  counts = (cfg.tokens,) * cfg.decoder.layers
  text = len(cfg.prefix) + text_tokens
  kernel = models.attention.choose(
    None, cfg.decoder.head_dim, kind, devices=jax.device_count()
  )
  parts = {
    "parameters": cost.parameter_bytes(shape, dtype=kind),
    # Of the dense model, the plan's and the one that only drops rows: what the
    # last call of each left may live until the next.
    "caches": 3
    * batch
    * cost.kv_cache_bytes(shape, counts, text + steps, dtype=kind),
    "activations": cost.activation_bytes(
      shape,
      counts,
      text,
      attention_map=kernel not in models.attention.FUSED,
      batch=batch,
      dtype=kind,
    ),
  }
  free = fits.room().free
  if free is None or sum(parts.values()) <= free:
    return ""
  listed = ", ".join(f"{k} {v / 2**30:.1f}" for k, v in parts.items())
  return (
    f"{name} in {kind} at batch {batch} needs"
    f" {sum(parts.values()) / 2**30:.1f} GiB ({listed}), {free / 2**30:.1f} GiB"
    f" of the {jax.devices()[0].device_kind} are free; use smaller batches or"
    " another model"
  )
