"""Model weights as safetensors: one flat table of path names."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from eos_jax import files
from eos_jax.models import checksums, loading
from eos_jax.models import config as config_lib

SEPARATOR = "."


def flatten(params: Any) -> dict[str, np.ndarray]:
  """Nested dict of arrays -> flat dict with dotted names."""
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  return {
    SEPARATOR.join(str(entry.key) for entry in path): np.asarray(leaf)
    for path, leaf in leaves
  }


def save(
  path: pathlib.Path,
  params: Any,
  cfg: config_lib.VLMConfig,
) -> None:
  """Writes parameters in float16, with their config, as one safetensors file.

  The same parameters give the same bytes.

  Args:
    path: file to write.
    params: the model's parameters.
    cfg: the model they belong to.

  Raises:
    files.NotFinite: a parameter is not finite in float16.
  """
  with np.errstate(over="ignore"):  # named below
    table = {k: v.astype(np.float16) for k, v in flatten(params).items()}
  if faults := list(_number_faults(table)):
    raise files.NotFinite(
      f"parameters cannot be written to {path} in float16:\n  "
      + "\n  ".join(faults)
    )
  # One entry only: safetensors writes several in an order that it draws.
  metadata = {"config": json.dumps(dataclasses.asdict(cfg))}
  with files.whole(path) as file:
    file.write(safetensors.numpy.save(table, metadata=metadata))


def load(
  path: pathlib.Path, like: Any, cfg: config_lib.VLMConfig | None = None
) -> Any:
  """Reads parameters into the structure and dtypes of `like`.

  Args:
    path: safetensors file written by `save`.
    like: tree of arrays or `jax.ShapeDtypeStruct`.
    cfg: the model that will use them; what has no shape, such as a rotary
      base, is compared with the config in the file.

  Returns:
    A tree of numpy arrays.

  Raises:
    ValueError: the file is unreadable, or names, shapes or the config differ;
      every difference is listed.
  """
  try:
    with safetensors.safe_open(str(path), framework="numpy") as file:
      metadata = file.metadata() or {}
    table = safetensors.numpy.load_file(str(path))
  # KeyError: a dtype that NumPy has not.
  except (OSError, KeyError, safetensors.SafetensorError) as error:
    raise ValueError(
      f"weights file {path} cannot be read ({error}); it is missing or"
      " truncated: reinstall the package or pass another file."
    ) from error
  leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
  wanted = {
    SEPARATOR.join(str(entry.key) for entry in path_): leaf
    for path_, leaf in leaves
  }
  faults = _config_faults(metadata, cfg)
  faults += [f"missing {name}" for name in wanted.keys() - table.keys()]
  faults += [f"unexpected {name}" for name in table.keys() - wanted.keys()]
  faults += [
    f"{name} has shape {table[name].shape}, expected {leaf.shape}"
    for name, leaf in wanted.items()
    if name in table and table[name].shape != leaf.shape
  ]
  faults += _number_faults(table)
  if faults:
    raise ValueError(
      f"weights file {path} does not fit the model config:\n  "
      + "\n  ".join(sorted(faults))
    )
  return jax.tree_util.tree_unflatten(
    treedef, [table[name].astype(leaf.dtype) for name, leaf in wanted.items()]
  )


def _number_faults(table):
  """Tensors that are no finite floating-point numbers."""
  for name, value in table.items():
    # NumPy knows the narrow types of ml_dtypes as neither.
    if not jnp.issubdtype(value.dtype, jnp.floating):
      yield (
        f"{name} has dtype {value.dtype.name}, expected a floating-point one"
      )
    elif bad := int(np.sum(~np.isfinite(value))):
      yield (
        f"{name} has {bad:,} of {value.size:,} numbers that are NaN or infinite"
      )


def _config_faults(metadata, cfg):
  """Fields of the config in a file that differ from those of a model."""
  if cfg is None or "config" not in metadata:
    return []  # a file by others: names and shapes have to do
  try:
    stored = json.loads(metadata["config"])
  except (ValueError, RecursionError) as error:
    return [f"its config is no JSON ({error})"]
  if not isinstance(stored, dict):
    return [f"its config is a {type(stored).__name__}, expected an object"]
  # A field that is younger than the file had its default before.
  theirs = _defaults() | files.flat(stored)
  ours = files.flat(files.plain(dataclasses.asdict(cfg)))
  return [
    f"config {name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
    for name in theirs.keys() | ours.keys()
    if theirs.get(name) != ours.get(name)
  ]


def _defaults():
  """Defaults of a config's fields, by dotted name."""
  kinds = {
    "": config_lib.VLMConfig,
    "vision": config_lib.VisionConfig,
    "decoder": config_lib.DecoderConfig,
  }
  found = {}
  for name, kind in kinds.items():
    values = {
      field.name: field.default
      for field in dataclasses.fields(kind)
      if field.default is not dataclasses.MISSING
    }
    found |= files.flat(files.plain(values), name)
  return found


def fingerprint(params: Any) -> str:
  """Returns a digest of names, shapes, dtypes and numbers of all parameters.

  Args:
    params: nested dict of arrays, which may be sharded over processes.
  """
  leaves = loading.flat(params)
  kinds = {n: [list(v.shape), v.dtype.name] for n, v in leaves.items()}
  return files.digest([kinds, checksums.sums(leaves, mixed=True)])
