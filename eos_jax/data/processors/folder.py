"""What a local folder in the Hugging Face layout says about its processor.

Two layouts are in circulation: `preprocessor_config.json` beside a
`processor_config.json` of few fields, and, from transformers 5 on, one
`processor_config.json` with the former inside as `image_processor`.
"""

from collections.abc import Collection, Mapping
import dataclasses
import json
import pathlib
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


@dataclasses.dataclass(frozen=True)
class Fields:
  """Values of a JSON file, with its name for messages.

  Attributes:
    path: the file.
    values: field to value; null counts as absent.
  """

  path: pathlib.Path
  values: Mapping[str, Any]

  def get(self, name: str, default: Any = None) -> Any:
    """The value of a field, or the default where it is absent or null."""
    value = self.values.get(name)
    return default if value is None else value

  def fault(self, name: str, expected: str, remedy: str) -> ValueError:
    """The error about a field's value."""
    return ValueError(
      f"{self.path}: {name} is {json.dumps(self.values.get(name))}; expected"
      f" {expected}; {remedy}"
    )

  def flag(self, name: str, default: bool) -> bool:
    """A boolean field."""
    value = self.get(name, default)
    if not isinstance(value, bool):
      raise self.fault(name, "true or false", "correct the file")
    return value

  def whole(self, name: str, default: int, *, least: int = 1) -> int:
    """A whole number of at least `least`."""
    value = self.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
      raise self.fault(
        name, f"a whole number from {least} on", "correct the file"
      )
    return value

  def extent(self, name: str, default: Any) -> tuple[int | None, int, int]:
    """A size in pixels in any of its spellings.

    Returns:
      (shortest edge, height, width): either the first is None, or the other
      two are 0. A single number is a square if `default_to_square` says so or
      the field is `crop_size`, else the shortest edge.
    """
    value = self.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
      square = name == "crop_size" or self.flag("default_to_square", False)
      keys = ("height", "width") if square else ("shortest_edge",)
      value = dict.fromkeys(keys, value)
    elif isinstance(value, list | tuple) and len(value) == 2:
      value = {"height": value[0], "width": value[1]}
    named = {}
    if isinstance(value, Mapping):
      named = {key: v for key, v in value.items() if v is not None}
    good = all(isinstance(v, int) and v > 0 for v in named.values())
    if good and set(named) == {"shortest_edge"}:
      return named["shortest_edge"], 0, 0
    if good and set(named) == {"height", "width"}:
      return None, named["height"], named["width"]
    raise self.fault(
      name,
      "a number, {shortest_edge}, or {height, width}, positive",
      "correct the file, or use the one that came with the weights",
    )

  def pixel_settings(
    self, defaults: pixels.PixelSettings
  ) -> pixels.PixelSettings:
    """Filter, scale, mean and deviation."""
    resample = self.get("resample", defaults.resample)
    if isinstance(resample, bool) or resample not in range(6):
      raise self.fault(
        "resample", "one of PIL's codes 0 to 5", "write 3 for bicubic"
      )
    scale = self.get("rescale_factor", defaults.scale)
    if isinstance(scale, bool) or not isinstance(scale, int | float):
      raise self.fault(
        "rescale_factor", "a number", "write 0.00392156862745098"
      )
    if not self.flag("do_rescale", True):
      scale = 1.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if self.flag("do_normalize", True):
      mean = self._triple("image_mean", defaults.mean)
      std = self._triple("image_std", defaults.std)
    if not all(std):
      raise self.fault("image_std", "numbers other than 0", "correct the file")
    return pixels.PixelSettings(int(resample), float(scale), mean, std)

  def _triple(self, name: str, default: tuple) -> tuple[float, float, float]:
    value = self.get(name, list(default))
    if isinstance(value, int | float) and not isinstance(value, bool):
      value = [value] * 3
    if (
      not isinstance(value, list | tuple)
      or len(value) != 3
      or not all(isinstance(v, int | float) for v in value)
    ):
      raise self.fault(name, "three numbers", "correct the file")
    return tuple(float(v) for v in value)

  def refuse_unknown(self, known: Collection[str]) -> None:
    """Raises ValueError for fields that nobody here reads and that may matter.

    Reading on would give other pixels than the weights were trained on.
    Fields that are null or false ask for nothing.

    Args:
      known: what the family reads beside what all do.
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
    template: text of the chat template; "" if there is none.
  """

  path: pathlib.Path
  config: Fields
  picture: Fields
  processor: Fields
  tokenizer: Fields
  template: str

  @property
  def vision(self) -> Fields:
    """The encoder's part of the model's fields."""
    values = self.config.get("vision_config", {})
    if not isinstance(values, dict):
      raise self.config.fault("vision_config", "an object", "correct the file")
    return Fields(self.config.path, values)


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
    values = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
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
  nested = processor.get("image_processor")
  if isinstance(nested, dict):
    picture = Fields(processor.path, nested)
  else:
    picture = read_fields(path / "preprocessor_config.json", needed=True)
  tokenizer = read_fields(path / "tokenizer_config.json", needed=False)
  return Folder(
    path,
    config,
    picture,
    processor,
    tokenizer,
    _template(path, processor, tokenizer),
  )


def _template(path, processor: Fields, tokenizer: Fields) -> str:
  """The chat template, from the first place that has one."""
  file = path / "chat_template.jinja"
  if file.is_file():
    return file.read_text(encoding="utf-8")
  places = (
    read_fields(path / "chat_template.json", needed=False),
    processor,
    tokenizer,
  )
  for place in places:
    value = place.get("chat_template", "")
    if isinstance(value, list):  # several, by name
      named = {v.get("name"): v.get("template") for v in value}
      value = named.get("default", "")
    if value:
      return str(value)
  return ""
