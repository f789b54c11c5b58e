"""What several tasks need: the model, its weights, data, the evaluator."""

from collections.abc import Callable, Mapping, Sequence
import errno
import functools
import importlib.resources
import os
import pathlib
import stat
from typing import Any

import jax
import tqdm

import eos_jax
from eos_jax import models, naming, ops, processes
from eos_jax.data import (
  easy_vqa,
  generator,
  loader,
  mini_suite,
  prompts,
  sources,
  tokenizer,
)
from eos_jax.evaluation import evaluator
from eos_jax.ops import plan_file, trial
from eos_jax.training import partition, settings

ANSWER_TOKENS = 6  # the longest answer and </s>


def shipped_weights() -> pathlib.Path:
  """The weights of the `tiny` model inside the package."""
  root = importlib.resources.files(eos_jax)
  return pathlib.Path(str(root / "models" / "weights" / "tiny.safetensors"))


def shipped_plan(model: str, limit: float) -> ops.ReductionPlan | None:
  """The plan that a search found for a model at a layer average, if any."""
  path = shipped_weights().parents[1] / "plans" / f"{model}_{limit:g}.json"
  return read_plan(str(path), "shipped plan") if path.exists() else None


def model() -> tuple[tokenizer.Tokenizer, models.VLMConfig]:
  """The tokenizer and the config of the shipped model."""
  words = tokenizer.load()
  return words, models.tiny(words.vocab_size, tuple(prompts.prefix_ids(words)))


def lacking(site: str, spec: ops.OperatorSpec) -> str:
  """Says which signals an operator reads that a site cannot have; "" = none."""
  needed = set(ops.required_signals(spec)) - models.site_signals(site)
  if not needed:
    return ""
  return (
    f"{spec.name!r} reads {', '.join(sorted(needed))}, which the site {site!r}"
    " does not have"
  )


def read_plan(path: str, field: str) -> ops.ReductionPlan:
  """The plan in a JSON file.

  Args:
    path: the file.
    field: of the config that names it.

  Raises:
    settings.ConfigError: it cannot be read, or holds no plan.
  """
  try:
    if not pathlib.Path(path).is_file() and pathlib.Path(path).exists():
      raise OSError(errno.EINVAL, "it is no regular file")
    with open(path, "rb") as file:
      text = file.read(plan_file.MOST_BYTES + 1)
  except OSError as error:
    raise settings.ConfigError(
      [
        f"{field}: {path} cannot be read ({error.strerror}); give the JSON"
        " file of a plan, such as runs/search/plans/16.json"
      ]
    ) from error
  try:
    return ops.ReductionPlan.from_json(text)
  except ValueError as error:
    raise settings.ConfigError([f"{field}: {path}: {error}"]) from error


def plan_faults(
  cfg: models.VLMConfig, plan: ops.ReductionPlan, where: str
) -> list[str]:
  """Why a model cannot run a plan, a line each; `where` begins them."""
  faults = [
    f"{where} is of another model: {field} is {theirs!r} there"
    f" and {ours!r} here; use a plan that was searched for {cfg.name!r}"
    for field, theirs, ours in (
      ("model", plan.model, cfg.name),
      ("tokens", plan.tokens, cfg.tokens),
      ("layers", plan.layers, cfg.decoder.layers),
    )
    if theirs != ours
  ]
  faults += [
    f"{where} has the site {site.site!r};"
    f" {settings.nearest(site.site, cfg.sites)}"
    for site in plan.sites
    if site.site not in cfg.sites
  ]
  faults += [
    f"{where}: {fault}; use another operator or site"
    for site in plan.sites
    if (fault := lacking(site.site, site.spec))
  ]
  if faults:
    return faults
  return [
    f"{where}: {fault}"
    for fault in trial.run_faults(
      plan, grid=cfg.grid, protect=int(cfg.vision.class_token)
    )
  ]


def fitting_plan(
  cfg: models.VLMConfig, path: str, field: str
) -> ops.ReductionPlan:
  """The plan in a file; refuses one that this model cannot run."""
  plan = read_plan(path, field)
  if faults := plan_faults(cfg, plan, f"{field}: {path}"):
    raise settings.ConfigError(faults)
  return plan


class Attempts:
  """Collects what is wrong with a config, so that all of it is told at once."""

  def __init__(self):
    self.faults: list[str] = []

  def __call__(self, field: str, make: Callable[[], Any]) -> Any:
    """What `make` gives; None, and a fault of the field, where it refuses."""
    try:
      return make()
    except (ValueError, sources.DataError) as error:
      self.faults.append(f"config.{field}: {error}")
      return None

  def check(self) -> None:
    """Raises `settings.ConfigError` if there are faults."""
    if self.faults:
      raise settings.ConfigError(self.faults)


