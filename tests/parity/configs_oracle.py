"""What transformers makes of configs and of tied heads; needs torch only.

    python configs_oracle.py FOLDER < request.json > answer.json

`filled` has config.json objects by name; the answer has each with every
default. `heads` has tiny configs by family, and the answer has, by family,
flags and tensors in the file, what the loaded model's head and embedding are.
"""

import contextlib
import itertools
import json
import pathlib
import sys

import safetensors.torch
import torch
import transformers

FLAGS = (None, False, True)
FILES = ("differ", "same", "head", "embedding")


def main():
  request = json.load(sys.stdin)
  root = pathlib.Path(sys.argv[1])
  with contextlib.redirect_stdout(sys.stderr):
    answer = {
      "version": transformers.__version__,
      "filled": {
        name: filled(values) for name, values in request["filled"].items()
      },
      "heads": {
        name: heads(root / name, values)
        for name, values in request["heads"].items()
      },
    }
  json.dump(answer, sys.stdout)


def filled(values):
  """A config with every default."""
  kind = transformers.CONFIG_MAPPING[values["model_type"]]
  return kind.from_dict(values).to_dict()


def heads(folder, values):
  """What head and embedding are, by flags and tensors in the file."""
  config = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(values)
  kind = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
  torch.manual_seed(0)
  kind(config).save_pretrained(folder)
  path = folder / "model.safetensors"
  table = safetensors.torch.load_file(path)
  (head,) = [name for name in table if name.endswith("lm_head.weight")]
  (embed,) = [name for name in table if name.endswith("embed_tokens.weight")]
  original = json.loads((folder / "config.json").read_text())
  found = {}
  for top, text, file in itertools.product(FLAGS, FLAGS, FILES):
    changed = dict(table)
    if file == "same":
      changed[head] = changed[embed].clone()
    if file == "head":
      del changed[embed]
    if file == "embedding":
      del changed[head]
    safetensors.torch.save_file(changed, path, {"format": "pt"})
    written = json.loads(json.dumps(original))
    for group, flag in ((written, top), (written["text_config"], text)):
      group.pop("tie_word_embeddings", None)
      if flag is not None:
        group["tie_word_embeddings"] = flag
    (folder / "config.json").write_text(json.dumps(written))
    model, info = kind.from_pretrained(
      folder, output_loading_info=True, dtype=torch.float32
    )
    found[f"{top} {text} {file}"] = outcome(
      model, info, changed.get(head), changed.get(embed)
    )
  return found


def outcome(model, info, head, embed):
  """Where head and embedding come from, in a word for each."""
  got = {
    "head": model.get_output_embeddings().weight,
    "embedding": model.get_input_embeddings().weight,
  }
  missing = [
    name
    for name in info["missing_keys"]
    if name.endswith(("lm_head.weight", "embed_tokens.weight"))
  ]
  if missing:
    return "missing"
  words = []
  for value in got.values():
    if head is not None and torch.equal(value, head):
      words.append("head")
    elif embed is not None and torch.equal(value, embed):
      words.append("embedding")
    else:
      words.append("neither")
  return " ".join(words)


if __name__ == "__main__":
  main()
