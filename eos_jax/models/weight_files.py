"""Which files hold the weights of a published checkpoint."""

import pathlib

from eos_jax.models import families
from eos_jax.models.families import fields as fields_lib

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def shortened(faults: list[str], most: int = 100) -> list[str]:
  """The first faults of a list, and how many others there are."""
  left = len(faults) - most
  return faults[:most] + ([f"and {left:,} more"] if left > 0 else [])


def paths(
  folder: pathlib.Path, *, allow_outside: bool = False
) -> list[pathlib.Path]:
  """The weight files of a folder: one, or those that its index names.

  Args:
    folder: of a checkpoint.
    allow_outside: whether files may lie outside the folder, where links or the
      index lead. The links of the Hugging Face cache, from its snapshots to its
      blobs, are always followed.

  Raises:
    ValueError: there are none, the index cannot be read, or it names files that
      are not opened; all of them are listed.
  """
  # transformers prefers the single file, too.
  single = (folder / SINGLE).exists()
  names = [SINGLE] if single else _indexed(folder)
  faults = [
    fault for name in names if (fault := _refused(folder, name, allow_outside))
  ]
  if faults:
    raise ValueError(
      f"weights in {folder} are not read:\n  " + "\n  ".join(shortened(faults))
    )
  return [folder / name for name in names]


def _refused(folder, name, allow_outside):
  """Why a weight file is not opened; "" = it is."""
  if not name or "\0" in name:
    return f"{name!r} in {INDEX} is no name of a file; fetch the index again"
  path = folder / name
  try:
    real, base = path.resolve(), folder.resolve()
    odd = real.exists() and not real.is_file()
  except (OSError, RuntimeError) as error:  # too long, or a loop of links
    reason = getattr(error, "strerror", None) or error
    return f"{fields_lib.quoted(name)} cannot be opened ({reason})"
  if not allow_outside and not any(
    real.is_relative_to(place) for place in (base, *_blobs(base))
  ):
    return (
      f"{name!r} is {real}, expected a file inside the folder; copy the file"
      " there, or set allow_outside=True (config.model.allow_outside)"
    )
  if odd:
    return f"{name!r} is {real}, which is no regular file; fetch it again"
  return ""


def _blobs(base):
  """Where the Hugging Face cache keeps the files of a snapshot."""
  if base.parent.name == "snapshots":
    yield base.parent.parent / "blobs"


def _indexed(folder):
  """Names of the files in an index of weights."""
  path = folder / INDEX
  try:
    entries = families.read_object(path)["weight_map"]
    names = sorted(set(entries.values()))
    if not all(isinstance(name, str) for name in names):
      raise TypeError("weight_map has values that are no names of files")
    return names
  except FileNotFoundError as error:
    others = sorted(p.name for p in folder.glob("*.bin"))
    remedy = "give the folder of a checkpoint"
    if others:
      remedy = (
        f"{', '.join(others)} can be converted with transformers:"
        " save_pretrained(..., safe_serialization=True)"
      )
    raise ValueError(
      f"{folder} has neither {SINGLE} nor {INDEX}; {remedy}"
    ) from error
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{path} cannot be read as an index of weights ({error!r}); fetch it"
      " again"
    ) from error
