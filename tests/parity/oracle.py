"""Runs transformers on random tiny models; needs torch, and nothing of ours.

    python oracle.py FOLDER < request.json

The request has `models`, by name: the arguments of the config, a seed, prompts
of ids in which one image token stands for a picture, the largest size of a
file, and whether to save by the hub's older names. A folder is written for
each, with the checkpoint and `expected.npz`: pictures, padded prompts, logits
and greedy continuations. `full_size` and `sparse` are configs by name; for the
first the names and shapes of all tensors are written to `answer.json`, for the
second the config with all defaults.
"""

import json
import pathlib
import sys

import numpy as np
import safetensors.torch
import torch
import transformers

NEW_TOKENS = 32


def main():
  request = json.load(sys.stdin)
  root = pathlib.Path(sys.argv[1])
  torch.set_num_threads(1)
  for name, case in request["models"].items():
    with torch.inference_mode():
      run(root / name, case)
  answer = {"full_size": {}, "sparse": {}}
  for name, config in request["full_size"].items():
    answer["full_size"][name] = tensors(config)
  for name, config in request["sparse"].items():
    answer["sparse"][name] = transformers.LlavaConfig(**config).to_dict()
  (root / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def tensors(config):
  """Names and shapes of a model, and the number of its parameters."""
  with torch.device("meta"):
    model = transformers.LlavaForConditionalGeneration(
      transformers.LlavaConfig(**config)
    )
  return {
    "parameters": sum(value.numel() for value in model.parameters()),
    "shapes": {
      name: list(value.shape) for name, value in model.state_dict().items()
    },
  }


def run(folder, case):
  """One random model: its checkpoint and what it says."""
  torch.manual_seed(case["seed"])
  config = transformers.LlavaConfig(**case["config"])
  model = transformers.LlavaForConditionalGeneration(config).eval()
  scramble(model)
  model.save_pretrained(folder, max_shard_size=case["max_shard_size"])
  if case["hub_names"]:
    rename(folder)
  ids, mask = padded(case["prompts"], config)
  pictures = sum(row.count(config.image_token_id) for row in case["prompts"])
  side = config.vision_config.image_size
  pixels = torch.randn(pictures, 3, side, side)
  given = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
  logits = model(**given).logits
  model.generation_config.eos_token_id = None
  told = model.generate(
    **given, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
  )
  np.savez(
    folder / "expected.npz",
    pixels=pixels.numpy(),
    ids=ids.numpy(),
    mask=mask.numpy(),
    logits=logits.numpy(),
    told=told[:, ids.shape[1] :].numpy(),
  )


def scramble(model):
  """Draws every weight: fresh norms and biases are ones and zeros.

  Linear weights keep the size of what they multiply, so that attention is not
  uniform and all layers matter.
  """
  for name, value in model.named_parameters():
    if "norm" in name or "layrnorm" in name:
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


def rename(folder):
  """The names that older versions saved."""
  path = folder / "model.safetensors"
  safetensors.torch.save_file(
    {
      name.replace("vision_tower.", "vision_tower.vision_model."): value
      for name, value in safetensors.torch.load_file(path).items()
    },
    path,
  )


def padded(prompts, config):
  """Ids `[B, N]` with room for the pictures, padded on the left, and mask."""
  vision = config.vision_config
  tokens = (vision.image_size // vision.patch_size) ** 2
  image = config.image_token_id
  rows = [
    [i for one in row for i in [one] * (tokens if one == image else 1)]
    for row in prompts
  ]
  longest = max(len(row) for row in rows)
  ids = [[0] * (longest - len(row)) + row for row in rows]
  mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
  return torch.tensor(ids), torch.tensor(mask)


if __name__ == "__main__":
  main()
