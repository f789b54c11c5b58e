"""Runs the search: budget after budget, with checks, checkpoints and plans.

Budgets are searched from the largest to the smallest in one run; each starts
from the operators that the one before found, with its counts scaled down. Or
one policy is searched for all of them at once.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import datetime
import hashlib
import pathlib
import time
import types
from typing import Any

import jax
import numpy as np

import eos_jax
from eos_jax import cost, files, models, ops, processes, search
from eos_jax.models import partition
from eos_jax.training import (
  loop,
  metrics,
  record,
  search_check,
  speed,
  trained,
)
from eos_jax.training import search as search_lib
from eos_jax.training import settings as settings_lib
from eos_jax.training import workdir as workdir_lib


@dataclasses.dataclass(frozen=True)
class Found:
  """What a search returns for one budget.

  Attributes:
    limit: layer average of visual tokens that was allowed.
    plan: the plan.
    soft: accuracy of the relaxed operators on the check questions.
    hard: accuracy of the rounded ones on the same questions.
    weights: where the model's parameters are, where the search trained them.
  """

  limit: float
  plan: ops.ReductionPlan
  soft: float
  hard: float
  weights: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Course:
  """What this process did of a search.

  Attributes:
    steps: steps taken, of all.
    seconds: that they took, with data, compilation, checks and checkpoints.
    compilations: programs compiled for a step: 1, 2 with calibration.
    speed: of its steps; None = too few to measure.
  """

  steps: int
  seconds: float
  compilations: int
  speed: speed.Speed | None


class Budgets:
  """Budget after budget: what is fixed during the run, and the loop's hooks."""

  def __init__(
    self,
    problem: search_lib.Problem,
    checker: search_check.Checker,
    model: models.Model,
    workdir: pathlib.Path,
    writer: metrics.Writer,
    facts: Mapping[str, Any],
  ):
    self.problem, self.checker, self.model = problem, checker, model
    mesh = model.mesh
    # Of every plan; the same in a run that was resumed, but for the date.
    self.provenance = {
      "date": datetime.date.today().isoformat(),
      "score_questions": problem.settings.check_questions,
      "seed": problem.settings.seed,
      "steps": problem.steps,
      "search": files.digest(facts)[:16],
      "eos_jax": eos_jax.__version__,
      "jax": jax.__version__,
    }
    self.writer, self.weights = writer, workdir / "weights"
    self.plans = workdir / "plans"
    self.plans.mkdir(exist_ok=True)
    self.limits = sorted(problem.settings.budgets, reverse=True)
    self.everywhere = partition.replicated(mesh)
    self.cut = partition.batch_sharding(mesh)
    placed = partition.param_shardings(mesh, problem.params)
    self.params = processes.place(problem.params, placed)
    self._wanted: dict[float, bool] = {}
    self.key = jax.random.key(problem.settings.seed)
    self._step, self._calibration = (
      loop.compile_step(
        make(problem),
        self.everywhere,
        self.cut,
        self.everywhere,
        constants=(placed, *(self.everywhere,) * constants),
      )
      for make, constants in (
        (search_lib.make_step, 5),
        (search_lib.make_calibration_step, 3),
      )
    )

  @property
  def compilations(self) -> int:
    """Programs that were compiled for a step."""
    return self._step._cache_size() + self._calibration._cache_size()

  def where(self, step: int) -> tuple[float, int]:
    """Limit that a step belongs to, and its number within that budget."""
    steps = self.problem.settings.budget_steps
    return self.limits[step // steps], step % steps

  def wanted(self, limit: float) -> bool:
    """Whether a larger budget of this run was used up."""
    if limit not in self._wanted:
      self._wanted[limit] = any(
        cost.plan_average(self._written(larger)[0])
        >= (1 - search.NEAR) * larger
        for larger in self.limits
        if larger > limit
      )
    return self._wanted[limit]

  def start(self) -> search.SearchState:
    """State before the first step."""
    state = search_lib.first_state(self.problem)
    return processes.place(state, self.everywhere)

  def advance(self, step, state, batch):
    """One step; the first one of a later budget first passes on to it."""
    limit, inner = self.where(step)
    if inner == 0 and step:
      before, _ = self.where(step - 1)
      state = search_lib.next_state(self.problem, state, before, limit)
      state = processes.place(state, self.everywhere)
    if inner < self.problem.settings.steps:
      return self.descend(state, batch, limit, inner)
    keep = self.problem.whole_counts(state, limit, self.wanted(limit))
    keep = np.asarray(keep, np.float32)
    batch = processes.place_share(batch, self.cut)
    return self._calibration(state, batch, self.params, self.key, limit, keep)

  def descend(self, state, batch, limit, inner):
    """One step under a limit, the `inner`-th of its budget."""
    settings = self.problem.settings
    return self._step(
      state,
      processes.place_share(batch, self.cut),
      self.params,
      self.key,
      limit,
      search_lib.temperature_at(settings, inner),
      inner / settings.steps,
      search_lib.forced_counts(
        self.problem, state, limit, inner, self.wanted(limit)
      ),
    )

  def check(self, done, state):
    """Soft and hard accuracy; after a budget's last step also its plan."""
    limit, inner = self.where(done - 1)
    last = inner + 1 == self.problem.settings.budget_steps
    wanted = self.wanted(limit) or (last and self.misses(state, limit))
    keep = self.problem.whole_counts(state, limit, wanted)
    checked = self.judge(done, state, limit, inner, keep)
    if not last:
      return
    plan = search.discretize(
      state.variables["policy"],
      self.problem.space,
      constraints=self.problem.constraints(limit),
      measures=self.problem.measures,
      multipliers=self.problem.multipliers(state, limit, wanted),
      model=self.problem.cfg.name,
      name=f"eos@{limit:g}",
    )
    self.write(limit, checked, plan, state)

  def misses(self, state: search.SearchState, limit: float) -> bool:
    """Whether the check questions miss what a budget has left unused.

    A search may end below a limit that it would use up: its steps become
    short, and multipliers fall to 0 on the way back to the limit.
    """
    found, full = (
      self.problem.whole_counts(state, limit, wanted)
      for wanted in (False, True)
    )
    if found == full:
      return False
    with_all, without = (
      self.checker.loss(state, self.params, limit, keep)
      for keep in (full, found)
    )
    return with_all < without

  def judge(self, done, state, limit, inner, keep=None):
    """Soft and hard accuracy at a limit, also written to the metrics."""
    soft, hard = self.checker(state, self.params, limit, inner, keep)
    checked = {"limit": limit, "soft": soft, "hard": hard}
    self.writer.write(done, {f"check/{n}": v for n, v in checked.items()})
    return checked

  def write(self, limit, checked, plan, state):
    """Keeps what was found at a budget; the plan last, which says it is.

    The check's file has the digests of the others, and one of itself.
    """
    found = {"budget": limit, "score": checked["hard"], **self.provenance}
    plan = dataclasses.replace(plan, provenance=found)
    checked = {**checked, "plan": plan.digest}
    if self.problem.settings.trains_model:
      params = trained.merged(self.params, state.variables["model"])
      path = self.weights / f"{limit:g}"
      path = self.model.save(path, self.model.place(params))
      checked["weights"] = {"file": path.name, "sha256": _digest(path)}
    path = self.plans / f"{limit:g}.check.json"
    files.write_json(path, files.sealed(checked))
    files.write_text(self.plans / f"{limit:g}.json", plan.to_json())

  def log(self, step, values):
    """Writes the metrics of a step; returns a line for the progress bar."""
    flat = {n: np.asarray(v) for n, v in values.items() if n != "aux"}
    flat["exact"] = np.mean(np.asarray(values["aux"]["exact"]))
    if "indecision" in values["aux"]:
      flat["indecision"] = np.asarray(values["aux"]["indecision"])
    limit, inner = self.where(step - 1)
    flat["limit"] = limit
    flat["temperature"] = search_lib.temperature_at(
      self.problem.settings, inner
    )
    self.writer.write(step, flat)
    average = float(flat["value/layer_average"])
    return (
      f"loss {float(flat['task']):.3f} exact {float(flat['exact']):.2f}"
      f" tokens {average:.1f} (limit {limit:g})"
    )

  def _written(self, limit):
    """The plan of a finished budget and its check, as they were written."""
    path = self.plans / f"{limit:g}.json"
    with self._read(path):
      checked = files.unsealed(
        files.read_json(self.plans / f"{limit:g}.check.json")
      )
      plan = ops.ReductionPlan.from_json(path.read_text(encoding="utf-8"))
      if checked["plan"] != plan.digest:
        raise ValueError("it is not the plan that was found")
      return plan, checked

  @contextlib.contextmanager
  def _read(self, path):
    """What cannot be read of a finished budget is a fault of its files."""
    try:
      yield
    except (OSError, ValueError, KeyError) as error:
      raise workdir_lib.WorkdirError(
        f"the search is done, but {path}, or a file next to it, cannot be"
        f" read ({type(error).__name__}: {error}); put the files back, or start"
        " again with a new --workdir"
      ) from error

  def found(self) -> list[Found]:
    """The plans of all budgets, as they were written."""
    result = []
    for limit in self.limits:
      plan, checked = self._written(limit)
      path = None
      if self.problem.settings.trains_model:
        with self._read(self.weights):
          path = self.weights / checked["weights"]["file"]
          if checked["weights"]["sha256"] != _digest(path):
            raise ValueError("they are not the weights that were found")
      result.append(Found(limit, plan, checked["soft"], checked["hard"], path))
    return result


def _digest(path):
  """SHA-256 of a file, or of what a folder of weights says of its contents."""
  path = path / models.converted.MARK if path.is_dir() else path
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _rates(settings):
  """The learning rates of a search, for messages."""
  names = ["learning_rate", "multiplier_learning_rate"]
  names += ["model_learning_rate"] * settings.trains_model
  return ", ".join(f"config.{n}={getattr(settings, n):g}" for n in names)


class Family(Budgets):
  """One policy for all budgets: each step is one of some budget."""

  def wanted(self, limit):
    """No budget is searched before another; see `Problem.multipliers`."""
    del limit
    return False

  def where(self, step):
    """Limit of a step, which is drawn, and its number in the one search."""
    return float(self.problem.knots.budget_at(step)), step

  def advance(self, step, state, batch):
    """One step."""
    return self.descend(state, batch, *self.where(step))

  def check(self, done, state):
    """Accuracy at each budget in turn; after the last step at all of them."""
    settings = self.problem.settings
    if done < settings.steps:
      turn = done // settings.check_every - 1
      limit = self.limits[turn % len(self.limits)]
      self.judge(done, state, limit, done - 1)
      return
    plans = search.family_plans(
      state.variables["policy"],
      self.problem.space,
      self.problem.knots,
      self.limits,
      constraints=self.problem.constraints(self.limits[0])[1:],
      measures=self.problem.measures,
      multipliers=state.variables["multiplier"],
      model=self.problem.cfg.name,
      name="eos",
    )
    for limit, plan in plans.items():
      keep = search.plan_counts(plan, self.problem.space)
      checked = self.judge(done, state, limit, done - 1, keep)
      self.write(limit, checked, plan, state)


def run(
  problem: search_lib.Problem,
  iterator: Any,
  check_questions: Any,
  model: models.Model,
  workdir: pathlib.Path,
  work: speed.Work,
  *,
  searched_on: Mapping[str, Any] = types.MappingProxyType({}),
) -> tuple[list[Found], Course]:
  """Runs or resumes a search; returns a plan for each budget.

  Args:
    problem: what to search over.
    iterator: batches of questions, pairs of them in a bilevel search.
    check_questions: fixed validation questions for the hard checks.
    model: of the problem; a checkpoint of other weights is refused.
    workdir: gets checkpoints, metrics and plans.
    work: of a step.
    searched_on: what the questions depend on, plain values; a checkpoint of
      others is refused.
  """
  began, settings = time.monotonic(), problem.settings
  mesh = model.mesh
  for rows in (settings.batch, settings.micro_batch, settings.check_batch):
    partition.check_batch(mesh, rows)
  facts = {
    "weights": model.fingerprint,
    "data": dict(searched_on),
    "settings": settings_lib.binding(settings),
    "sites": list(problem.space.sites),
  }
  checker = search_check.Checker(
    problem, check_questions, settings.check_batch, mesh
  )
  with record.Record(workdir, facts, keep=settings.checkpoints_to_keep) as book:
    meter = speed.Meter(work, workdir, book.writer, trace=settings.trace_steps)
    kind = Family if problem.knots else Budgets
    task = kind(problem, checker, model, workdir, book.writer, facts)
    state, iterator, start = book.resume(task.start(), iterator, problem.steps)
    loop.run(
      task.advance,
      state,
      iterator,
      start=start,
      stop=problem.steps,
      label="search",
      meter=meter,
      log=task.log,
      log_every=settings.log_every,
      save=book.save,
      save_every=settings.save_every,
      check=task.check,
      check_every=settings.check_every,
      setting=_rates(settings),
    )
  seconds = time.monotonic() - began
  course = Course(
    problem.steps - start, seconds, task.compilations, meter.median
  )
  return task.found(), course
