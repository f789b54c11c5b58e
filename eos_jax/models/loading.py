"""Reading published checkpoints: safetensors, tensor after tensor.

A tensor is read, converted, and written into the parameter on the devices that
it belongs to before the next one is read. The host never holds more than the
mapped pages of one file and two copies of one tensor.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import itertools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, Sharding
import numpy as np
import safetensors

from eos_jax.array_typing import Array
from eos_jax.models import config as config_lib
from eos_jax.models import families, vlm, weight_files

# Numbers that are checked at once, few compared with a large tensor.
_CHUNK = 2**24

# Names in the header of a safetensors file, and bytes of a number.
_READABLE = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor in a file.

  Attributes:
    name: as in the file.
    file: where it is.
    shape: its shape.
    dtype: by its name in the file, such as "F16".
  """

  name: str
  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: str

  @property
  def size(self) -> int:
    """Bytes of it in the file; its dtype is one that can be read."""
    return math.prod(self.shape) * _READABLE[self.dtype]


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a tensor goes.

  Attributes:
    path: dotted path of the parameter.
    layer: entry of its layer axis; None = it is the whole parameter.
    weight: what the table says of the parameter.
  """

  path: str
  layer: int | None
  weight: families.Weight


@functools.lru_cache(maxsize=8)
def shapes(cfg: config_lib.VLMConfig) -> Any:
  """The parameters of a model as a tree of `jax.ShapeDtypeStruct`."""
  return jax.eval_shape(functools.partial(vlm.init, cfg), jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class Contents:
  """What a folder holds, by its config and the headers of its files.

  Attributes:
    description: what the config says.
    tensors: that are read, in the order of the files.
    places: where each goes, by its name.
  """

  description: families.Description
  tensors: tuple[Tensor, ...]
  places: dict[str, list[Place]]


def inspect(
  folder: str | pathlib.Path, *, allow_outside: bool = False
) -> Contents:
  """Compares the headers of a folder's files with its config.

  Args:
    folder: in Hugging Face's layout, as for `load`.
    allow_outside: whether weights may lie outside the folder, as for `load`.

  Raises:
    ValueError: the config or a file cannot be read, or tensors are missing,
      unexpected or misshapen; all of them are listed.
  """
  folder = pathlib.Path(folder)
  description = families.read(folder)
  found = tensors(folder, allow_outside=allow_outside)
  description = _with_stored_head(description, found)
  places, faults = match(description.table, shapes(description.cfg), found)
  if faults:
    remedy = "use files of one checkpoint"
    if any("mm_projector" in tensor.name for tensor in found):
      remedy = (
        "mm_projector belongs to the layout of the original LLaVA"
        f" repositories: {families.CONVERT}"
      )
    raise ValueError(
      f"the weights in {folder} do not fit its config.json; {remedy}:\n  "
      + "\n  ".join(weight_files.shortened(faults))
    )
  read = tuple(tensor for tensor in found if tensor.name in places)
  return Contents(description, read, places)


def load(
  folder: str | pathlib.Path,
  *,
  dtype: Any = None,
  shardings: Callable[[Any], Any] | None = None,
  watch: Callable[[int, int], None] | None = None,
  allow_outside: bool = False,
) -> tuple[families.Description, Any]:
  """Reads a model from a folder in Hugging Face's layout.

  All headers are read and compared with the model before any weight is.

  Args:
    folder: has config.json, and model.safetensors or its shards and their
      index.
    dtype: of all parameters; None = the one that the config names. Values are
      rounded to it one by one.
    shardings: makes a tree of `jax.sharding.Sharding` from the tree of shapes,
      for example `functools.partial(partition.param_shardings, mesh)`; None =
      everything goes to the default device.
    watch: called with the bytes read so far and those of all tensors, after
      each of them.
    allow_outside: whether weights may lie outside the folder: an index of
      weights, or links in the folder, can name any file. The links of the
      Hugging Face cache, from its snapshots to its blobs, are always followed.

  Returns:
    What the config and the files say, and the parameters as `models.init`
    makes them, as `jax.Array`s.

  Raises:
    ValueError: as by `inspect`, or a weight is NaN or infinite, in the file or
      after its conversion to `dtype`.
  """
  contents = inspect(folder, allow_outside=allow_outside)
  description = contents.description
  if dtype is None:
    dtype = stored_dtype(description)
  like = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
    shapes(description.cfg),
  )
  wanted = _Tree(like, shardings)
  total, done = sum(tensor.size for tensor in contents.tensors), 0
  for tensor, value in _values(contents.tensors):
    for place in contents.places[tensor.name]:
      wanted.put(place, place.weight.ours(value), tensor)
    del value  # before the next one is read
    done += tensor.size
    if watch is not None:
      watch(done, total)
  return description, wanted.tree()


def passing(contents: Contents, dtype: Any) -> int:
  """Bytes of the host that `load` needs in addition to parameters, at most.

  Those of a tensor as it is read, as it is converted, and on its way to the
  devices. Pages of files come on top; they are the system's to take back.
  """
  made = 2 * jnp.dtype(dtype).itemsize
  return max(
    tensor.size + made * math.prod(tensor.shape) for tensor in contents.tensors
  )


def stored_dtype(description: families.Description) -> np.dtype:
  """The dtype that a config names, or the nearest one that JAX has now."""
  return jax.dtypes.canonicalize_dtype(description.dtype)


def match(
  table: families.Table, like: Any, found: list[Tensor]
) -> tuple[dict[str, list[Place]], list[str]]:
  """Finds the places of each tensor, which may hold several parameters.

  Args:
    table: the weights of the family.
    like: tree of the parameters' shapes.
    found: what there is.

  Returns:
    The places by the tensors' names, tensors that are left out having none;
    and a line for each fault.
  """
  leaves, places, faults = flat(like), {}, []
  named = {weight.path for weight in table.weights}
  if named != leaves.keys():
    raise ValueError(
      "the table of weights and the model differ in"
      f" {', '.join(sorted(named ^ leaves.keys()))}; mend the family's table"
    )
  wanted: dict[str, list[Place]] = {}
  for weight in table.weights:
    for layer, name in enumerate(weight.names(leaves[weight.path].shape)):
      place = Place(weight.path, layer if weight.stacked else None, weight)
      wanted.setdefault(name, []).append(place)
  taken: dict[str, Tensor] = {}
  for tensor in found:
    name = table.canonical(tensor.name)
    if name in taken:
      faults.append(
        f"{tensor.name} in {tensor.file.name} is there a second time, as"
        f" {taken[name].name} in {taken[name].file.name}"
      )
    elif name in wanted:
      taken[name] = tensor
      places[tensor.name] = wanted[name]
      first = wanted[name][0]
      faults += _misfits(tensor, first.weight.stored(leaves[first.path].shape))
    elif not table.why_left_out(name):
      faults.append(f"unexpected {tensor.name} in {tensor.file.name}")
  faults += [
    f"missing {name}, of which {' and '.join(p.path for p in made)}"
    f" {'is' if len(made) == 1 else 'are'} made"
    for name, made in wanted.items()
    if name not in taken
  ]
  return places, sorted(faults)


def _misfits(tensor, shape):
  """Faults of a tensor that should have a shape and be in floating point."""
  where = f"{tensor.name} in {tensor.file.name}"
  if tensor.shape != shape:
    yield f"{where} has shape {tensor.shape}, expected {shape}"
  if tensor.dtype not in _READABLE:
    yield (
      f"{where} has dtype {tensor.dtype}, expected one of"
      f" {', '.join(_READABLE)}"
    )


def check_finite(value: np.ndarray, where: str, stored: str) -> None:
  """Refuses weights that are NaN or infinite.

  Args:
    value: weights, in the dtype that they will have.
    where: name of the tensor, and its file.
    stored: dtype in the file.

  Raises:
    ValueError: some are; the message says how many.
  """
  rows = value.reshape(-1)
  bad = 0
  for start in range(0, rows.size, _CHUNK):
    bad += np.sum(~np.isfinite(rows[start : start + _CHUNK]))
  if bad:
    raise ValueError(
      f"{where} has {bad:,} of {rows.size:,} numbers that are NaN or infinite"
      f" in {value.dtype.name} (stored as {stored}), expected none; fetch the"
      " file again, use another checkpoint, or another dtype if it is too"
      " narrow"
    )


def _with_stored_head(description, found):
  """A tied model whose file says otherwise, read as transformers does.

  A head in the file that differs from the embedding is read. Where the file
  holds one of the two only, it serves as both.
  """
  if not description.cfg.decoder.tied:
    return description
  table = description.table
  named = {table.canonical(tensor.name): tensor for tensor in found}
  head, embedding = named.get(table.head), named.get(table.embedding)
  if head is None:
    return description
  if embedding is None:
    return description.with_head_as_embedding()
  if _equal(head, embedding):
    return description
  print(
    f"warning: config.json says that {table.head} is {table.embedding}, but the"
    " file has another one, which is used",
    flush=True,
  )
  return description.with_own_head()


def _equal(one, other):
  """Whether two tensors have the same shape and values."""
  if one.shape != other.shape or not {one.dtype, other.dtype} <= set(_READABLE):
    return False
  rows, step = one.shape[0] if one.shape else 0, math.prod(one.shape[1:])
  with _opened(one.file) as first, _opened(other.file) as second:
    first = first.get_slice(one.name)
    second = second.get_slice(other.name)
    return all(
      np.array_equal(first[start:stop], second[start:stop])
      for start, stop in _slices(rows, max(1, _CHUNK // max(1, step)))
    )


def _slices(rows, step):
  """Ends of slices of at most `step` rows."""
  for start in range(0, rows, step):
    yield start, min(start + step, rows)


def _opened(path):
  return safetensors.safe_open(str(path), framework="numpy")


def tensors(
  folder: pathlib.Path, *, allow_outside: bool = False
) -> list[Tensor]:
  """All tensors of a folder, in the order of its files, from their headers.

  Args:
    folder: as for `load`.
    allow_outside: likewise.

  Raises:
    ValueError: there are no weights, the index cannot be read, or files are
      missing, truncated or outside the folder; all of them are named.
  """
  found, faults = [], []
  for path in weight_files.paths(folder, allow_outside=allow_outside):
    try:
      with _opened(path) as file:
        for name in file.keys():
          part = file.get_slice(name)
          found.append(
            Tensor(name, path, tuple(part.get_shape()), part.get_dtype())
          )
    except FileNotFoundError:
      faults.append(f"{path.name} is missing")
    except (OSError, safetensors.SafetensorError) as error:
      faults.append(f"{path.name} is truncated or damaged ({error})")
  if faults:
    raise ValueError(
      f"weights in {folder} cannot be read; fetch these files again:\n  "
      + "\n  ".join(weight_files.shortened(faults))
    )
  return found


def flat(tree) -> dict[str, Any]:
  """Leaves by dotted path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    ".".join(str(entry.key) for entry in path): leaf for path, leaf in leaves
  }


