"""What a compiled program does, read from its text: XLA's HLO.

The text is that of one device. XLA's own cost analysis counts the body of a
loop once; here loops are multiplied out.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import re

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
  r"(condition|body|calls|to_apply|true_computation|false_computation)="
  r"%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# They move nothing: names, views, and what their parts are counted for.
_FREE = frozenset(
  "parameter tuple get-tuple-element bitcast constant while conditional call"
  " after-all partition-id replica-id iota".split()
)
# They read parts of their first operand.
_PARTS = frozenset({"dynamic-slice", "gather", "slice"})


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What one device does in one run of a program.

  Attributes:
    moved: bytes to and from its main memory: inputs and results of all
      instructions, fused ones taken together.
    collectives: by kind the number of runs, and bytes of their results.
    unknown: loops whose length the text does not say; they count once.
  """

  moved: int
  collectives: Mapping[str, tuple[int, int]]
  unknown: int


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  result: str
  opcode: str
  line: str
  operands: tuple[str, ...]


def traffic(text: str) -> Traffic:
  """Reads a program; see `Traffic`.

  Args:
    text: as of `jax.stages.Compiled.as_text`.
  """
  computations, entry = _computations(text)
  moved, unknown = 0, 0
  found: dict[str, tuple[str, int, int]] = {}
  for name, runs, fused, lost in _executed(computations, entry):
    unknown += lost
    sizes = {each.name: each.result for each in computations[name]}
    for each in computations[name]:
      kind = each.opcode.removesuffix("-start")
      if kind in COLLECTIVES:
        # An asynchronous one stands in its start and its end.
        channel = re.search(r"channel_id=(\d+)", each.line)
        key = f"channel {channel[1]}" if channel else f"{name} {each.name}"
        size = _result_bytes(kind, each.result)
        before = found.get(key, (kind, 0, 0))
        found[key] = (kind, max(before[1], runs), max(before[2], size))
      if not fused and each.opcode not in _FREE:
        moved += runs * _moved(each, sizes, computations)
  collectives: dict[str, tuple[int, int]] = {}
  for kind, runs, size in found.values():
    count, total = collectives.get(kind, (0, 0))
    collectives[kind] = (count + runs, total + runs * size)
  return Traffic(moved, dict(sorted(collectives.items())), unknown)


def _moved(each, sizes, computations):
  """Bytes that an instruction reads and writes."""
  result = array_bytes(each.result)
  read = [array_bytes(sizes.get(name, "")) for name in each.operands]
  if each.opcode in _PARTS:  # reads as much of its input as it gives
    return 2 * result + sum(read[1:])
  if each.opcode == "dynamic-update-slice":  # in place
    return 2 * read[1]
  called = re.search(r"calls=%?([\w.\-]+)", each.line)
  if each.opcode != "fusion" or not called:
    return result + sum(read)
  inside = computations.get(called[1], ())
  numbers = {
    one.name: int(one.line.partition("parameter(")[2].partition(")")[0])
    for one in inside
    if one.opcode == "parameter"
  }
  for name, number in numbers.items():
    uses = [one for one in inside if name in one.operands]
    if uses and all(
      one.opcode in _PARTS and one.operands[0] == name for one in uses
    ):
      read[number] = min(
        read[number], sum(array_bytes(one.result) for one in uses)
      )
  written = {one.name: one.result for one in inside}
  for one in inside:
    if one.opcode == "dynamic-update-slice" and one.operands[0] in numbers:
      number = numbers[one.operands[0]]
      update = array_bytes(written[one.operands[1]])
      result += update - array_bytes(one.result)
      read[number] = min(read[number], update)
  return max(result, 0) + sum(read)


def array_bytes(shape: str) -> int:
  """Bytes in main memory of an array, or of a tuple of them.

  >>> array_bytes("(f32[2,3]{1,0}, bf16[4]{0:T(256)}, s8[9]{0:S(1)})")
  32
  """
  total = 0
  for kind, sizes, layout in _ARRAY.findall(shape):
    # Memory space 1 is the chip's own, and 2 its registers.
    if re.search(r"S\([1-9]", layout):
      continue
    total += _item_bits(kind) * math.prod(
      map(int, filter(None, sizes.split(",")))
    )
  return total // 8


def _item_bits(kind):
  if kind in _BITS:
    return _BITS[kind]
  number = re.search(r"\d+", kind)
  return int(number[0]) if number else 0


def _result_bytes(kind, shape):
  """Bytes that a collective brings, wherever they lie."""
  arrays = [
    _item_bits(item) * math.prod(map(int, filter(None, sizes.split(",")))) // 8
    for item, sizes, _ in _ARRAY.findall(shape)
  ]
  # One that starts has its operands in the result, and small ones for control.
  largest = max(arrays, default=0)
  return largest if kind != "all-to-all" else sum(arrays)


def _computations(text):
  """Instructions by computation, and the name of the entry."""
  found: dict[str, list[_Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    if head := _COMPUTATION.match(line):
      current = found.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif line.startswith("}"):
      current = None
    elif current is not None and (match := _INSTRUCTION.match(line)):
      current.append(_instruction(match[1], match[2], line))
  return found, entry


def _instruction(name, rest, line):
  result = _balanced(rest) if rest.startswith("(") else rest.split(" ", 1)[0]
  after = rest[len(result) :].lstrip()
  opcode, _, tail = after.partition("(")
  operands = tuple(re.findall(r"%([\w.\-]+)", _balanced("(" + tail)))
  return _Instruction(name, result, opcode, line, operands)


def _balanced(text):
  """The beginning up to where the first bracket closes."""
  depth = 0
  for place, letter in enumerate(text):
    depth += (letter == "(") - (letter == ")")
    if depth == 0:
      return text[: place + 1]
  return text


def _executed(computations, entry) -> Iterator[tuple[str, int, bool, int]]:
  """Computations that run: name, how often, whether fused, unknown loops."""
  waiting = [(entry, 1, False, 0)]
  while waiting:
    name, runs, fused, lost = waiting.pop()
    yield name, runs, fused, lost
    for each in computations.get(name, ()):
      parts = dict(_CALLED.findall(each.line))
      if each.opcode == "while":
        times = _times(computations, parts["condition"])
        waiting.append((parts["body"], runs * (times or 1), fused, not times))
        continue
      inside = [
        parts[key]
        for key in ("calls", "true_computation", "false_computation")
        if key in parts
      ]
      if each.opcode == "call":
        inside.append(parts["to_apply"])
      if branches := _BRANCHES.search(each.line):
        inside += re.findall(r"[\w.\-]+", branches[1])
      within = fused or each.opcode == "fusion"
      waiting += [(part, runs, within, 0) for part in inside]


def _times(computations, condition):
  """How often a loop runs, where it counts to a constant; else 0."""
  whole = [
    int(number)
    for each in computations.get(condition, ())
    if each.opcode == "constant" and each.result.startswith("s32[]")
    for number in re.findall(r"constant\((\d+)\)", each.line)
  ]
  return whole[0] if len(whole) == 1 else 0
