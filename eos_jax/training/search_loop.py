"""Runs the search: budget after budget, with checks, checkpoints and plans.

Budgets are searched from the largest to the smallest in one run; each starts
from the operators that the one before found, with its counts scaled down.
"""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax import files, models, ops, search
from eos_jax.data import loader
from eos_jax.training import checkpoint, loop, metrics, partition, pretrain
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
  """

  limit: float
  plan: ops.ReductionPlan
  soft: float
  hard: float


class Checker:
  """Accuracy of relaxed and of rounded operators on fixed questions."""

  def __init__(
    self, problem: search_lib.Problem, questions: Any, batch: int, mesh: Any
  ):
    self._problem = problem
    cfg, space = problem.cfg, problem.space
    cut = partition.batch_sharding(mesh)
    see = jax.jit(
      lambda params, image: models.see(cfg, params, pretrain.normalize(image))
    )
    # What the decoder gets stays the same while the search runs, unless it
    # acts on the encoder or trains the projector.
    fixed = problem.settings.mode == "frozen" and not search_lib.reduces_vision(
      space.sites
    )
    self._batches = []
    for host in questions.batches(batch):
      valid = host.pop("valid")
      del host["index"]
      placed, seen = jax.device_put(host, cut), None
      if fixed:
        seen = see(problem.params, placed.pop("image"))
      self._batches.append((placed, valid, seen))

    def run(params, batch, seen, policy, temperature, keep, hard):
      reduction = models.SoftReduction(
        params=search.decode(policy, space),
        temperature=temperature,
        keep=keep,
        sites=space.sites,
        spec=space.spec,
        hard=hard,
      )
      return search_lib.task_loss(
        cfg, params, batch, reduction, align=False, seen=seen
      )[1]["exact"]

    self._soft = jax.jit(functools.partial(run, keep=None, hard=False))
    self._hard = jax.jit(functools.partial(run, temperature=1.0, hard=True))

  def __call__(
    self, state: search.SearchState, params: Any, limit: float, temperature: Any
  ) -> tuple[float, float]:
    """Returns (soft, hard) accuracy at a limit, shares of the questions."""
    problem, policy = self._problem, state.variables["policy"]
    params = {**params, **state.variables.get("model", {})}
    relaxed = search.site_counts(
      search.decode(policy, problem.space), problem.space
    )
    keep = search.whole_counts(
      np.asarray(relaxed, np.float64),
      problem.space,
      constraints=search_lib.constraints(limit),
    )
    keep = jnp.asarray(keep, jnp.float32)
    right, total = np.zeros(2), 0.0
    for batch, valid, seen in self._batches:
      soft = self._soft(params, batch, seen, policy, temperature)
      hard = self._hard(params, batch, seen, policy, keep=keep)
      right += [np.sum(np.asarray(x)[valid]) for x in (soft, hard)]
      total += valid.sum()
    return float(right[0] / total), float(right[1] / total)


class _Run:
  """One search: what is fixed during the run, and the hooks of the loop."""

  def __init__(
    self,
    problem: search_lib.Problem,
    checker: Checker,
    mesh: Any,
    workdir: pathlib.Path,
    writer: metrics.Writer,
  ):
    self.problem, self.checker = problem, checker
    self.writer, self.plans = writer, workdir / "plans"
    self.plans.mkdir(exist_ok=True)
    self.limits = sorted(problem.settings.budgets, reverse=True)
    self.everywhere = partition.replicated(mesh)
    self.cut = partition.batch_sharding(mesh)
    placed = partition.param_shardings(mesh, problem.params)
    self.params = jax.device_put(problem.params, placed)
    self.key = jax.random.key(problem.settings.seed)
    self.step_fn = loop.compile_step(
      search_lib.make_step(problem),
      self.everywhere,
      self.cut,
      self.everywhere,
      constants=(placed, self.everywhere, self.everywhere, self.everywhere),
    )

  def where(self, step: int) -> tuple[float, int]:
    """Limit that a step belongs to, and its number within that budget."""
    steps = self.problem.settings.steps
    return self.limits[step // steps], step % steps

  def start(self) -> search.SearchState:
    """State before the first step."""
    settings, limit = self.problem.settings, self.limits[0]
    policy = search.init_policy(
      self.problem.space,
      constraints=search_lib.constraints(limit),
      multiple=settings.start_multiple,
      decay=settings.start_decay,
    )
    state = search_lib.initial_state(self.problem, limit, policy)
    return jax.device_put(state, self.everywhere)

  def advance(self, step, state, batch):
    """One step; the first one of a later budget first passes on to it."""
    limit, inner = self.where(step)
    if inner == 0 and step:
      before, _ = self.where(step - 1)
      state = search_lib.next_state(self.problem, state, before, limit)
      state = jax.device_put(state, self.everywhere)
    temperature = search_lib.temperature_at(self.problem.settings, inner)
    batch = jax.device_put(batch, self.cut)
    return self.step_fn(state, batch, self.params, self.key, limit, temperature)

  def check(self, done, state):
    """Soft and hard accuracy; behind a budget's last step also its plan."""
    limit, inner = self.where(done - 1)
    temperature = search_lib.temperature_at(self.problem.settings, inner)
    soft, hard = self.checker(state, self.params, limit, temperature)
    checked = {"limit": limit, "soft": soft, "hard": hard}
    self.writer.write(done, {f"check/{n}": v for n, v in checked.items()})
    if inner + 1 < self.problem.settings.steps:
      return
    plan = search.discretize(
      state.variables["policy"],
      self.problem.space,
      constraints=search_lib.constraints(limit),
      model=self.problem.cfg.name,
      name=f"eos@{limit:g}",
    )
    files.write_json(self.plans / f"{limit:g}.check.json", checked)
    files.write_text(self.plans / f"{limit:g}.json", plan.to_json())

  def log(self, step, values):
    """Writes the metrics of a step; returns a line for the progress bar."""
    flat = {n: np.asarray(v) for n, v in values.items() if n != "aux"}
    flat["exact"] = np.mean(np.asarray(values["aux"]["exact"]))
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

  def found(self) -> list[Found]:
    """The plans of all budgets, as they were written."""
    result = []
    for limit in self.limits:
      path = self.plans / f"{limit:g}.json"
      try:
        plan = ops.ReductionPlan.from_json(path.read_text(encoding="utf-8"))
        checked = files.read_json(self.plans / f"{limit:g}.check.json")
        found = Found(limit, plan, checked["soft"], checked["hard"])
      except (OSError, ValueError, KeyError) as error:
        raise workdir_lib.WorkdirError(
          f"the search is done, but what it wrote to {path} and"
          f" {limit:g}.check.json cannot be read ({type(error).__name__}:"
          f" {error}); put the files back, or start again with a new --workdir"
        ) from error
      result.append(found)
    return result


