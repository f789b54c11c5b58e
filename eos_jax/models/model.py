"""Models by name: from files to parameters on devices, and to answers.

model = models.load("llava-1.5-7b-hf", dtype="bfloat16")
model.answer("street.jpg", "How many cars are there?")
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import importlib.resources
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eos_jax
from eos_jax import ops, processes
from eos_jax.array_typing import Array
from eos_jax.data import items, processors, prompts, rooms, tiny_rows, tokenizer
from eos_jax.data import rows as rows_lib
from eos_jax.models import config as config_lib
from eos_jax.models import (
  converted,
  families,
  generation,
  inputs,
  loading,
  partition,
  weights,
)

TINY = "tiny"
# Shapes without files, for timing and compilation.
SHAPES = {"wide": config_lib.wide, "llava_1_5_7b": config_lib.llava_1_5_7b}

# Called while weights are read with the bytes that are done, and their sum.
Watch = Callable[[int, int], None]

_SUFFIX = ".safetensors"
# Most text tokens of a question that is asked alone.
MOST_TEXT = 8192


@dataclasses.dataclass(frozen=True)
class ModelFiles:
  """A model whose weights have not been read yet.

  Attributes:
    name: as it was asked for: "tiny", or a folder or a file.
    cfg: its shape, with the static shape of images.
    family: "tiny", or the family's name.
    dtype: that its parameters will have.
    host_bytes: memory of the host that reading needs in addition.
    processor: of a family's folder: text and images; None for "tiny".
    max_images: images of a row; of SmolVLM, tiles.
    read: reads the weights, from a function from shapes to shardings and a
      `Watch`.
  """

  name: str
  cfg: config_lib.VLMConfig
  family: str
  dtype: Any
  host_bytes: int
  processor: processors.Processor | None
  max_images: int
  read: Callable[[Callable[[Any], Any], Watch], Any] = dataclasses.field(
    compare=False
  )

  @property
  def shapes(self) -> Any:
    """The parameters as a tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, self.dtype),
      loading.shapes(self.cfg),
    )

  def with_shape(
    self,
    *,
    max_images: int = 0,
    max_tiles: Sequence[int] = (),
    max_size: Sequence[int] = (),
    style: str = "",
    aspect: str = "",
  ) -> "ModelFiles":
    """Returns the model with another static shape of its images.

    Args:
      max_images: images of a row; 0 = the family's default.
      max_tiles: rows and columns of tiles of an image of LLaVA-OneVision; () =
        the default of the family.
      max_size: height and width of an image of Qwen2-VL in pixels; () likewise.
      style: of the conversation; "" = the chat template of the folder.
      aspect: of LLaVA-1.5: "pad" or "crop"; "" = as the folder says.

    Raises:
      ValueError: the family has no such choice.
    """
    given = {"max_tiles": tuple(max_tiles), "max_size": tuple(max_size)}
    if self.processor is None:
      given |= {"style": style, "aspect": aspect}
      given["max_images"] = max_images if max_images > 1 else 0
      if others := [name for name, value in given.items() if value]:
        raise ValueError(
          f"{others[0]} is {given[others[0]]}, and the model {self.name!r} has"
          " no choice; leave it empty"
        )
      return self
    processor = processors.with_options(self.processor, style, aspect)
    default = rooms.default(processor)
    cfg = _with_images(self.cfg, self.family, given, default)
    return dataclasses.replace(
      self,
      cfg=_without_absent_prefix(cfg, processor),
      processor=processor,
      max_images=max_images or default.pictures,
    )

  def with_images(self, count: int) -> "ModelFiles":
    """Returns the model with space for so many images of a question."""
    if self.processor is None:
      return self
    each = max(rooms.default(self.processor).pictures, 1)
    most = max(self.max_images, max(count, 1) * each)
    return dataclasses.replace(self, max_images=most)

  def rows(self, text_length: int, protocol: str = "") -> Any:
    """Returns what makes rows of questions; see `data.Rows`.

    Args:
      text_length: tokens of text of a row.
      protocol: whose ends of answers count, of `benchmarks.prompts.PROTOCOLS`.

    Raises:
      ValueError: the processor is not that of the model.
    """
    if self.family == TINY:
      return tiny_rows.TinyRows(tokenizer.load(), text_length)
    if self.processor is None:
      raise ValueError(
        f"the model {self.name!r} is a shape without a tokenizer, which cannot"
        " be asked questions; give the folder of a checkpoint"
      )
    cfg, processor = self.cfg, self.processor
    where = f"{processor.where}/tokenizer.json"
    processor.text.check_rows(
      cfg.decoder.vocab, "the model's config.json", where=where
    )
    return rows_lib.Rows(
      processor,
      cfg.prefix,
      rooms.Room(self.max_images, cfg.tokens, cfg.vision.size, cfg.tiles),
      text_length,
      protocol,
    )

  def load(
    self,
    mesh: jax.sharding.Mesh | None = None,
    *,
    watch: Watch = lambda done, total: None,
  ) -> "Model":
    """Reads the weights.

    Args:
      mesh: devices, over which parameters are sharded; None = all of them.
      watch: called while weights are read.

    Raises:
      ValueError: they cannot be read, or are of another model.
    """
    mesh = mesh or partition.make_mesh((), self.sharded_by)
    place = functools.partial(partition.param_shardings, mesh)
    params = self.read(place, watch)
    return Model(self, params, mesh)

  def renamed(self, name: str) -> "ModelFiles":
    """Returns the same model with the weights that `Model.save` wrote."""
    return dataclasses.replace(
      open_files(name),
      cfg=self.cfg,
      processor=self.processor,
      max_images=self.max_images,
    )

  @property
  def sharded_by(self) -> Any:
    """What `partition.make_mesh` chooses axes by; None = a small model."""
    return None if self.family == TINY else self.shapes


