"""Judges plans: accuracy and cost, beside dense and hand-made operators.

`--config=configs/evaluate.py --config.plan=runs/search/plans/16.json` asks the
shipped model the whole test split; `:ci` asks a few questions on a small data
set, for tests.

`:llava_1_5_7b`, `:llava_onevision_7b`, `:qwen2_vl_7b`, `:smolvlm_500m` ask a
published model benchmarks:
`--config.model.path=FOLDER --config.data.folder=BENCHMARKS
--config.data.names="('pope','gqa')" --config.plans="('plans/64.json',)"`.
"""

import ml_collections

# The room for the picture of a question, as in `configs/search.py`.
PUBLISHED = {
  "llava_1_5_7b": {"pictures": 1, "style": "vicuna", "aspect": "pad"},
  "llava_onevision_7b": {"pictures": 1, "tiles": (2, 2)},
  "qwen2_vl_7b": {"pictures": 1, "size": (672, 672)},
  "smolvlm_500m": {"pictures": 17},
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `arg` is "", "ci" or one of `PUBLISHED`."""
  if arg in PUBLISHED:
    return _published(**PUBLISHED[arg])
  if arg not in ("", "ci"):
    known = ", ".join(("ci", *PUBLISHED))
    raise ValueError(f"variant {arg!r} is unknown; use '' or one of {known}")
  config = ml_collections.ConfigDict()
  config.task = "evaluate"
  config.plan = ""  # the plan's JSON file
  config.weights_path = ""  # "" = the weights inside the package

  config.data = ml_collections.ConfigDict()
  config.data.suite = "held_out"
  config.data.directory = ""  # "" = where tensorflow_datasets keeps its data

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.questions = 0  # 0 = the whole test split
  config.evaluation.batch = 128
  config.evaluation.seed = 0
  # Hand-made operators to judge at the plan's layer average, such as "prune".
  config.evaluation.presets = ()

  if arg == "ci":
    config.data.suite = "tiny"
    config.evaluation.questions, config.evaluation.batch = 32, 16
  return config.lock()


def _published(pictures, tiles=(), size=(), style="", aspect=""):
  """A model in the user's folder, and benchmarks in their official files."""
  config = ml_collections.ConfigDict()
  config.task = "evaluate_published"
  config.model = ml_collections.ConfigDict()
  config.model.path = ""  # folder of the checkpoint, or of a converted one
  config.model.dtype = "bfloat16"  # "" = that of the checkpoint
  config.model.allow_outside = False  # weights that links or the index reach
  # Devices along data, fsdp and tensor; () = as many along fsdp as the shapes
  # allow, the others along data.
  config.mesh = ()

  config.data = ml_collections.ConfigDict()
  config.data.folder = ""  # has a folder of each benchmark, by its name
  config.data.names = ()
  config.data.protocol = "lmms_eval"  # or "llava": prompts, scores, lengths
  # Conversation and squares of LLaVA-1.5 as its authors have them; "" = as the
  # folder has them.
  config.data.style, config.data.aspect = style, aspect
  config.data.files = ()  # ("gqa=FILE",): instead of the file of the rule
  config.data.apart = False  # True: set rows that cannot be used apart
  # True: names of images may be absolute, or lead out of the image folder.
  config.data.images_anywhere = False
  config.data.count = 0  # of questions of each benchmark; 0 = all
  config.data.text_length = 512
  config.data.answer_length = 0  # 0 = the protocol's
  config.data.pictures, config.data.tiles = pictures, tiles
  config.data.size = size

  config.plans = ()  # JSON files of plans
  # Random selection, a grid and pooling stand beside at these layer averages,
  # () = those of the plans; and further hand-made operators.
  config.budgets, config.presets = (), ()
  config.batch, config.seed = 8, 0
  return config.lock()
