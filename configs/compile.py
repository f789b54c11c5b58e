"""What a model's programs take on TPUs, found without any: needs `.[tpu]`.

`--config=configs/compile.py --config.topologies="('v5e:4x4','v5p:2x2x2')"`
compiles a search step of LLaVA-1.5-7B; `--config.model=FOLDER` one of a
published model, by its config.json alone; `:tiny` the shipped model's, for
tests.
"""

import pathlib
import runpy

import ml_collections

_SEARCH = pathlib.Path(__file__).with_name("search.py")
# Of a search, what is not about its steps.
_OTHERS = ("task", "model", "mesh", "data", "evaluation")
_OTHERS += ("weights", "weights_path")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `arg` is "" or "tiny"."""
  if arg not in ("", "tiny"):
    raise ValueError(f"variant {arg!r} is unknown; use '' or tiny")
  config = ml_collections.ConfigDict()
  config.task = "compile"
  config.model = arg or "llava_1_5_7b"  # or a folder with a config.json
  config.dtype = "bfloat16"
  config.programs = ("search",)  # "evaluate", "dense", "finetune"
  config.topologies = ("v5e:4x4",)
  # Chips along data, fsdp and tensor; () = as many along fsdp as shapes allow.
  config.mesh = ()
  config.pictures, config.tiles, config.size = 1, (), ()
  config.text_length, config.answer_length = 256, 32

  search = runpy.run_path(str(_SEARCH))["get_config"]
  values = search("" if arg else "llava_1_5_7b").to_dict()
  config.search = ml_collections.ConfigDict(
    {name: value for name, value in values.items() if name not in _OTHERS}
  )
  config.search.batch = 16
  if arg:
    config.topologies, config.text_length = ("v5e:2x2",), 24
  return config.lock()
