"""Presets by name: their operators, and what their publications say."""

import dataclasses
from typing import Any

from eos_jax import naming
from eos_jax.ops import needs, types


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where an operator acts in the model of its publication.

  Attributes:
    site: "vision" or "decoder".
    layers: the encoder blocks in which, or decoder layers before which, it
      acts.
    depth: number of layers of that model.
    schedule: share of all tokens that stays at each of `layers`, where there
      are several; () = the publication does not fix it.
  """

  site: str = "decoder"
  layers: tuple[int, ...] = (0,)
  depth: int = 32
  schedule: tuple[float, ...] = ()

  def __post_init__(self):
    faults = []
    if self.site not in ("vision", "decoder"):
      faults.append(f"site is {self.site!r}, use 'vision' or 'decoder'")
    if not self.layers or not all(0 <= n < self.depth for n in self.layers):
      faults.append(
        f"layers is {self.layers} with depth={self.depth}, give at least one"
        f" layer in 0..{self.depth - 1}"
      )
    if self.schedule and len(self.schedule) != len(self.layers):
      faults.append(
        f"schedule has {len(self.schedule)} shares for {len(self.layers)}"
        " layers, give one for each"
      )
    if not all(0 < share <= 1 for share in self.schedule):
      faults.append(f"schedule is {self.schedule}, use shares in (0, 1]")
    if faults:
      raise ValueError("Placement is not valid: " + "; ".join(faults))


@dataclasses.dataclass(frozen=True)
class Preset:
  """An operator with a name, and where it comes from.

  Attributes:
    spec: the operator, with the numbers of its publication.
    doc: what it does, and where the paper and the code of its authors differ.
    title: what its authors call it.
    paper: arXiv identifier.
    repository: GitHub repository of the code that it follows, "owner/name".
    placement: where it acts in the model of its publication.
    left_out: fault of the repository's code that the operator does not have.
  """

  spec: types.OperatorSpec
  doc: str = ""
  title: str = ""
  paper: str = ""
  repository: str = ""
  placement: Placement = Placement()
  left_out: str = ""


PRESETS: dict[str, types.OperatorSpec] = {}
RECORDS: dict[str, Preset] = {}


def register(spec: types.OperatorSpec, **record: Any) -> types.OperatorSpec:
  """Adds a preset under the name of its operator, and returns the operator.

  Settings may then name it, `cost.budget_plan` puts it where its placement
  says, and `nearest_preset` compares with it.

  Args:
    spec: the operator.
    **record: the other fields of `Preset`, such as `placement`.

  Raises:
    ValueError: another preset has the name, or a kernel is unknown.
  """
  preset, faults = Preset(spec, **record), needs.unknown_kernels(spec)
  if fault := naming.name_fault(spec.name):
    faults.append(f"name is {naming.quoted(spec.name)}, give {fault}")
  if RECORDS.get(spec.name, preset) != preset:
    faults.append("another preset has this name, choose a new one")
  if faults:
    raise ValueError(f"preset {naming.quoted(spec.name)}: " + "; ".join(faults))
  PRESETS[spec.name], RECORDS[spec.name] = spec, preset
  return spec


def placement_of(spec: types.OperatorSpec) -> Placement:
  """Returns the placement of the preset that an operator is named after.

  Operators that have another name act at the decoder input.

  >>> from eos_jax.ops import presets
  >>> placement_of(presets.FASTV).layers
  (2,)
  """
  record = RECORDS.get(spec.name)
  return record.placement if record else Placement()
