"""Seeded damage to files and values, shared by the campaigns of bad input.

Every campaign draws from a `random.Random` whose seed it states, so that a
failure can be repeated.
"""

import copy
import random
from typing import Any

# JSON values that a reader may meet where it expects something else.
ODD_VALUES = (
  None,
  True,
  -1,
  0,
  10**30,
  0.5,
  float("nan"),
  float("inf"),
  "",
  "x" * 300,
  "../outside",
  "\0",
  "\ud83d",
  "\u2028",
  "NaN",
  [],
  [None],
  [[]],
  {},
  {"": None},
)


def damaged(data: bytes, draw: random.Random) -> tuple[str, bytes]:
  """Returns one random damage of a file's bytes, and its name."""
  kind = draw.choice(("cut", "flip", "zero", "insert", "empty", "swap"))
  at = draw.randrange(len(data)) if data else 0
  if kind == "empty" or not data:
    return "empty", b""
  if kind == "cut":
    return f"cut to {at} bytes", data[:at]
  if kind == "insert":
    more = draw.randbytes(draw.randint(1, 16))
    return f"{len(more)} bytes inserted at {at}", data[:at] + more + data[at:]
  changed = bytearray(data)
  if kind == "flip":
    bit = draw.randrange(8)
    changed[at] ^= 1 << bit
    return f"bit {bit} of byte {at} flipped", bytes(changed)
  if kind == "zero":
    end = min(len(data), at + draw.randint(1, 64))
    changed[at:end] = bytes(end - at)
    return f"bytes {at} to {end} set to 0", bytes(changed)
  return f"swapped at {at}", data[at:] + data[:at]


def edited(value: Any, draw: random.Random) -> tuple[str, Any]:
  """Returns a JSON value with one random entry replaced, removed or added."""
  value = copy.deepcopy(value)
  path, holder = "", value
  while True:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    key = draw.choice(list(keys)) if keys else None
    if key is None:
      return f"{path or 'all'} replaced", draw.choice(ODD_VALUES)
    inner = holder[key]
    path = f"{path}.{key}"
    if isinstance(inner, dict | list) and inner and draw.random() < 0.7:
      holder = inner
      continue
    kind = draw.choice(("replace", "replace", "replace", "remove", "add"))
    if kind == "remove":
      del holder[key]
    elif kind == "add" and isinstance(holder, dict):
      holder[f"{key}_"] = draw.choice(ODD_VALUES)
    else:
      holder[key] = copy.deepcopy(draw.choice(ODD_VALUES))
      path = f"{path} = {holder[key]!r}"[:80]
    return f"{path} ({kind})", value
