"""What a local folder in the Hugging Face layout says about its processor.

Two layouts are in circulation: `preprocessor_config.json` next to a
`processor_config.json` of few fields, and, from transformers 5 on, one
`processor_config.json` with the former inside as `image_processor`.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
import sys
from typing import Any

from eos_jax.data.processors import pixels

# Every family reads these.
_COMMON = (
  "do_normalize",
  "do_rescale",
  "do_resize",
  "image_mean",
  "image_std",
  "resample",
  "rescale_factor",
  "size",
)
# They say who wrote the file or how arrays are handed over, not what is in
# them.
_HARMLESS = frozenset(
  (
    "auto_map",
    "data_format",
    "default_to_square",  # read with `size`
    "device",
    "disable_grouping",
    "do_convert_rgb",  # pictures always are
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "pad_size",  # of batches in transformers
    "processor_class",
    "return_tensors",
    "transformers_version",
    "use_fast",
  )
)

_SPECIAL = (
  *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token"),
  *("cls_token", "mask_token"),
)


# Longest side of images that a processor may ask for, pixels: larger ones do
# not fit into memory.
LONGEST = 1 << 13


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Fields:
  """Values of a JSON file, with its name for messages.

  Attributes:
    path: the file.
    values: field to value; null counts as absent but in flags.
  """

  path: pathlib.Path
  values: Mapping[str, Any]

  def get(self, name: str, default: Any = None) -> Any:
    """The value of a field, or the default where it is absent or null."""
    value = self.values.get(name)
    return default if value is None else value

  def fault(self, name: str, expected: str, remedy: str) -> ValueError:
    """The error about a field's value."""
    value = json.dumps(self.values.get(name))
    if len(value) > 200:
      value = f"{value[:200]}..."
    return ValueError(
      f"{self.path}: {name} is {value}; expected {expected}; {remedy}"
    )

  def flag(self, name: str, default: bool) -> bool:
    """A boolean field; null is false, as it is to transformers' classes."""
    value = self.values.get(name, default)
    if value is None:
      return False
    if not isinstance(value, bool):
      raise self.fault(name, "true or false", "correct the file")
    return value

  def whole(
    self, name: str, default: int, *, least: int = 1, most: int = 1 << 30
  ) -> int:
    """A whole number of at least `least` and at most `most`."""
    value = self.get(name, default)
    if not _is_whole(value) or not least <= value <= most:
      raise self.fault(
        name,
        f"a whole number from {least} on, at most {most:,}",
        "correct the file",
      )
    return value

  def inner(self, name: str) -> "Fields":
    """An object in a field, with its own fields; empty if it is absent."""
    values = self.get(name, {})
    if not isinstance(values, dict):
      raise self.fault(name, "an object", "correct the file")
    return Fields(self.path, values)

  def token(self, name: str) -> str:
    """A token, written as text or as an object with its content; "" if none."""
    value = self.get(name, "")
    content = value.get("content") if isinstance(value, dict) else value
    # A lone surrogate is half of a character, which no tokenizer takes.
    if not isinstance(content, str) or re.search("[\ud800-\udfff]", content):
      raise self.fault(
        name, "a token: text, or {content: text}", "correct the file"
      )
    return content

  def extent(self, name: str, default: Any) -> tuple[int | None, int, int]:
    """A size in pixels in any of its spellings.

    Returns:
      (shortest edge, height, width): either the first is None, or the other
      two are 0. A single number is a square if `default_to_square` says so or
      the field is `crop_size`, else the shortest edge.
    """
    value = self.get(name, default)
    if _is_whole(value):
      square = name == "crop_size" or self.flag("default_to_square", False)
      keys = ("height", "width") if square else ("shortest_edge",)
      value = dict.fromkeys(keys, value)
    elif isinstance(value, list | tuple) and len(value) == 2:
      value = {"height": value[0], "width": value[1]}
    named = {}
    if isinstance(value, Mapping):
      named = {key: v for key, v in value.items() if v is not None}
    good = all(_is_whole(v) and 0 < v <= LONGEST for v in named.values())
    if good and set(named) == {"shortest_edge"}:
      return named["shortest_edge"], 0, 0
    if good and set(named) == {"height", "width"}:
      return None, named["height"], named["width"]
    raise self.fault(
      name,
      "a number, {shortest_edge}, or {height, width}, of 1 to"
      f" {LONGEST:,} pixels",
      "correct the file, or use the one that came with the weights",
    )

  def pixel_settings(
    self, defaults: pixels.PixelSettings
  ) -> pixels.PixelSettings:
    """Filter, scale, mean and deviation."""
    resample = self.get("resample", defaults.resample)
    if not _is_whole(resample) or resample not in range(6):
      raise self.fault(
        "resample", "one of PIL's codes 0 to 5", "write 3 for bicubic"
      )
    scale = self._finite("rescale_factor", defaults.scale, 1)[0]
    if not self.flag("do_rescale", True):
      scale = 1.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if self.flag("do_normalize", True):
      mean = self._finite("image_mean", defaults.mean, 3)
      std = self._finite("image_std", defaults.std, 3)
    for name, values in (("rescale_factor", (scale,)), ("image_std", std)):
      if not all(values):
        raise self.fault(name, "numbers other than 0", "correct the file")
    settings = pixels.PixelSettings(resample, scale, mean, std)
    if not pixels.is_finite(settings):
      raise ValueError(
        f"{self.path}: rescale_factor {scale:g}, image_mean {mean} and"
        f" image_std {std} make pixels that are not finite in float32; correct"
        " the file, or use the one that came with the weights"
      )
    return settings

  def padded_settings(
    self, defaults: pixels.PixelSettings
  ) -> pixels.PixelSettings:
    """`pixel_settings`, where images are padded with the mean colour."""
    settings = self.pixel_settings(defaults)
    try:
      pixels.mean_color(settings)
    except ValueError as error:
      raise ValueError(f"{self.path}: {error}") from error
    return settings

  def _finite(self, name: str, default: Any, count: int) -> tuple[float, ...]:
    """Finite numbers, which may be written as one that stands for all."""
    value = self.get(name, default)
    values = value if isinstance(value, list | tuple) else [value] * count
    # Compared, not converted: a whole number can be too large for a float.
    if len(values) != count or not all(
      isinstance(v, int | float)
      and not isinstance(v, bool)
      and abs(v) <= sys.float_info.max
      for v in values
    ):
      what = "a number" if count == 1 else "three numbers"
      raise self.fault(name, f"{what}, all finite", "correct the file")
    return tuple(map(float, values))

  def refuse_unknown(self, known: Collection[str]) -> None:
    """Raises ValueError for fields that nobody here reads and that may matter.

    Reading on would give other pixels than the weights were trained on.
    Fields that are null or false ask for nothing.

    Args:
      known: what the family reads in addition to what all do.
    """
    known = {*_COMMON, *known}
    unknown = sorted(
      name
      for name, value in self.values.items()
      if value is not None
      and value is not False
      and name not in known
      and name not in _HARMLESS
      and not name.startswith(("_", "video_"))
    )
    if unknown:
      raise ValueError(
        f"{self.path}: fields {', '.join(unknown)} are unknown and may change"
        f" the pixels; expected only {', '.join(sorted(known))}; remove them if"
        " they do not matter, or prepare the pictures yourself"
      )