def run(
  problem: search_lib.Problem,
  sources: Any,
  check_questions: Any,
  tokenizer: Any,
  fingerprint: str,
  workdir: pathlib.Path,
) -> tuple[list[Found], int]:
  """Runs or resumes a search; returns a plan for each budget.

  Beside them how often the step was compiled: 1, or 0 if nothing was left.

  Args:
    problem: what to search over.
    sources: data sources to search on.
    check_questions: fixed validation questions for the hard checks.
    tokenizer: encodes questions.
    fingerprint: of the model's weights; a checkpoint of others is refused.
    workdir: gets checkpoints, metrics and plans.
  """
  settings = problem.settings
  mesh = partition.make_mesh()
  partition.check_batch(mesh, settings.batch)
  partition.check_batch(mesh, settings.check_batch)
  iterator = loader.question_batches(
    sources,
    tokenizer,
    batch=settings.batch,
    seed=settings.seed,
    weights=settings.weights,
  )
  facts = {
    "weights": fingerprint,
    "settings": settings_lib.binding(settings),
    "sites": list(problem.space.sites),
  }
  checker = Checker(problem, check_questions, settings.check_batch, mesh)
  with (
    contextlib.closing(
      checkpoint.Checkpointer(workdir / "checkpoints")
    ) as saver,
    contextlib.closing(metrics.Writer(workdir)) as writer,
  ):
    task = _Run(problem, checker, mesh, workdir, writer)
    state, start = task.start(), 0
    if saver.latest is not None:
      state, iterator, start = saver.restore(state, iterator, facts)
      print(f"resumed at step {start} of {problem.steps}", flush=True)
    writer.cut(start)
    loop.run(
      task.advance,
      state,
      iterator,
      start=start,
      stop=problem.steps,
      label="search",
      log=task.log,
      log_every=settings.log_every,
      save=lambda done, state: saver.save(done, state, iterator, facts),
      save_every=settings.save_every,
      check=task.check,
      check_every=settings.check_every,
    )
  return task.found(), task.step_fn._cache_size()
