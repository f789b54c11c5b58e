"""Settings of compiling ahead of time."""

from collections.abc import Iterator
import dataclasses
import re

from eos_jax.naming import quoted
from eos_jax.training import (
  data_settings,
  search_settings,
  settings,
  shared_settings,
)

# What can be compiled; see `tasks.compile_programs`.
PROGRAMS = ("search", "evaluate", "dense", "finetune")

_TOPOLOGY = re.compile(r"\w{1,20}:[0-9]{1,3}(x[0-9]{1,3}){1,2}(\*[1-9][0-9]?)?")


@dataclasses.dataclass(frozen=True)
class CompileJob(shared_settings.ModelSettings, data_settings.RowSettings):
  """Programs of a model, compiled for TPUs that are not here.

  Attributes:
    model: "tiny", "llava_1_5_7b", or a folder with the config.json of a
      published model; its weights are not read.
    dtype: of all parameters, one of `shared_settings.DTYPES`.
    programs: of `PROGRAMS`: a step of the search, answers under its start, a
      forward and backward pass of the unreduced model, a step of its
      fine-tuning.
    topologies: such as "v5e:4x4", or "v5e:4x4*2" for two slices, which are
      along data in the default mesh.
    search: the search; its batch is that of all programs.
  """

  model: str = settings.field(
    "llava_1_5_7b", needed="give tiny, llava_1_5_7b or a folder"
  )
  dtype: str = settings.field("bfloat16", choices=shared_settings.DTYPES)
  programs: tuple[str, ...] = settings.field(
    ("search",), needed="give at least one", choices=PROGRAMS, once=True
  )
  topologies: tuple[str, ...] = settings.field(
    ("v5e:4x4",), needed="give at least one", once=True
  )
  mesh: tuple[int, ...] = settings.field(())  # decides what is compiled
  text_length: int = 256
  answer_length: int = 32
  search: search_settings.SearchSettings = settings.group(
    search_settings.SearchSettings, batch=16
  )

  def _faults(self) -> Iterator[str]:
    yield from super()._faults()
    for name in self.topologies:
      if not _TOPOLOGY.fullmatch(name):
        yield (
          f"topologies has {quoted(name)}; give names such as 'v5e:4x4',"
          " 'v5p:2x2x2' or, for two slices, 'v5e:4x4*2'"
        )
    if self.search.trains_model:
      yield f"search.mode is {self.search.mode!r}; only 'frozen' is compiled"
