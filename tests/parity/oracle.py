"""Runs transformers on random tiny models; needs torch, and nothing of ours.

    python oracle.py FOLDER < request.json

The request has `models`, by name: the family's classes, the arguments of the
config, a seed, the largest size of a file, and what to rename in the saved
names of tensors (pairs of a pattern and its replacement). The folder of each
has `inputs.npz`, the arguments of the model; beside it the checkpoint is
written, and `expected.npz`: logits and greedy continuations. `full_size` and
`sparse` are configs by name, with their family; for the first the names and
shapes of all tensors are written to `answer.json`, for the second the config
with all defaults.
"""

import json
import pathlib
import re
import sys

import numpy as np
import safetensors.torch
import torch
import transformers

NEW_TOKENS = 32
FAMILIES = ("Llava", "LlavaOnevision", "Qwen2VL", "SmolVLM", "Idefics3")


def main():
  request = json.load(sys.stdin)
  root = pathlib.Path(sys.argv[1])
  torch.set_num_threads(1)
  for name, case in request["models"].items():
    with torch.inference_mode():
      run(root / name, case)
  answer = {"full_size": {}, "sparse": {}}
  for name, case in request["full_size"].items():
    answer["full_size"][name] = tensors(case)
  for name, case in request["sparse"].items():
    answer["sparse"][name] = configured(case).to_dict()
  (root / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def configured(case):
  """The family's config."""
  return getattr(transformers, f"{case['family']}Config")(**case["config"])


def built(case):
  """The family's model."""
  kind = f"{case['family']}ForConditionalGeneration"
  return getattr(transformers, kind)(configured(case))


def tensors(case):
  """Names and shapes of a model, and the number of its parameters."""
  with torch.device("meta"):
    model = built(case)
  return {
    "parameters": sum(value.numel() for value in model.parameters()),
    "shapes": {
      name: list(value.shape) for name, value in model.state_dict().items()
    },
  }


def run(folder, case):
  """One random model: its checkpoint and what it says."""
  torch.manual_seed(case["seed"])
  model = built(case).eval()
  scramble(model)
  model.save_pretrained(folder, max_shard_size=case["max_shard_size"])
  if case["rename"]:
    rename(folder / "model.safetensors", case["rename"])
  given = {
    name: torch.from_numpy(value)
    for name, value in np.load(folder / "inputs.npz").items()
  }
  logits = model(**given).logits
  model.generation_config.eos_token_id = None
  told = model.generate(
    **given, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
  )
  length = given["input_ids"].shape[1]
  np.savez(
    folder / "expected.npz",
    logits=logits.numpy(),
    told=told[:, length:].numpy(),
  )


def scramble(model):
  """Draws every weight: fresh norms and biases are ones and zeros.

  Linear weights keep the size of what they multiply, so that attention is not
  uniform and all layers matter.
  """
  for name, value in model.named_parameters():
    if "norm" in name or "layrnorm" in name or "ln_q" in name:
      value.copy_(
        float(name.endswith("weight")) + 0.2 * torch.randn_like(value)
      )
    elif value.ndim == 1:
      value.copy_(0.2 * torch.randn_like(value))
    elif "embed" in name and "patch" not in name:
      # Small: a tied model would say its last token again and again.
      value.copy_(0.2 * torch.randn_like(value))
    else:
      fan_in = value[0].numel()
      value.copy_(1.3 * fan_in**-0.5 * torch.randn_like(value))


def rename(path, changes):
  """Gives the tensors in a file other names."""
  table = safetensors.torch.load_file(path)
  for pattern, replacement in changes:
    table = {re.sub(pattern, replacement, n): v for n, v in table.items()}
  safetensors.torch.save_file(table, path)


if __name__ == "__main__":
  main()
