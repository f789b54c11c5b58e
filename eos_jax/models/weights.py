"""Model weights as safetensors: one flat table of path names."""

import hashlib
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

SEPARATOR = "."


def flatten(params: Any) -> dict[str, np.ndarray]:
  """Nested dict of arrays -> flat dict with dotted names."""
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  return {
    SEPARATOR.join(str(entry.key) for entry in path): np.asarray(leaf)
    for path, leaf in leaves
  }


def save(path: pathlib.Path, params: Any, metadata: dict[str, str]) -> None:
  """Writes parameters in float16, with metadata, as one safetensors file."""
  table = {k: v.astype(np.float16) for k, v in flatten(params).items()}
  safetensors.numpy.save_file(table, str(path), metadata=metadata)


def load(path: pathlib.Path, like: Any) -> Any:
  """Reads parameters into the structure and dtypes of `like`.

  Args:
    path: safetensors file written by `save`.
    like: tree of arrays or `jax.ShapeDtypeStruct`.

  Returns:
    A tree of numpy arrays.

  Raises:
    ValueError: the file is unreadable, or names or shapes differ; every
      difference is listed.
  """
  try:
    table = safetensors.numpy.load_file(str(path))
  except (OSError, safetensors.SafetensorError) as error:
    raise ValueError(
      f"weights file {path} cannot be read ({error}); it is missing or"
      " truncated: reinstall the package or pass another file."
    ) from error
  leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
  wanted = {
    SEPARATOR.join(str(entry.key) for entry in path_): leaf
    for path_, leaf in leaves
  }
  faults = [f"missing {name}" for name in wanted.keys() - table.keys()]
  faults += [f"unexpected {name}" for name in table.keys() - wanted.keys()]
  faults += [
    f"{name} has shape {table[name].shape}, expected {leaf.shape}"
    for name, leaf in wanted.items()
    if name in table and table[name].shape != leaf.shape
  ]
  if faults:
    raise ValueError(
      f"weights file {path} does not fit the model config:\n  "
      + "\n  ".join(sorted(faults))
    )
  return jax.tree_util.tree_unflatten(
    treedef, [table[name].astype(leaf.dtype) for name, leaf in wanted.items()]
  )


def fingerprint(params: Any) -> str:
  """SHA-256 over names, shapes and bytes of all parameters."""
  digest = hashlib.sha256()
  for name, value in sorted(flatten(params).items()):
    digest.update(f"{name}{value.shape}{value.dtype}".encode())
    digest.update(np.ascontiguousarray(value).tobytes())
  return digest.hexdigest()
