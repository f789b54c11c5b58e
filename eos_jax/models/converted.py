"""Converted checkpoints: a published model's parameters in Orbax's format.

A folder has `parameters/`, the config and the tokenizer's files of the source
as they were, and `converted.json`, which says what is in the others. It is
written last: a folder without it was not finished. Parameters can be restored
on other devices than those that they were written from.
"""

from collections.abc import Callable
import hashlib
import math
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from eos_jax import files, processes
from eos_jax.models import checksums, families, finite, loading

MARK, PARAMETERS = "converted.json", "parameters"
_FORMAT = "eos_jax.Converted/1"
_FIELDS = ("family", "model", "dtype", "parameters", "sizes", "digests")

# What a published model's folder has in addition to its weights.
_BESIDE = (
  "config.json",
  "generation_config.json",
  "preprocessor_config.json",
  "processor_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
)

# Of a piece that is written and read at once. Whoever restores a part of an
# array reads the pieces that it lies in.
_PIECE = 64 * 2**20

_REMEDY = "convert it again into a new --workdir, or put intact files back"


def finished(folder: pathlib.Path) -> bool:
  """Whether a folder holds a conversion that came to its end."""
  return (folder / MARK).exists()


def save(folder: pathlib.Path, source: pathlib.Path, params: Any) -> None:
  """Writes parameters, with the config of their model.

  What an earlier conversion left in the folder is replaced. All processes
  call it together.

  Args:
    folder: to write to.
    source: folder of the published checkpoint.
    params: its parameters, all of one dtype, wherever they are.
  """
  if processes.first():
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    for name in _BESIDE:
      if (source / name).exists():
        with files.whole(folder / name) as file:
          file.write((source / name).read_bytes())
  processes.meet(f"begun {folder.name}")
  description = families.read(folder)
  largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
  with _checkpointer(largest) as writer:
    writer.save(
      folder / PARAMETERS,
      args=ocp.args.PyTreeSave(
        params,
        jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_PIECE), params),
      ),
    )
  leaves, found = loading.flat(params), sums(params)
  mark = {
    "format": _FORMAT,
    "family": description.family,
    "model": description.cfg.name,
    "dtype": next(iter(leaves.values())).dtype.name,
    "parameters": {
      name: {"shape": leaf.shape, "sum": found[name]}
      for name, leaf in leaves.items()
    },
    "sizes": _sizes(folder),
    "digests": _digests(folder),
  }
  if processes.first():
    files.write_json(folder / MARK, mark)
  processes.meet(f"converted {folder.name}")


def check(folder: pathlib.Path) -> tuple[families.Description, dict[str, Any]]:
  """Reads all of a conversion but its parameters.

  Returns:
    What the config says, and what `converted.json` does.

  Raises:
    files.CheckpointError: it was not finished, files are missing, cut
      short or changed, or they are of another model; all faults are listed.
  """
  mark = _mark(folder)
  faults = _faults(mark["digests"], _digests(folder), "has other contents")
  faults += _faults(mark["sizes"], _sizes(folder), "has another size")
  if not faults:
    try:
      description = families.read(folder)
    except ValueError as error:
      raise files.CheckpointError(str(error)) from error
    head = f"{families.HEAD}.kernel"
    if description.cfg.decoder.tied and head in mark["parameters"]:
      description = description.with_own_head()
    here = _shapes(loading.shapes(description.cfg))
    there = {n: tuple(v["shape"]) for n, v in mark["parameters"].items()}
    faults = [
      f"{name} has shape {there.get(name)}, the model wants {here.get(name)}"
      for name in sorted(there.keys() | here.keys())
      if there.get(name) != here.get(name)
    ]
  if faults:
    raise files.CheckpointError(
      f"{folder} is not as it was when {mark['model']} was converted;"
      f" {_REMEDY}:\n  " + "\n  ".join(faults)
    )
  return description, mark