@dataclasses.dataclass(frozen=True)
class Model:
  """A model on devices.

  Attributes:
    files: what it was read from: name, static shape, processor.
    params: its parameters.
    mesh: devices that hold them.
  """

  files: ModelFiles
  params: Any
  mesh: jax.sharding.Mesh

  @functools.cached_property
  def fingerprint(self) -> str:
    """Identifies the parameters; all processes have to read it together."""
    return weights.fingerprint(self.params)

  @property
  def cfg(self) -> config_lib.VLMConfig:
    """The shape of the model."""
    return self.files.cfg

  @property
  def name(self) -> str:
    """The name that plans carry."""
    return self.cfg.name

  @property
  def processor(self) -> processors.Processor | None:
    """Text and images of a family's folder; None for "tiny"."""
    return self.files.processor

  def with_params(self, params: Any) -> "Model":
    """Returns the model with other parameters."""
    return dataclasses.replace(self, params=params)

  def place(self, params: Any) -> Any:
    """Returns parameters on the devices of this model, sharded like its own."""
    return processes.place(params, partition.param_shardings(self.mesh, params))

  def save(self, path: pathlib.Path, params: Any) -> pathlib.Path:
    """Writes other parameters of the model, for `load`; all processes call it.

    Args:
      path: to write to. "tiny" becomes one file, with the suffix .safetensors;
        other models a folder in Orbax's format.
      params: the parameters.

    Returns:
      Where they are.
    """
    if self.files.family == TINY:
      if path.suffix != _SUFFIX:
        path = path.with_name(path.name + _SUFFIX)
      whole = processes.fetch(params)
      if processes.first():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights.save(path, whole, self.cfg)
      processes.meet(f"saved {path.name}")
      return path
    converted.save(path, pathlib.Path(self.files.name), params)
    return path

  def answer(
    self,
    images: Any,
    question: str | Sequence[str],
    plan: ops.ReductionPlan | None = None,
    *,
    max_tokens: int = 64,
    seed: int = 0,
  ) -> Any:
    """Answers questions greedily.

    Args:
      images: one image or several, each a file, bytes of one, a PIL image or a
        uint8 array `[height, width, 3]`; of several questions a sequence of
        these, one for each.
      question: a text, or several texts that are answered as one batch.
      plan: the reduction; None = no token is removed.
      max_tokens: of an answer.
      seed: draws the noise of the score "random".

    Returns:
      The answer, or a list of answers.

    Raises:
      ValueError: text or images do not fit the model, or the plan does not.
    """
    if isinstance(question, str):
      return self.answer(
        [images], [question], plan, max_tokens=max_tokens, seed=seed
      )[0]
    images = _listed(images)
    if len(images) != len(question):
      raise ValueError(
        f"there are {len(question)} questions and {len(images)} entries of"
        " images; give one entry, an image or a sequence, for each question"
      )
    rows, batch = self.ask(
      [
        items.Item(str(place), text, "", _listed(shown))
        for place, (text, shown) in enumerate(
          zip(question, images, strict=True)
        )
      ]
    )
    out = answer_batch(
      self.params,
      batch,
      jax.random.key(seed),
      cfg=self.cfg,
      plan=plan,
      steps=max_tokens,
      stop=rows.end_ids,
    )
    return [rows.decode(ids) for ids in np.asarray(out.ids).tolist()]

  def ask(
    self, asked: Sequence[items.Item], text_length: int = MOST_TEXT
  ) -> tuple[Any, dict[str, Any]]:
    """Returns rows of questions and their arrays, as short as they can be.

    The length of the text is a power of two, so that few programs are compiled.
    There is space for as many images as the question with the most has.

    Args:
      asked: the questions.
      text_length: most tokens of a text.

    Raises:
      ValueError: a text or an image does not fit.
    """
    most = max(len(item.images) for item in asked)
    rows = self.files.with_images(most).rows(text_length)
    made = [rows.ask(item) for item in asked]
    longest = max(int(row["prompt_length"]) for row in made)
    length = max(16, 1 << (longest - 1).bit_length())
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *made)
    for name in ("tokens", "mask"):
      batch[name] = batch[name][:, :length]
    if "slots" in batch:
      batch["slots"] = np.minimum(batch["slots"], length)
    return rows, batch


