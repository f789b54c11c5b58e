"""The main job: search reduction plans for a model and judge them.

`--config=configs/search.py` searches for the shipped model, on two CPU cores in
minutes; `:family` finds twelve plans from one search; `:fast` plans of two
sites, which keep more of what their FLOPs promise than those of five; `:ci` is
the first in a shortened form, for tests.

`:llava_1_5_7b`, `:llava_onevision_7b`, `:qwen2_vl_7b`, `:smolvlm_500m` search
for a published model in a folder, on instructions of the user:
`--config.model.path=FOLDER --config.data.path=FILE.json`. They serve every size
of their family; what they set is where sites are, budgets, and how much room
pictures have.
"""

import ml_collections

_NUMBERS = (
  "activation",
  "retention",
  "kappa",
  "gamma",
  "tau",
  "theta",
  "rho",
  "rho_attn",
  "eta",
  "delta",
)

# Budgets of published models, and the room for the pictures of an instruction:
# pictures (of SmolVLM each tile is one), tiles of each, size of each in pixels.
PUBLISHED = {
  "llava_1_5_7b": {"budgets": (192.0, 128.0, 64.0), "pictures": 1},
  "llava_onevision_7b": {
    "budgets": (1233.0, 822.0, 411.0),
    "pictures": 1,
    "tiles": (2, 2),
  },
  "qwen2_vl_7b": {
    "budgets": (192.0, 128.0, 64.0),
    "pictures": 1,
    "size": (672, 672),
  },
  "smolvlm_500m": {"budgets": (32.0, 16.0, 8.0), "pictures": 17},
}
VARIANTS = ("tiny", "family", "fast", "ci", *PUBLISHED)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the config; `arg` is "" or one of `VARIANTS`."""
  if arg and arg not in VARIANTS:
    raise ValueError(
      f"variant {arg!r} is unknown; use '' or one of {', '.join(VARIANTS)}"
    )
  config = ml_collections.ConfigDict()
  config.task = "search"
  config.seed = 0
  config.weights_path = ""  # "" = the weights inside the package
  # Devices along data, fsdp and tensor. () = all along data; of a published
  # model as many along fsdp as its shapes allow.
  config.mesh = ()

  config.data = ml_collections.ConfigDict()
  config.data.suite = "held_out"  # validation and test pictures
  config.data.directory = ""  # "" = where tensorflow_datasets keeps its data
  config.weights = (0.85, 0.15)  # share of mini_suite and easy_vqa pictures

  # Visual tokens, averaged over the decoder's layers; the model has 144.
  config.budgets = (48.0, 32.0, 16.0, 4.0)

  config.knots = 0  # from 2 on: one policy for all budgets, in one search

  config.limits = _limits()  # what every plan has to meet besides

  # Where the search starts and what it may change.
  config.sites = ()  # () = every decoder site
  config.start = "hybrid"
  config.free = (
    "where",
    "how_many",
    "scores",
    "transfer",
    "temperature",
    "reweight",
    "normalization",
    "size_bias",
    "affinity",
  )
  # Lowest and highest value of a number, () = the default; and the weight of a
  # pull towards the start's.
  config.ranges = ml_collections.ConfigDict()
  config.priors = ml_collections.ConfigDict()
  for name in _NUMBERS:
    config.ranges[name] = ()
    config.priors[name] = 0.0

  # "frozen": the policy alone. "joint", "bilevel": projector and decoder move
  # too, by an optimiser of their own; these need data.suite = "default".
  config.mode = "frozen"
  config.labels = True  # False: the alignment alone, answers are not read

  _course(config)

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.questions = 500
  config.evaluation.batch = 128
  config.evaluation.seed = 0
  # Named later, others join a finished run: what was evaluated is kept.
  config.evaluation.presets = ("prune", "merge_proportional")
  if arg in PUBLISHED:
    _published(config, **PUBLISHED[arg])
  if arg == "family":
    _family(config)
  if arg == "fast":
    config.sites = ("decoder.0", "decoder.2")
  if arg == "ci":
    _shorten(config)
  return config.lock()


def _course(config):
  """How it is searched, and checked on the way."""
  # How the soft operators stand for hard decisions; "straight_through" runs
  # both in every step.
  config.relaxation = "annealed"
  config.binarize = 0.0
  config.whole_from = 0.75  # share of the steps after which counts are whole
  config.calibration_steps = 0

  # Optimisation, for each budget.
  config.steps = 60
  config.batch = 24
  config.micro_batch = 0  # questions at once, against memory; 0 = all of them
  # Against memory: "layers" or "products" of the decoder are computed again.
  config.remat = ""
  config.learning_rate = 0.1
  config.model_learning_rate = 1e-4
  config.multiplier_learning_rate = 0.05
  config.penalty = 4.0
  config.align = 0.3
  config.start_multiple = 1.1
  config.start_decay = 0.8
  config.temperature_start = 0.5
  config.temperature_end = 0.001
  config.anneal_share = 0.9

  # Hard checks while the search runs, on validation questions.
  config.check_every = 60
  config.check_questions = 256
  config.check_batch = 64
  config.log_every = 5
  config.save_every = 60
  config.keep = 2  # newest checkpoints
  config.trace_steps = ()  # (first, last): jax.profiler's trace of these


def _limits():
  """Limits beside the budget; 0 = none."""
  limits = ml_collections.ConfigDict()
  limits.final_count = 0.0  # visual tokens after the last site
  limits.flops = 0.0  # of a prefill, as a share of the dense model's
  limits.kv_bytes = 0.0  # of the cache, likewise
  limits.latency = 0.0  # of a prefill by a measured table, likewise
  limits.latency_table = ""  # of configs/benchmark.py:latency
  limits.latency_batch = 1
  limits.text_tokens = 24  # of the prompts that they are taken at
  return limits


def _family(config):
  """One search for twelve budgets."""
  config.knots, config.steps = 4, 118
  config.check_every = 59
  config.budgets = (48.0, 39.0, 32.0, 26.0, 21.0, 16.0)
  config.budgets += (13.0, 10.0, 8.0, 6.5, 5.0, 4.0)
  config.evaluation.presets = ("merge_proportional", "tome", "pool")


def _published(config, budgets, pictures, tiles=(), size=()):
  """A model and instructions in the user's files."""
  config.task = "search_published"
  del config.weights_path, config.weights, config.data
  config.model = ml_collections.ConfigDict()
  config.model.path = ""  # folder of the checkpoint, or of a converted one
  config.model.dtype = "bfloat16"  # "" = that of the checkpoint
  config.model.allow_outside = False  # weights that links or the index reach

  config.data = ml_collections.ConfigDict()
  config.data.path = ""  # LLaVA's instruction JSON
  config.data.images = ""  # folder of its pictures; "" = that of the JSON file
  config.data.apart = False  # True: set entries that cannot be used apart
  # True: names of images may be absolute, or lead out of the image folder.
  config.data.images_anywhere = False
  # Shares of the pictures. The policy is searched on validation and judged on
  # test; train is for mode = "joint" and "bilevel".
  config.data.train, config.data.validation = 0.0, 0.8
  config.data.test = 0.2
  config.data.text_length = 256
  config.data.answer_length = 32
  config.data.pictures, config.data.tiles = pictures, tiles
  config.data.size = size

  # Where FastV and PyramidDrop act, and what projectors' reducers stand for.
  config.sites = ("decoder.0", "decoder.2", "decoder.8", "decoder.16")
  config.budgets, config.batch, config.remat = budgets, 8, "layers"
  config.steps = config.check_every = config.save_every = 240
  config.check_batch, config.evaluation.batch = 8, 8


def _shorten(config):
  """Every stage in seconds; what it finds means nothing."""
  config.data.suite = "tiny"
  config.budgets = (48.0, 16.0)
  config.sites = ("decoder.0", "decoder.2")
  config.steps, config.batch, config.check_every = 4, 8, 2
  config.check_questions, config.check_batch = 16, 8
  config.log_every, config.save_every = 1, 2
  config.evaluation.questions, config.evaluation.batch = 32, 16
  config.evaluation.presets = ("prune", "pool", "fastv")