class _Tree:
  """Parameters that are being filled.

  A stacked parameter is allocated on its devices when its first layer comes;
  layers are written into it in place.
  """

  def __init__(self, like, shardings):
    if shardings is None:
      device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
      places = jax.tree.map(lambda _: device, like)
    else:
      places = shardings(like)
    self._like, self._treedef = flat(like), jax.tree.structure(like)
    self._shardings, self._arrays = flat(places), {}
    # One program for each shape and sharding, whatever the layer.
    self._write = functools.cache(_writer)

  def put(self, place: Place, value: np.ndarray, tensor: Tensor) -> None:
    """Writes the value of a tensor, in the model's form, to its place."""
    path, sharding = place.path, self._shardings[place.path]
    with np.errstate(over="ignore"):  # what overflows is refused below
      value = value.astype(self._like[path].dtype, order="C")  # one pass
    check_finite(value, f"{tensor.name} in {tensor.file}", tensor.dtype)
    if place.layer is None:
      array = _on_devices(value, sharding)
    else:
      array = self._arrays.get(path)
      if array is None:
        like = self._like[path]
        array = jnp.zeros(like.shape, like.dtype, device=sharding)
      part = _on_devices(value, _of_layer(sharding))
      array = self._write(sharding)(array, part, place.layer)
    # Copies on the way to a device would pile up on the host.
    self._arrays[path] = jax.block_until_ready(array)

  def tree(self) -> Any:
    """The parameters; every one has been put."""
    return self._treedef.unflatten(self._arrays[path] for path in self._like)


def _values(found) -> Iterator[tuple[Tensor, np.ndarray]]:
  """Tensors with their values; one file is open at a time."""
  for path, inside in itertools.groupby(found, lambda tensor: tensor.file):
    with _opened(path) as file:
      for tensor in inside:
        yield tensor, file.get_tensor(tensor.name)


def _on_devices(value: np.ndarray, sharding: Sharding) -> Array:
  """An array of which each process places its own part."""
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


def _of_layer(sharding: Sharding) -> Sharding:
  """The sharding of one layer of a stack."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


def _write(stack: Array, part: Array, layer: Array) -> Array:
  return jax.lax.dynamic_update_index_in_dim(stack, part, layer, axis=0)


def _writer(sharding: Sharding) -> Callable[[Array, Array, int], Array]:
  """Writes one layer into a stack, whose memory the result takes over."""
  return jax.jit(_write, donate_argnums=0, out_shardings=sharding)