@functools.partial(jax.jit, static_argnames=("cfg", "plan", "steps", "stop"))
def answer_batch(
  params: Any,
  batch: Mapping[str, Any],
  key: Array,
  *,
  cfg: config_lib.VLMConfig,
  plan: ops.ReductionPlan | None,
  steps: int,
  stop: tuple[int, ...],
) -> generation.Answer:
  """Answers a batch of rows greedily.

  Args:
    params: of the model.
    batch: rows, see `models.inputs`.
    key: of the score "random".
    cfg: shape of the model.
    plan: the reduction; None = no token is removed.
    steps: tokens of an answer, at most.
    stop: ids that end an answer.
  """
  seen = inputs.see(cfg, params, batch, plan, key=key)
  return generation.answer(
    cfg, params, seen, inputs.prompt(batch), plan, steps=steps, stop=stop
  )


def open_files(
  name: str,
  *,
  dtype: str = "",
  allow_outside: bool = False,
  random_weights: bool = False,
  without_processor: bool = False,
  seed: int = 0,
) -> ModelFiles:
  """Reads all of a model but its weights.

  Args:
    name: "tiny"; a safetensors file with weights of its shape, as fine-tuning
      writes it; the folder of a checkpoint in Hugging Face's layout, or of one
      that was converted from it.
    dtype: of all parameters; "" = that of the files, bfloat16 for float16.
    allow_outside: whether weights may lie outside the folder, where its index
      or links lead.
    random_weights: take random weights; a folder needs no more than its
      config.json then, and `SHAPES` are known too.
    without_processor: open a folder whose tokenizer's files are missing, too.
    seed: of random weights.

  Raises:
    ValueError: it cannot be read, or was converted to another dtype.
  """
  if name in SHAPES and random_weights:
    return _random(name, SHAPES[name](), "", dtype or "bfloat16", None, seed)
  folder = pathlib.Path(name)
  if name == TINY or (folder.suffix == _SUFFIX and not folder.is_dir()):
    return _tiny(name, dtype, random_weights, seed)
  if not folder.exists():
    known = ", ".join((TINY, *(SHAPES if random_weights else ())))
    raise ValueError(
      f"there is no folder {name!r}, and no model of that name; give the folder"
      f" of a checkpoint as transformers saves it, or one of {known}"
    )
  if random_weights:
    found = families.read(folder)
    processor = _processor(folder, optional=True)
    return _random(
      name, found.cfg, found.family, dtype or found.dtype, processor, seed
    )
  if converted.finished(folder):
    description, mark = converted.check(folder)
    if dtype not in ("", mark["dtype"]):
      raise ValueError(
        f"{folder} was converted to {mark['dtype']}, and dtype is {dtype!r};"
        " use dtype='', or convert it again"
      )
    read = lambda place, watch: converted.restore(folder, shardings=place)[1]
    kind, host = jnp.dtype(mark["dtype"]), 0
  else:
    contents = loading.inspect(folder, allow_outside=allow_outside)
    description = contents.description
    stored = loading.stored_dtype(description)
    # TPUs do not compute in float16.
    stored = "bfloat16" if stored == "float16" else stored
    kind = jnp.dtype(dtype or stored)
    host = loading.passing(contents, kind)

    def read(place, watch):
      return loading.load(
        folder,
        dtype=kind,
        shardings=place,
        watch=watch,
        allow_outside=allow_outside,
      )[1]

  return ModelFiles(
    name,
    description.cfg,
    description.family,
    kind,
    host,
    _processor(folder, without_processor),
    max_images=1,
    read=read,
  ).with_shape()


def _processor(folder, optional):
  """The processor of a folder; None where it may be missing and is."""
  if optional and not (folder / "tokenizer.json").exists():
    return None
  return processors.load(folder)


