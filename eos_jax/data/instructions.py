r"""Instructions in LLaVA's JSON format, and which of them serve what purpose.

A file is a list of entries

    {"id": "17", "image": "street.jpg", "conversations": [
      {"from": "human", "value": "<image>\nHow many cars are there?"},
      {"from": "gpt", "value": "Two."}]}

with the pictures in the same folder; "image" may be a list of names. A
conversation may have any number of turns, all of them after the pictures.
Entries without a picture are left out and counted: there is nothing in them to
reduce. Ids need not differ: those of the published mixes do not.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
import pathlib
from typing import Any

from eos_jax import naming
from eos_jax.data import faults as faults_lib
from eos_jax.data import image_folder, items

PLACEHOLDER = "<image>"
_SPEAKERS = ("human", "gpt")
_SHAPE = (
  'a list of {"id", "image", "conversations": [{"from": "human", "value":'
  ' ...}, {"from": "gpt", "value": ...}]}'
)


@dataclasses.dataclass(frozen=True)
class Instructions:
  """What a file holds.

  Attributes:
    parts: the instructions that serve each purpose, in the file's order.
    without_picture: entries that were left out.
    faults: entries that were skipped.
  """

  parts: Mapping[str, tuple[items.Item, ...]]
  without_picture: int
  faults: tuple[faults_lib.Fault, ...] = ()


def load(
  path: pathlib.Path | str,
  images: pathlib.Path | str,
  shares: Mapping[str, float],
  *,
  skip_invalid: bool = False,
  images_anywhere: bool = False,
) -> Instructions:
  """Reads a file of instructions and deals them out.

  The name of an entry's first picture alone decides where it goes: adding
  entries moves none of the others, and two entries that begin with one picture
  never serve two purposes. Later pictures of an entry may occur elsewhere.

  Args:
    path: the JSON file.
    images: the folder that pictures are named in.
    shares: of each purpose, above 0, together 1.
    skip_invalid: skip entries that cannot be used instead of refusing the file.
    images_anywhere: whether names of images may lead out of their folder.

  Raises:
    ValueError: the file cannot be read, has entries that cannot be used, which
      are listed, shares are impossible, or a purpose got no entry.
  """
  bounds = _bounds(shares)
  path, images = pathlib.Path(path), pathlib.Path(images)
  entries = _entries(path)
  if not images.is_dir():
    raise ValueError(
      f"{images} is not a folder; expected the one with the pictures that"
      f" {path} names"
    )
  folder = image_folder.ImageFolder(images, anywhere=images_anywhere)
  parts: dict[str, list[items.Item]] = {name: [] for name in shares}
  without, faults = 0, []
  for place, entry in enumerate(entries, 1):
    try:
      names = _pictures(entry)
      if not names:
        without += 1
        continue
      item = _instruction(entry, names, folder, str(place))
    except faults_lib.RowError as error:
      faults.append(faults_lib.Fault(path.name, place, str(error)))
      continue
    item = dataclasses.replace(item, file=path.name, row=place)
    parts[_part(names[0], bounds)].append(item)
  if faults and not skip_invalid:
    raise ValueError(f"{path}: {faults_lib.listed(faults)}")
  for name, listed in parts.items():
    if not listed:
      raise ValueError(
        f"{path}: no entry falls to {name!r}, whose share is {shares[name]:g}"
        f" of {sum(map(len, parts.values()))} entries with pictures; give more"
        " entries, or that part a larger share"
      )
  return Instructions(
    {name: tuple(listed) for name, listed in parts.items()},
    without,
    tuple(faults),
  )


def _bounds(shares):
  """(purpose, upper bound of its fractions), rising to 1."""
  if (
    not shares
    or min(shares.values()) <= 0
    or not math.isclose(sum(shares.values()), 1.0)
  ):
    given = ", ".join(f"{name} {share:g}" for name, share in shares.items())
    raise ValueError(
      f"shares are {given or 'empty'}; expected numbers above 0 that sum to 1"
    )
  total, bounds = 0.0, []
  for name, share in shares.items():
    total += share
    bounds.append((name, total))
  return bounds


def _part(picture, bounds):
  """The purpose of an entry, by its picture's name."""
  digest = hashlib.sha256(picture.encode()).digest()[:8]
  fraction = int.from_bytes(digest, "big") / 2**64
  # Sums of shares may fall short of 1 by rounding.
  inside = (name for name, bound in bounds if fraction < bound)
  return next(inside, bounds[-1][0])


