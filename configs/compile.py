"""What a model's programs need on TPUs, without any TPU: needs `.[tpu]`.

`--config=configs/compile.py --config.topologies="('v5e:4x4','v5p:2x2x2')"`
compiles a search step of LLaVA-1.5-7B; `--config.model=FOLDER` one of a
published model, by its config.json alone; `:tiny` the shipped model's, for
tests. The settings are described in `eos_jax/training/compile_settings.py`.
"""

import pathlib
import runpy

import ml_collections

from eos_jax.training import compile_settings, settings

_SEARCHES = runpy.run_path(str(pathlib.Path(__file__).with_name("search.py")))
_SEARCH = _SEARCHES["VARIANTS"]["llava_1_5_7b"]

VARIANTS = {
  # Names with a dot are about model, data and evaluation, not about the steps.
  "": {f"search.{name}": _SEARCH[name] for name in _SEARCH if "." not in name}
  | {"search.batch": 16},
  "tiny": {"model": "tiny", "topologies": ("v5e:2x2",), "text_length": 24},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config("compile", compile_settings.CompileJob, VARIANTS, arg)