@dataclasses.dataclass(frozen=True)
class Folder:
  """The small files of a model folder.

  Attributes:
    path: the folder.
    config: `config.json`, of the model.
    picture: fields about pictures.
    processor: fields about how text and pictures meet; empty if no file.
    tokenizer: fields of `tokenizer_config.json`; empty if no file.
    generation: fields of `generation_config.json`; empty if no file.
    template: text of the chat template; "" if there is none.
  """

  path: pathlib.Path
  config: Fields
  picture: Fields
  processor: Fields
  tokenizer: Fields
  generation: Fields
  template: str

  def image_class(self, known: Sequence[str]) -> str:
    """Class of the image processor, by which absent fields have their values.

    Args:
      known: the classes whose images a family makes; the first is that of
        folders that name none. Their variants ("Fast") have the same values.

    Raises:
      ValueError: the folder names another class.
    """
    for place, name in (
      (self.picture, "image_processor_type"),
      (self.picture, "feature_extractor_type"),
      (self.config, "image_processor_type"),
    ):
      value = place.get(name)
      if value is None:
        continue
      kind = str(value).removesuffix("Fast").removesuffix("Pil")
      kind = kind.replace("FeatureExtractor", "ImageProcessor")
      if kind not in known:
        raise place.fault(
          name,
          f"one of {', '.join(known)}",
          "prepare the images yourself: other classes make other images",
        )
      return kind
    return known[0]

  @property
  def vision(self) -> Fields:
    """The encoder's part of the model's fields."""
    return self.config.inner("vision_config")

  @property
  def special_tokens(self) -> dict[str, str]:
    """Special tokens by name, as chat templates read them."""
    tokens = {name: self.tokenizer.token(name) for name in _SPECIAL}
    return {name: token for name, token in tokens.items() if token}

  @property
  def decoder(self) -> Fields:
    """The language model's part of them; all of them where it is no part."""
    own = self.config.inner("text_config")
    return own if own.values else self.config