def _entries(path) -> list[Any]:
  """The list in a file."""
  try:
    if path.exists() and not path.is_file():
      raise ValueError(f"{path} is not a regular file; give {_SHAPE}")
    data = path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"{path} cannot be read ({error.strerror}); give {_SHAPE}"
    ) from error
  try:
    entries = json.loads(data.decode("utf-8-sig"))
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise ValueError(
      f"{path}, line {line}: byte {error.start + 1} of the file is not UTF-8;"
      " expected UTF-8; convert the file"
    ) from error
  except RecursionError as error:
    raise ValueError(
      f"{path} nests its values too deeply; give {_SHAPE}"
    ) from error
  except ValueError as error:
    raise ValueError(f"{path} is no JSON ({error}); give {_SHAPE}") from error
  if not isinstance(entries, list) or not entries:
    kind = "an empty list" if entries == [] else type(entries).__name__
    raise ValueError(f"{path} holds {kind}; expected {_SHAPE}")
  return entries


def _pictures(entry) -> list[str]:
  """Names of an entry's pictures."""
  if not isinstance(entry, dict):
    raise faults_lib.RowError(
      f"it is {type(entry).__name__}; expected an object as in {_SHAPE}"
    )
  given = {}
  for field in ("image", "images"):
    names = entry.get(field)
    if names is None or names == []:
      continue
    given[field] = [names] if isinstance(names, str) else names
    if not isinstance(given[field], list) or not all(
      isinstance(name, str) and name for name in given[field]
    ):
      raise faults_lib.RowError(
        f"{field} is {naming.quoted(names)}; expected a file name or a list"
        " of them"
      )
  first, *others = given.values() or [[]]
  if others and others[0] != first:
    raise faults_lib.RowError(
      f"image is {naming.quoted(first)} and images is"
      f" {naming.quoted(others[0])}; expected one of them"
    )
  return first


def _instruction(entry, names, folder, place):
  """The turns of a checked entry."""
  (question, answer), *later = _turns(entry.get("conversations"))
  marks = question.count(PLACEHOLDER)
  if marks not in (0, len(names)):
    raise faults_lib.RowError(
      f"the question has {marks} {PLACEHOLDER} for {len(names)} pictures;"
      " expected one a picture, or none"
    )
  question = question.replace(PLACEHOLDER, "").strip()
  for name, text in (
    ("the question", question),
    ("the answer", answer),
    *(("a later question", asked) for asked, _ in later),
    *(("a later answer", told) for _, told in later),
  ):
    if not text:
      raise faults_lib.RowError(f"{name} is empty; expected a text")
    faults_lib.check_unicode(name, text)
  if any(PLACEHOLDER in text for pair in later for text in pair):
    raise faults_lib.RowError(
      f"a later turn has {PLACEHOLDER}; expected all pictures in the first"
    )
  name = entry.get("id")
  name = place if name is None else str(name)
  files = tuple(folder.path(name) for name in names)
  return items.Item(name, question, answer, files, tuple(later))


def _turns(turns) -> list[tuple[str, str]]:
  """Questions and answers of a conversation, stripped."""
  wanted = (
    'conversations must be turns of {"from": "human", "value": text} and'
    ' {"from": "gpt", "value": text} by turns'
  )
  if not isinstance(turns, list):
    raise faults_lib.RowError(f"{wanted}; got {type(turns).__name__}")
  # What precedes the first question goes, as in LLaVA's trainer.
  if turns and isinstance(turns[0], dict) and turns[0].get("from") == "gpt":
    turns = turns[1:]
  if len(turns) < 2 or len(turns) % 2:
    raise faults_lib.RowError(
      f"{wanted}; got {len(turns)} from the first question on, and every"
      " question needs an answer"
    )
  texts = []
  for number, turn in enumerate(turns):
    speaker = _SPEAKERS[number % 2]
    if (
      not isinstance(turn, dict)
      or turn.get("from") != speaker
      or not isinstance(turn.get("value"), str)
    ):
      raise faults_lib.RowError(
        f"{wanted}; the turn of {speaker!r} is {naming.quoted(turn)}"
      )
    texts.append(turn["value"].strip())
  return list(zip(texts[::2], texts[1::2], strict=True))
