"""One tiny LLaVA-1.5 and what transformers says of it, kept as files.

Everybody can compare with them; the other tests here need transformers.

    EOS_TORCH_PYTHON=/path/to/python python -m tests.parity.recorded

records them anew.
"""

import pathlib
import shutil
import tempfile

import numpy as np

from tests.parity import harness

FOLDER = pathlib.Path(__file__).parents[1] / "goldens" / "parity" / "llava_1_5"

_IMAGE, _TOKENS = 90, 4
_CONFIG = {
  "image_token_index": _IMAGE,
  "vision_config": {
    "model_type": "clip_vision_model",
    "hidden_size": 16,
    "image_size": 12,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 6,
  },
  "text_config": {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 96,
  },
}
_PICTURE = [_IMAGE] * _TOKENS

# Two pictures in the text, and a shorter prompt with one.
CASE = harness.Case(
  "Llava",
  _CONFIG,
  [[1, 17, *_PICTURE, 40, 33, *_PICTURE, 8, 71], [1, *_PICTURE, 5, 62]],
  [[_TOKENS, _TOKENS], [_TOKENS]],
  _IMAGE,
  seed=5,
)


def pictures() -> tuple[np.ndarray, np.ndarray]:
  """Pictures `[B, I, h, w, 3]`, and which of their tokens are real."""
  valid = np.array([[True, True], [True, False]])[..., None]
  draws = np.random.default_rng(CASE.seed).normal(size=(2, 2, 12, 12, 3))
  image = np.where(valid[..., None, None], draws, 0).astype(np.float32)
  return image, valid.repeat(_TOKENS, axis=2)


def record() -> None:
  """Runs transformers and replaces the files."""
  image, valid = pictures()
  there = image[valid[..., 0]].transpose(0, 3, 1, 2)
  with tempfile.TemporaryDirectory() as root:
    root = pathlib.Path(root)
    harness.ask(root, {"recorded": CASE}, {"recorded": {"pixel_values": there}})
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "expected.npz"):
      shutil.copy(root / "recorded" / name, FOLDER / name)


if __name__ == "__main__":
  record()