def load(
  name: str,
  *,
  dtype: str = "",
  mesh: jax.sharding.Mesh | None = None,
  allow_outside: bool = False,
) -> Model:
  """Loads a model.

  Args:
    name: as for `open_files`.
    dtype: of all parameters; "" = that of the files.
    mesh: devices, over which parameters are sharded; None = all of them.
    allow_outside: whether weights may lie outside the folder.

  Raises:
    ValueError: it cannot be read.
  """
  files = open_files(name, dtype=dtype, allow_outside=allow_outside)
  return files.load(mesh)


def _tiny(name, dtype, random_weights, seed):
  """The model inside the package, or other weights of its shape."""
  if dtype not in ("", "float32"):
    raise ValueError(
      f"dtype is {dtype!r}, and the model {TINY!r} runs in float32; use ''"
    )
  cfg = tiny_config()
  path = pathlib.Path(name)
  if name == TINY:
    root = importlib.resources.files(eos_jax)
    path = pathlib.Path(str(root / "models" / "weights" / "tiny.safetensors"))

  def read(place, watch):
    del watch
    params = weights.load(path, loading.shapes(cfg), cfg)
    return processes.place(params, place(params))

  if random_weights:
    return _random(name, cfg, TINY, "float32", None, seed)
  if name != TINY:  # refused before any work
    weights.load(path, loading.shapes(cfg), cfg)
  return ModelFiles(name, cfg, TINY, jnp.dtype("float32"), 0, None, 1, read)


def tiny_config() -> config_lib.VLMConfig:
  """Returns the shape of the model inside the package."""
  words = tokenizer.load()
  prefix = tuple(prompts.prefix_ids(words))
  return config_lib.tiny(words.vocab_size, prefix)


def _random(name, cfg, family, dtype, processor, seed):
  """A model with random weights."""
  kind = jnp.dtype(dtype)

  def read(place, watch):
    del watch
    shapes = loading.shapes(cfg)
    return random_params(shapes, place(shapes), kind, jax.random.key(seed))

  made = ModelFiles(name, cfg, family, kind, 0, processor, 1, read)
  return made.with_shape()


def random_params(shapes: Any, shardings: Any, dtype: Any, key: Array) -> Any:
  """Returns random parameters, made one by one where they belong.

  Args:
    shapes: tree of `jax.ShapeDtypeStruct`.
    shardings: tree of `jax.sharding.Sharding`.
    dtype: of all parameters.
    key: random key.
  """
  leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
  made = []
  for index, ((path, leaf), place) in enumerate(
    zip(leaves, jax.tree.leaves(shardings), strict=True)
  ):
    name = path[-1].key
    if name in ("scale", "bias"):
      value = jnp.full(leaf.shape, name == "scale", dtype, device=place)
    else:
      inputs_ = leaf.shape[-2] if name == "kernel" else 1
      value = _normal(
        jax.random.fold_in(key, index), leaf.shape, dtype, inputs_, place
      )
    made.append(value)
  return jax.tree_util.tree_unflatten(treedef, made)


def _normal(key, shape, dtype, inputs_, place):
  draw = jax.jit(
    lambda key: (
      jax.random.normal(key, shape, dtype) * jnp.asarray(inputs_**-0.5, dtype)
    ),
    out_shardings=place,
  )
  return draw(key)


def _with_images(cfg, family, given, default):
  """A model with static shapes of its images, as given or by default."""
  tiled, any_size = cfg.tiles is not None, cfg.vision.rotary
  for name, allowed in (("max_tiles", tiled), ("max_size", any_size)):
    if given[name] and not allowed:
      raise ValueError(
        f"{name} is {given[name]}, and models of the family {family} have"
        " none: use ()"
      )
  if tiled:
    cfg = dataclasses.replace(cfg, tiles=given["max_tiles"] or default.tiles)
  if any_size:
    size = given["max_size"] or default.size
    vision = dataclasses.replace(cfg.vision, image_size=size)
    cfg = dataclasses.replace(cfg, vision=vision)
  return cfg


def _without_absent_prefix(cfg, processor):
  """Drops a prefix that no text of the processor begins with.

  Such as a token that the model's config names and its tokenizer does not add.
  """
  text = processor.text
  begun = text.encode(processor.prompt([{"role": "user", "content": "?"}]))
  if cfg.prefix and begun[:1] != [text.inner.token_to_id(text.begin)]:
    return dataclasses.replace(cfg, prefix=())
  return cfg


def _listed(images):
  """One image or several as a tuple."""
  return tuple(images) if isinstance(images, (list, tuple)) else (images,)
