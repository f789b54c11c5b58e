"""Settings of tasks that read a published model."""

from collections.abc import Iterator
import dataclasses

from eos_jax.training import settings

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class ModelSettings(settings.Checked):
  """A published model.

  Attributes:
    path: folder of its checkpoint in Hugging Face's layout.
    dtype: of all parameters, one of `DTYPES`; "" = what its config.json names.
    allow_outside: whether weights may lie outside the folder, where its index
      or links lead.
  """

  path: str
  dtype: str
  allow_outside: bool = False

  def _faults(self) -> Iterator[str]:
    if not self.path:
      yield (
        "path is empty; give the folder of a checkpoint,"
        " --config.model.path=FOLDER"
      )
    if self.dtype and self.dtype not in DTYPES:
      yield (
        f"dtype is {settings.quoted(self.dtype)}; use one of"
        f" {', '.join(DTYPES)}, or '' for that of the checkpoint"
      )


@dataclasses.dataclass(frozen=True)
class ConvertJob(settings.Checked):
  """The conversion of a published checkpoint.

  Attributes:
    model: which, and the dtype of what is written.
    mesh: devices along the axes data, fsdp and tensor; () = along fsdp as many
      as the model's shapes allow, the others along data.
  """

  model: ModelSettings
  mesh: tuple[int, ...] = dataclasses.field(metadata=settings.HARMLESS)

  def _faults(self) -> Iterator[str]:
    yield from mesh_faults("mesh", self.mesh)


def mesh_faults(field: str, mesh: tuple[int, ...]) -> Iterator[str]:
  """What is wrong with a mesh, whatever devices there are."""
  if mesh and (len(mesh) != 3 or min(mesh) < 1):
    yield (
      f"{field} is {settings.quoted(mesh)}; give the devices along data, fsdp"
      " and tensor, such as (1, 8, 1), or () for the default"
    )
