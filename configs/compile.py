"""Memory and FLOPs of programs on TPUs, without any; needs `.[tpu]`.

`--config=configs/compile.py --config.topologies="('v5e:4x4','v5p:2x2x2')"`
compiles a search step of LLaVA-1.5-7B; `--config.model=FOLDER` one of another
model, by its config.json alone; `:tiny` that of the tiny model, for tests. The
settings are described in `eos_jax/training/compile_settings.py`.
"""

import ml_collections

from eos_jax.training import compile_settings, settings

VARIANTS = {
  "": {},
  "tiny": {"model": "tiny", "topologies": ("v5e:2x2",), "text_length": 24},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  return settings.config("compile", compile_settings.CompileJob, VARIANTS, arg)
