"""Names and shapes of models in transformers; needs torch, nothing of ours.

    python shapes_oracle.py < configs.json > answer.json

The input has config.json objects by name. The models have no memory. For each
the answer has the number of its parameters, those that are one counted once,
and the names and shapes of its state. Where a parameter goes by two names, the
state has both, and a checkpoint one.
"""

import json
import sys

import torch
import transformers


def main():
  answer = {}
  for name, values in json.load(sys.stdin).items():
    kind = getattr(transformers, values["architectures"][0])
    config = kind.config_class.from_dict(values)
    with torch.device("meta"):
      model = kind(config)
    model.tie_weights()
    answer[name] = {
      "parameters": sum(value.numel() for value in model.parameters()),
      "shapes": {
        path: list(value.shape) for path, value in model.state_dict().items()
      },
    }
  json.dump(answer, sys.stdout)


if __name__ == "__main__":
  main()
