"""Settings of compiling ahead of time."""

from collections.abc import Iterator
import dataclasses
import re

from eos_jax.training import model_settings, rules, search_settings, settings

# What can be compiled; see `tasks.compile_programs`.
PROGRAMS = ("search", "evaluate", "dense", "finetune")

_TOPOLOGY = re.compile(r"\w{1,20}:[0-9]{1,3}(x[0-9]{1,3}){1,2}(\*[1-9][0-9]?)?")


@dataclasses.dataclass(frozen=True)
class CompileJob(settings.Checked):
  """Programs of a model, compiled for TPUs that are not here.

  Attributes:
    model: "tiny", "llava_1_5_7b", or a folder with the config.json of a
      published model; its weights are not read.
    dtype: of all parameters, one of `model_settings.DTYPES`.
    programs: of `PROGRAMS`: a step of the search, answers under its start, a
      forward and backward pass of the unreduced model, a step of its
      fine-tuning.
    topologies: such as "v5e:4x4", or "v5e:4x4*2" for two slices.
    mesh: chips along the axes data, fsdp and tensor; () = as many along fsdp as
      the model's shapes allow, the others and slices along data.
    pictures: that a row has room for; of SmolVLM a tile is one.
    tiles: rows and columns of tiles of a LLaVA-OneVision picture, or ().
    size: height and width of the room of a Qwen2-VL picture, pixels, or ().
    text_length: tokens of prompt and answer that a row has room for.
    answer_length: tokens of an answer that is generated.
    search: the search; its batch is that of all programs.
  """

  model: str
  dtype: str
  programs: tuple[str, ...]
  topologies: tuple[str, ...]
  mesh: tuple[int, ...]
  pictures: int
  tiles: tuple[int, ...]
  size: tuple[int, ...]
  text_length: int
  answer_length: int
  search: search_settings.SearchSettings

  def _faults(self) -> Iterator[str]:
    if not self.model:
      yield "model is empty; give tiny, llava_1_5_7b or a folder"
    yield from self.known("dtype", model_settings.DTYPES)
    yield from self.known("programs", PROGRAMS)
    yield from self.each_once("programs", "topologies")
    for name in ("programs", "topologies"):
      if not getattr(self, name):
        yield f"{name} is empty; give at least one"
    for name in self.topologies:
      if not _TOPOLOGY.fullmatch(name):
        yield (
          f"topologies has {settings.quoted(name)}; give names such as"
          " 'v5e:4x4', 'v5p:2x2x2' or, for two slices, 'v5e:4x4*2'"
        )
    yield from model_settings.mesh_faults("mesh", self.mesh)
    yield from self.at_least(1, "pictures", "text_length", "answer_length")
    yield from rules.image_shape_faults(self.tiles, self.size)
    if self.search.trains_model:
      yield f"search.mode is {self.search.mode!r}; only 'frozen' is compiled"