def batch_faults(
  mesh: jax.sharding.Mesh, sizes: Mapping[str, int]
) -> list[str]:
  """Which batch sizes, by field, the devices cannot cut evenly."""
  faults = []
  for name, batch in sizes.items():
    try:
      partition.check_batch(mesh, batch)
    except ValueError as error:
      faults.append(f"config.{name}: {error}")
  return faults


def split_faults(
  data: settings.DataSettings, split: str, purpose: str
) -> list[str]:
  """Why data do not serve a purpose that reads a split."""
  if split in mini_suite.COUNTS[data.suite]:
    return []
  return [
    f"config.data.suite is {data.suite!r}, which has no {split} split for"
    f" {purpose}; use 'default'"
  ]


def shipped_data_faults(
  data: settings.DataSettings,
  asked: Mapping[str, tuple[int, str]],
  weights: Sequence[float] | None = None,
) -> list[str]:
  """What is wrong with settings of the shipped data, a line each.

  Args:
    data: the data sets.
    asked: number of questions and split that each of these fields asks for.
    weights: share of each data set, where they are mixed.
  """
  faults = []
  if reason := _unusable_folder(data.directory):
    faults.append(
      f"config.data.directory is {naming.quoted(data.directory)}, which cannot"
      f" be made ({reason}); choose another directory, or change its"
      " permissions"
    )
  if weights is not None and len(weights) != len(sources.NAMES):
    faults.append(
      f"config.weights is {naming.quoted(tuple(weights))}; give"
      f" {len(sources.NAMES)} shares, of {' and '.join(sources.NAMES)}"
    )
  for field, (count, split) in asked.items():
    known = mini_suite.QUESTIONS[data.suite][split] + easy_vqa.QUESTIONS[split]
    if count > known:
      faults.append(
        f"config.{field} is {count}; the {split} split of"
        f" config.data.suite={data.suite!r} has {known} questions, use at most"
        " so many"
      )
  return faults


def _unusable_folder(name: str) -> str:
  """Says why a folder cannot be there or be made; "" = no reason is known."""
  path = pathlib.Path(name).absolute()
  if not name or "://" in name:  # the default of tfds, or no local folder
    return ""
  for parent in (path, *path.parents):
    try:
      made = stat.S_ISDIR(os.stat(parent).st_mode)
    except FileNotFoundError:
      continue
    except OSError as error:
      return error.strerror
    if not made:
      return os.strerror(errno.ENOTDIR)
    if parent != path and not os.access(parent, os.W_OK | os.X_OK):
      return os.strerror(errno.EACCES)
    break
  return ""


def data_facts(data: settings.DataSettings) -> dict[str, Any]:
  """What the questions of the shipped data depend on."""
  return {"generator": generator.generator_hash(), "suite": data.suite}


def open_sources(
  split: str, data: settings.DataSettings, keep: bool = False
) -> list[sources.Source]:
  """A split of both datasets, built on first use.

  Args:
    split: "train", "validation" or "test".
    data: which sizes, and where.
    keep: keep decoded pictures in memory.
  """
  return [
    sources.load(
      name,
      split,
      data_dir=data.directory or None,
      config=data.suite if name == "mini_suite" else "default",
      keep=keep,
    )
    for name in ("mini_suite", "easy_vqa")
  ]


def read_weights(cfg: models.VLMConfig, path: str) -> Any:
  """Weights by `config.weights_path`; "" = those inside the package.

  Raises:
    settings.ConfigError: they cannot be read, or are of another model.
  """
  like = jax.eval_shape(functools.partial(models.init, cfg), jax.random.key(0))
  try:
    return models.weights.load(
      pathlib.Path(path) if path else shipped_weights(), like, cfg
    )
  except ValueError as error:
    raise settings.ConfigError([f"config.weights_path: {error}"]) from error


def advance(bar: tqdm.tqdm, done: int, total: int) -> None:
  """Moves a progress bar to where the work is."""
  bar.total = total
  bar.update(done - bar.n)


def placed(params: Any, mesh: jax.sharding.Mesh | None = None) -> Any:
  """Parameters on the devices, sharded by their rules."""
  mesh = mesh or partition.make_mesh()
  return processes.place(params, partition.param_shardings(mesh, params))


def make_evaluator(
  cfg: models.VLMConfig,
  params: Any,
  words: tokenizer.Tokenizer,
  data: settings.DataSettings,
  chosen: settings.EvaluationSettings,
  mesh: jax.sharding.Mesh | None = None,
) -> evaluator.Evaluator:
  """An evaluator over the test questions that the settings choose."""
  questions = loader.evaluation_set(
    open_sources("test", data),
    words,
    count=chosen.questions or None,
    seed=chosen.seed,
  )
  mesh = mesh or partition.make_mesh()
  partition.check_batch(mesh, chosen.batch)
  return evaluator.Evaluator(
    cfg,
    placed(params, mesh),
    questions,
    batch=chosen.batch,
    seed=chosen.seed,
    steps=ANSWER_TOKENS,
    placement=partition.batch_sharding(mesh),
  )
