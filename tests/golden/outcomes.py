"""What running a recorded case gives."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Outcome:
  """One case.

  Attributes:
    operator: name in the manifest, or of the metric.
    file: path inside the folder, and the case where a file has several.
    arrays: number of arrays, or values, that were compared.
    faults: what differs, a line each.
  """

  operator: str
  file: str
  arrays: int
  faults: tuple[str, ...]