def restore(
  folder: str | pathlib.Path,
  *,
  shardings: Callable[[Any], Any] | None = None,
) -> tuple[families.Description, Any]:
  """Reads what `save` wrote; the published checkpoint is not needed.

  Args:
    folder: that was written.
    shardings: makes a tree of `jax.sharding.Sharding` from the tree of shapes,
      for example `functools.partial(partition.param_shardings, mesh)`; None =
      everything goes to the default device.

  Returns:
    What the config says, and the parameters in the dtype that they were
    written in.

  Raises:
    files.CheckpointError: as by `check`, or parameters cannot be read or
      are not those that were written.
  """
  folder = pathlib.Path(folder).absolute()
  description, mark = check(folder)
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, mark["dtype"]),
    loading.shapes(description.cfg),
  )
  if shardings is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = jax.tree.map(lambda _: device, shapes)
  else:
    places = shardings(shapes)
  like = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    shapes,
    places,
  )
  params = _read(folder / PARAMETERS, like)
  damaged = [
    name
    for name, sum_ in sums(params).items()
    if sum_ != mark["parameters"][name]["sum"]
  ]
  if damaged:
    raise files.CheckpointError(
      f"{folder / PARAMETERS} is damaged; {_REMEDY}. Other numbers than were"
      f" written are in {', '.join(damaged)}"
    )
  if unusable := finite.names(params):
    raise files.CheckpointError(
      f"{folder / PARAMETERS} has numbers that are NaN or infinite in"
      f" {', '.join(unusable)}, expected none; {_REMEDY}"
    )
  return description, params


def _read(path, like):
  largest = max(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(like)
  )
  try:
    with _checkpointer(largest) as reader:
      return reader.restore(
        path,
        args=ocp.args.PyTreeRestore(
          item=like,
          restore_args=ocp.checkpoint_utils.construct_restore_args(like),
        ),
      )
  # Whatever a damaged file makes Orbax or tensorstore raise.
  except Exception as error:
    reason = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    raise files.CheckpointError(
      f"{path} cannot be read ({reason}); {_REMEDY}"
    ) from error


def _checkpointer(largest):
  """Orbax with few copies under way; `largest` bytes must be among them."""
  limit = -(-largest // 10**9)
  return ocp.Checkpointer(
    ocp.PyTreeCheckpointHandler(
      save_concurrent_gb=limit,
      save_device_host_concurrent_gb=limit,
      restore_concurrent_gb=limit,
    )
  )


def sums(params: Any) -> dict[str, int]:
  """Checksum of each parameter, by dotted path; see `checksums.sums`."""
  return checksums.sums(loading.flat(params))


def _clear(folder):
  """Removes what a conversion that was stopped left, its mark first."""
  (folder / MARK).unlink(missing_ok=True)
  # Orbax writes to a folder of a longer name, which it renames in the end.
  for path in folder.glob(f"{PARAMETERS}*"):
    shutil.rmtree(path)


def _mark(folder):
  try:
    mark = files.read_json(folder / MARK)
    if mark["format"] != _FORMAT:
      raise ValueError(f"its format is {mark['format']!r}, not {_FORMAT!r}")
    return {name: mark[name] for name in _FIELDS}
  except FileNotFoundError as error:
    raise files.CheckpointError(
      f"{folder} holds no finished conversion: it has no {MARK}; run"
      " --config=configs/convert.py with this --workdir to its end"
    ) from error
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise files.CheckpointError(
      f"{folder / MARK} cannot be read ({error!r}); {_REMEDY}"
    ) from error


def _sizes(folder):
  """Bytes of all files of the parameters."""
  return {
    str(path.relative_to(folder)): path.stat().st_size
    for path in sorted((folder / PARAMETERS).rglob("*"))
    if path.is_file()
  }


def _digests(folder):
  """SHA-256 of the files next to the parameters."""
  return {
    name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
    for name in _BESIDE
    if (folder / name).exists()
  }


def _faults(before, now, changed):
  """How a folder differs from what it was: a line for each file."""
  return [
    f"{name} {'is missing' if name not in now else changed}"
    for name, value in before.items()
    if now.get(name) != value
  ]


def _shapes(tree):
  return {name: leaf.shape for name, leaf in loading.flat(tree).items()}