def read_text(path: pathlib.Path) -> str:
  """Reads a text file; raises ValueError where it is damaged."""
  try:
    return path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f"{path} is damaged ({error}); expected text in UTF-8; copy the file"
      " again"
    ) from error


def read_fields(path: pathlib.Path, *, needed: bool) -> Fields:
  """Reads a JSON file with an object in it.

  Raises:
    ValueError: it is missing though needed, damaged, or holds something else.
  """
  if not path.is_file():
    if needed:
      raise ValueError(
        f"{path} is missing; expected a model folder in the Hugging Face"
        " layout; copy the file from where the weights came from"
      )
    return Fields(path, {})
  try:
    values = json.loads(read_text(path))
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f"{path} is damaged ({error}); expected JSON; copy the file again"
    ) from error
  if not isinstance(values, dict):
    raise ValueError(
      f"{path} holds a {type(values).__name__}; expected a JSON object; copy"
      " the file again"
    )
  return Fields(path, values)


def read(path: pathlib.Path | str) -> Folder:
  """Reads the small files of a model folder.

  Raises:
    ValueError: `config.json` or the fields about pictures are missing, or a
      file is damaged.
  """
  path = pathlib.Path(path)
  config = read_fields(path / "config.json", needed=True)
  processor = read_fields(path / "processor_config.json", needed=False)
  picture = processor.inner("image_processor")
  if not picture.values:
    picture = read_fields(path / "preprocessor_config.json", needed=True)
  tokenizer = _tokenizer_fields(path)
  return Folder(
    path,
    config,
    picture,
    processor,
    tokenizer,
    read_fields(path / "generation_config.json", needed=False),
    _template(path, processor, tokenizer),
  )


def _tokenizer_fields(path: pathlib.Path) -> Fields:
  """Fields of the tokenizer; special and added tokens of older folders too."""
  fields = read_fields(path / "tokenizer_config.json", needed=False)
  if fields.get("added_tokens_decoder") is not None:
    return fields  # written by a version that has all tokens in this file
  special = read_fields(path / "special_tokens_map.json", needed=False)
  added = read_fields(path / "added_tokens.json", needed=False)
  decoder = {
    str(index): {"content": token} for token, index in added.values.items()
  }
  older = {**special.values, "added_tokens_decoder": decoder}
  return Fields(fields.path, {**fields.values, **older})


def _template(path, processor: Fields, tokenizer: Fields) -> str:
  """The chat template, from the first place that has one."""
  file = path / "chat_template.jinja"
  if file.is_file():
    return read_text(file)
  places = (
    read_fields(path / "chat_template.json", needed=False),
    processor,
    tokenizer,
  )
  for place in places:
    value = place.get("chat_template", "")
    if isinstance(value, list) and all(isinstance(v, dict) for v in value):
      value = {v.get("name"): v.get("template") for v in value}
    if isinstance(value, dict):
      value = value.get("default")
    if not isinstance(value, str):
      raise place.fault(
        "chat_template",
        'a template, or several by name and one of them "default"',
        "correct the file",
      )
    if value:
      return value
  return ""
