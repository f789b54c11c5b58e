"""How well a search does, soft and hard, on fixed validation questions."""

import functools
from typing import Any

import jax
import numpy as np

from eos_jax import models, processes, search
from eos_jax.models import partition
from eos_jax.training import losses, trained
from eos_jax.training import search as search_lib


class Checker:
  """Accuracy of relaxed and of rounded operators on fixed questions."""

  def __init__(
    self, problem: search_lib.Problem, questions: Any, batch: int, mesh: Any
  ):
    self._problem = problem
    cfg, space = problem.cfg, problem.space
    self._questions, self._batch = questions, batch
    self._cut = partition.batch_sharding(mesh)
    self._see = jax.jit(functools.partial(models.inputs.see, cfg))
    # What the decoder gets stays the same while the search runs, unless it
    # acts on the encoder or trains the projector.
    self._fixed = not (
      problem.settings.trains_model or losses.reduces_vision(space.sites)
    )
    self._kept = models.inputs.Kept()

    def reduction(policy, temperature, keep, hard):
      numbers = search.decode(policy, space)
      return models.SoftReduction(
        params=numbers,
        temperature=temperature,
        keep=search_lib.whole_or_real(problem, numbers, keep),
        sites=space.sites,
        spec=space.spec,
        hard=hard,
      )

    def run(params, batch, seen, policy, temperature, keep, hard):
      acts = reduction(policy, temperature, keep, hard)
      return losses.task_loss(cfg, params, batch, acts, seen=seen)[1]["exact"]

    align, labels = problem.settings.align, problem.settings.labels

    def lose(params, batch, seen, policy, keep):
      acts = reduction(policy, 1.0, keep, hard=True)
      task, aux = losses.task_loss(
        cfg, params, batch, acts, align=align > 0, labels=labels, seen=seen
      )
      return task + align * aux.get("alignment", 0.0)

    self._soft = jax.jit(functools.partial(run, hard=False))
    self._hard = jax.jit(functools.partial(run, temperature=1.0, hard=True))
    self._lose = jax.jit(lose)

  def _batches(self, params):
    """Of all questions: arrays, which rows are real, pictures as encoded."""
    count = -(-len(self._questions) // self._batch)
    return self._kept.batches(lambda start: self._made(params), count)

  def _made(self, params):
    for host in self._questions.batches(self._batch):
      valid = host.pop("valid")
      del host["index"]
      placed, seen = processes.place(host, self._cut), None
      if self._fixed:
        seen = self._see(params, placed)
        placed = {
          n: v for n, v in placed.items() if n not in models.inputs.SHOWN
        }
      yield (placed, valid, seen), (placed, seen)

  def loss(
    self, state: search.SearchState, params: Any, limit: float, keep: Any
  ) -> float:
    """What the search descends in, under the rounded operators of a limit.

    Arguments are those of a check. Comparable between different `keep`.
    """
    policy = self._problem.member(state.variables, limit)["policy"]
    params = trained.merged(params, state.variables.get("model"))
    keep = np.asarray(keep, np.float32)
    found = [
      processes.fetch(self._lose(params, batch, seen, policy, keep))
      for batch, _, seen in self._batches(params)
    ]
    return float(np.mean(found))

  def __call__(
    self,
    state: search.SearchState,
    params: Any,
    limit: float,
    inner: int,
    keep: Any = None,
  ) -> tuple[float, float]:
    """Returns (soft, hard) accuracy at a limit, shares of the questions.

    Soft is what the `inner`-th step of a budget sees, from 0; `keep` are the
    whole tokens after each site, None = as the policy is rounded.
    """
    settings = self._problem.settings
    temperature = search_lib.temperature_at(settings, inner)
    policy = self._problem.member(state.variables, limit)["policy"]
    params = trained.merged(params, state.variables.get("model"))
    if keep is None:
      keep = self._problem.whole_counts(state, limit)
    keep = np.asarray(keep, np.float32)
    forced = search_lib.forced_counts(self._problem, state, limit, inner)
    # In the last steps the soft operators have the plan's counts too.
    forced = np.where(forced > 0, keep, np.float32(0.0))
    right, total = np.zeros(2), 0.0
    for batch, valid, seen in self._batches(params):
      soft = self._soft(params, batch, seen, policy, temperature, forced)
      hard = self._hard(params, batch, seen, policy, keep=keep)
      right += [np.sum(x[valid]) for x in processes.fetch([soft, hard])]
      total += valid.sum()
    return float(right[0] / total), float(right[1] / total)
