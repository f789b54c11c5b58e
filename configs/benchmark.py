"""Times on the machine at hand: what plans save beside the dense model.

`--config=configs/benchmark.py` (or `:deploy`) measures prefill, decoding and
both together under plans and densely; `:latency` measures a table of layer
times for searches; `:pictures` how fast pictures are read and preprocessed for
published models; `:ci` does all of it in a short form, for tests.
"""

import ml_collections

# "deploy" is the same as none.
VARIANTS = ("deploy", "latency", "pictures", "ci")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `arg` is "" or one of `VARIANTS`."""
  if arg not in ("", *VARIANTS):
    raise ValueError(
      f"variant {arg!r} is unknown; use '' or one of {', '.join(VARIANTS)}"
    )
  config = ml_collections.ConfigDict()
  config.task = "benchmark"
  alone = arg in ("latency", "pictures")
  config.measure = (arg,) if alone else ("deploy",)
  # "tiny" (shipped), "wide" (1024 wide, 576 visual tokens, random weights);
  # "llava_1_5_7b" (random weights) where 14 GB of them have room.
  config.models = ("tiny", "wide")  # of "deploy"
  config.model = "tiny"  # of "latency"
  config.batches = (1, 8)

  # Layer averages as shares of the visual tokens: 48, 32, 16 and 4 of 144.
  config.budgets = (1 / 3, 2 / 9, 1 / 9, 1 / 36)
  config.presets = ("prune", "merge_proportional", "hybrid")
  config.plans = ()  # JSON files of plans, such as a search writes
  config.text_tokens = 24
  config.steps = 16  # tokens decoded behind the first one

  config.repeats = 15  # rounds; a time is their median
  config.seconds = 60.0  # no further round after so long, but at least 3
  config.pictures = 50  # shown to one compiled program; of "pictures"
  config.points = 8  # numbers of tokens in the latency table
  config.seed = 0

  if arg == "ci":
    config.measure = ("deploy", "latency", "pictures")
    config.models, config.batches = ("tiny",), (1,)
    config.budgets, config.presets = (1 / 3, 1 / 36), ("prune",)
    config.steps, config.repeats, config.points = 2, 2, 2
    config.pictures = 8
  return config.lock()
