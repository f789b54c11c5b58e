"""A job's model, devices and questions, from its settings.

Everything is checked before weights are read; all faults are listed at once.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import tqdm

from eos_jax import data, files, models
from eos_jax.data import faults as faults_lib
from eos_jax.data import packing, sources, suite
from eos_jax.evaluation import evaluator
from eos_jax.models import fits, partition
from eos_jax.training import settings, shared_settings

# Tokens of the longest answer of the suite, with its end, by the tiny model.
SUITE_ANSWER = 6
# Tokens of text and of an answer that a source needs: of the suite for the tiny
# model and for others.
_SUITE_LENGTHS = {
  True: (packing.DEFAULT_TEXT_LENGTH, SUITE_ANSWER),
  False: (128, 8),
}
_LENGTHS = {"instructions": (256, 32), "benchmarks": (512, 0)}


class Attempts:
  """Collects what is wrong with a config, so that all of it is listed."""

  def __init__(self):
    self.faults: list[str] = []

  def __call__(self, field: str, make: Any) -> Any:
    """Returns what `make` does; None, and a fault of the field, if it fails."""
    try:
      return make()
    except settings.ConfigError as error:
      self.faults += error.faults
    except (ValueError, sources.DataError) as error:
      self.faults.append(f"config.{field}: {error}")
    return None

  def check(self) -> None:
    """Raises `settings.ConfigError` if there are faults."""
    if self.faults:
      raise settings.ConfigError(list(dict.fromkeys(self.faults)))


@dataclasses.dataclass(frozen=True)
class Opened:
  """What a job works on, but for the weights.

  Attributes:
    files: the model.
    mesh: devices.
    questions: to the model; None for jobs without questions.
    answer_length: tokens of an answer, at most; 0 = as the benchmark has it.
  """

  files: models.ModelFiles
  mesh: jax.sharding.Mesh
  questions: data.Questions | None
  answer_length: int = 0

  @property
  def cfg(self) -> models.VLMConfig:
    """Shape of the model."""
    return self.files.cfg

  def row_bytes(self) -> int:
    """Returns the bytes of a row of questions."""
    cfg, rows = self.cfg, self.questions.rows
    pixels = 3 * cfg.crops * math.prod(cfg.vision.size)
    depth = 1 if rows.drawn else 4  # 8 bits, or normalised
    return rows.max_images * pixels * depth + 6 * rows.text_length

  def load(
    self,
    others: Mapping[str, int],
    check: Callable[[fits.Need], None] = lambda need: None,
  ) -> models.Model:
    """Prints the memory that the model needs, and reads its weights.

    Args:
      others: further bytes on each device, by their purpose.
      check: refuses what does not fit elsewhere.

    Raises:
      fits.TooLarge: there is not enough memory.
    """
    need = fits.measure(
      self.files,
      self.files.dtype,
      self.mesh,
      besides=others,
      host=self.files.host_bytes,
    )
    free = fits.room()
    print(fits.report(need, free), flush=True)
    fits.check(need, free)
    check(need)
    with tqdm.tqdm(  # small files are read before there is anything to show
      desc="reading", unit="B", unit_scale=True, dynamic_ncols=True, delay=1.0
    ) as bar:
      return self.files.load(self.mesh, watch=functools.partial(advance, bar))


def advance(bar: tqdm.tqdm, done: int, total: int) -> None:
  """Moves a progress bar to where the work is."""
  bar.total = total
  bar.update(done - bar.n)


def open_model(
  job: shared_settings.ModelSettings,
  attempt: Attempts,
  static: Mapping[str, Any],
  **options: Any,
) -> tuple[models.ModelFiles | None, jax.sharding.Mesh | None]:
  """Opens the model and the mesh of a job.

  Args:
    job: has model, dtype, allow_outside and mesh.
    attempt: collects faults.
    static: arguments of `ModelFiles.with_shape`.
    **options: further ones of `models.open_files`.
  """

  def make():
    files = models.open_files(
      job.model, dtype=job.dtype, allow_outside=job.allow_outside, **options
    )
    return files.with_shape(**static)

  files = attempt("model", make)
  shapes = files and files.sharded_by
  mesh = attempt("mesh", lambda: partition.make_mesh(job.mesh, shapes))
  if files is not None and mesh is not None:
    attempt("mesh", lambda: partition.param_shardings(mesh, files.shapes))
  return files, mesh


@functools.lru_cache(maxsize=1)  # checked once, then run
def opened(job: Any) -> Opened:
  """Opens a job that asks questions.

  Args:
    job: has the fields of `shared_settings.ModelSettings`, data, batch_sizes
      and for_model.

  Raises:
    settings.ConfigError: model, data or devices do not fit; all is listed.
  """
  attempt, chosen = Attempts(), job.data.resolved()
  files, mesh = open_model(job, attempt, chosen.image_shape)
  questions, answer_length = None, 0
  if files is not None:
    text_length, answer_length = _lengths(chosen, files)
    protocol = chosen.protocol if chosen.source == "benchmarks" else ""
    rows = attempt("model", lambda: files.rows(text_length, protocol))
    if rows is not None:
      field = "data.path" if chosen.path else "data"
      questions = attempt(field, lambda: data.load(chosen, rows))
    if attempt.faults and mesh is not None:  # those of batches join them
      sizes = job.for_model(files.cfg).batch_sizes
      attempt.faults += batch_faults(mesh, sizes)
  attempt.check()
  return Opened(files, mesh, questions, answer_length)


def _lengths(chosen, files):
  """Tokens of text and of an answer: as set, or as the source needs."""
  default = _LENGTHS.get(chosen.source, _LENGTHS["instructions"])
  if chosen.source == "suite":
    default = _SUITE_LENGTHS[files.family == models.TINY]
  return chosen.text_length or default[0], chosen.answer_length or default[1]


def depends(
  found: Opened, parts: Sequence[str], checks: data.QuestionSet
) -> dict[str, Any]:
  """Returns what a training run depends on in addition to weights and settings.

  Args:
    found: the job as opened.
    parts: that batches come from.
    checks: fixed questions that judge it on the way.
  """
  return {
    **found.questions.searched_on(parts),
    "rows": files.digest(found.questions.rows.facts()),
    "model": files.digest(dataclasses.asdict(found.cfg)),
    "checks": checks.digest(),
  }


def forget() -> None:
  """Opens the next job anew: files may have changed."""
  opened.cache_clear()


def batch_faults(
  mesh: jax.sharding.Mesh, sizes: Mapping[str, int]
) -> list[str]:
  """Returns which batch sizes, by field, cannot be cut evenly over devices."""
  faults = []
  for name, batch in sizes.items():
    try:
      partition.check_batch(mesh, batch)
    except ValueError as error:
      faults.append(f"config.{name}: {error}")
  return faults


def question_faults(
  found: Opened,
  *,
  batches: Mapping[str, int],
  asked: Mapping[str, tuple[int, str]],
  streams: Mapping[str, str],
) -> list[str]:
  """Returns why the questions or the devices do not serve a job.

  Args:
    found: the job as opened.
    batches: batch sizes by field.
    asked: (number of questions, part) of fixed sets, by field.
    streams: what needs each part that is trained or searched on.
  """
  faults, questions = batch_faults(found.mesh, batches), found.questions
  needed = {part: field for field, (_, part) in asked.items()} | streams
  for part, purpose in needed.items():
    if part not in questions.parts:
      faults.append(
        f"config.data: {questions.name} has no {part} split for {purpose}, only"
        f" {', '.join(questions.parts)}; {_remedy(questions, part)}"
      )
  return faults + questions.faults(asked)


def _remedy(questions, part):
  if questions.name == "suite":
    return "use config.data.suite='default'"
  if questions.name == "instructions":
    return f"give config.data.{part} a share, such as 0.6"
  if questions.name == "benchmarks":
    return "use the suite, instructions or a function"
  return f"let the function return items for {part!r}"


def check_rows(found: Opened, choose: Callable[..., Any], job: Any) -> None:
  """Makes each row of fixed sets once, before any work.

  Those of the rendered suite fit, and are not rendered for this.

  Args:
    found: the job as opened.
    choose: returns the sets, from `found` and the job.
    job: the settings.

  Raises:
    sources.DataError: there are rows that cannot be made; all are listed.
  """
  if isinstance(found.questions, suite.Suite):
    return
  faults = []
  for one in choose(found, job):
    faults += one.unusable().values()
  if faults:
    raise sources.DataError(faults_lib.listed(list(dict.fromkeys(faults))))


def fixed_sets(found: Opened, job: Any) -> tuple[Any, Any]:
  """Returns the questions of the checks, and those of the test.

  Args:
    found: the job as opened.
    job: has seed, check_questions and evaluation.
  """
  (checks,) = found.questions.choose(
    "validation", count=job.check_questions, seed=job.seed
  )
  (tests,) = found.questions.choose(
    "test", count=job.evaluation.questions, seed=job.evaluation.seed
  )
  return checks, tests


def evaluator_of(
  found: Opened, model: models.Model, tests: Any, chosen: Any
) -> evaluator.Evaluator:
  """Returns what asks a model the questions of a set.

  Args:
    found: the job as opened.
    model: the model.
    tests: the questions.
    chosen: has batch and seed.
  """
  return evaluator.Evaluator(
    found.cfg,
    model.params,
    tests,
    batch=chosen.batch,
    seed=chosen.seed,
    steps=found.answer_length,
    placement=partition.batch_sharding(found.mesh),
  )
