"""The search over the VLM, on a model and data small enough for seconds."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax import cost, files, models, ops, search
from eos_jax.evaluation import evaluator
from eos_jax.models import partition
from eos_jax.training import (
  limits,
  losses,
  metrics,
  search_check,
  search_loop,
  search_settings,
)
from eos_jax.training import search as search_lib
from tests.models import small

CFG = small.config()
CHOSEN = search_settings.SearchSettings(
  budgets=(8.0, 3.0),
  limits=search_settings.LimitSettings(text_tokens=8),
  free=("where", "how_many", "transfer", "temperature", "scores"),
  steps=4,
  batch=8,
  learning_rate=0.05,
  model_learning_rate=1e-3,
  multiplier_learning_rate=0.5,
  penalty=5.0,
  start_multiple=1.2,
  temperature_end=0.05,
  anneal_share=0.8,
  check_every=2,
  check_questions=8,
  check_batch=8,
  log_every=1,
  save_every=2,
).for_model(CFG)

# Where one site is enough a step compiles faster.
ONE = ("decoder.1",)
REAL = np.zeros  # no counts are forced at so many sites


def _problem(**changes):
  chosen = dataclasses.replace(CHOSEN, **changes).for_model(CFG)
  return search_lib.Problem(
    CFG, small.params(CFG), search_lib.make_space(CFG, chosen), chosen
  )


def _batch(seed=0):
  text = small.text(8, seed=seed)
  image = 127.5 * (small.pictures(8, seed=seed + 1) + 1)
  return {
    "image": image.astype(jnp.uint8),
    "tokens": text.tokens,
    "mask": text.mask,
    "prompt_length": text.prompt_length,
    "loss_mask": jnp.arange(7)[None] >= jnp.full((8, 1), 4),
  }


@functools.cache
def _stepped(mode):
  problem = _problem(mode=mode, sites=ONE if mode == "joint" else ())
  policy = search.init_policy(
    problem.space, constraints=search.limits(layer_average=8.0), multiple=1.2
  )
  state = search_lib.initial_state(problem, 8.0, policy)
  step = jax.jit(search_lib.make_step(problem))
  after, metrics = step(
    state,
    _batch(),
    problem.params,
    jax.random.key(0),
    8.0,
    0.5,
    0.5,
    REAL(len(problem.space.sites)),
  )
  return problem, state, after, metrics


def _moved(before, after):
  return max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max())
    for a, b in zip(
      jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    )
  )


@pytest.mark.full
def test_micro_batches_move_the_policy_as_the_whole_batch_does():
  found = []
  for micro_batch in (0, 2):
    # The alignment is no mean over rows; all rows have as many answer tokens.
    problem = _problem(align=0.0, sites=ONE, micro_batch=micro_batch)
    step = jax.jit(search_lib.make_step(problem))
    rest = jax.random.key(0), 8.0, 0.5, 0.5, REAL(1)
    state = search_lib.first_state(problem)
    after, metrics = step(state, _batch(), problem.params, *rest)
    found.append((after.variables, metrics["task"], metrics["gradient_norm"]))
  assert float(found[0][2]) > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6), *found
  )


@pytest.mark.slow
def test_frozen_mode_moves_policy_and_multiplier_alone():
  _, state, after, metrics = _stepped("frozen")
  assert "model" not in after.variables
  for name, value in state.variables["policy"].items():
    assert _moved(value, after.variables["policy"][name]) > 0, name
  assert float(metrics["violation/layer_average"]) > 0
  assert float(after.variables["multiplier"]["layer_average"]) > 0
  assert np.isfinite(float(metrics["total"]))
  assert float(metrics["alignment"]) > 0


@pytest.mark.full
def test_joint_mode_moves_the_model_by_its_own_optimizer():
  problem, state, after, _ = _stepped("joint")
  assert set(after.variables["model"]) == {"projector", "decoder"}
  moved = _moved(state.variables["model"], after.variables["model"])
  # Adam's first step is one learning rate, up to the decay of the weights.
  assert 0.5e-3 < moved < 2e-3
  assert _moved(state.variables["policy"], after.variables["policy"]) > 0.01


@pytest.mark.full
def test_straight_through_learns_counts_from_soft_decisions():
  problem = _problem(sites=ONE, align=0.0)
  spec = problem.space.spec
  numbers = jax.tree.map(lambda leaf: leaf[None], spec.params())

  def losses_of(keep, gamma):
    reduction = models.SoftReduction(
      params=dataclasses.replace(numbers, gamma=gamma),
      temperature=jnp.float32(0.3),
      keep=keep,
      sites=ONE,
      spec=spec,
      relaxation="straight_through",
    )
    given = (CFG, problem.params, _batch())
    yield search_lib.straight_through_loss(
      problem, problem.params, None, _batch(), reduction
    )[0]
    for changes in (
      {},
      {"relaxation": "annealed"},
      {"keep": jnp.round(keep), "hard": True},
    ):
      changed = dataclasses.replace(reduction, **changes)
      yield losses.task_loss(*given, changed)[0]

  @jax.jit
  def both(keep, gamma):
    together = lambda *at: jnp.stack(list(losses_of(*at)))
    return together(keep, gamma), jax.jacrev(together, (0, 1))(keep, gamma)

  values, (by_count, by_gamma) = both(jnp.array([5.2]), numbers.gamma)
  assert float(values[0]) == pytest.approx(float(values[3]), rel=1e-5)
  np.testing.assert_allclose(by_count[0], by_count[2], rtol=1e-3)
  np.testing.assert_allclose(by_gamma[0], by_gamma[1], rtol=1e-3)
  assert abs(float(by_count[0, 0])) > 1e-4
  assert abs(float(by_count[0, 0] - by_count[1, 0])) > 1e-4


def test_a_budget_below_one_that_was_used_up_is_used_up():
  problem, _, after, _ = _stepped("frozen")
  variables = dict(after.variables)
  # The counts rest at half of the limit, and the multiplier came to 0.
  variables["policy"] = variables["policy"] | {
    name: value
    for name, value in search.init_policy(
      problem.space, counts=[5.0, 4.0, 3.0]
    ).items()
    if name in search_lib.COUNT_FIELDS
  }
  variables["multiplier"] = {"layer_average": jnp.float32(0.0)}
  state = dataclasses.replace(after, variables=variables)
  slack = problem.whole_counts(state, 8.0)
  assert sum(slack) / 3 < 5
  full = problem.whole_counts(state, 8.0, True)
  assert sum(full) == 24
  late = search_lib.forced_counts(problem, state, 8.0, 3, True)
  assert late.tolist() == full
  # One that is above 0 stays as it is.
  assert search.wanted({"a": 0.0, "b": 2.0}) == {"a": 1.0, "b": 2.0}


def test_next_budget_keeps_operators_and_scales_counts():
  problem, _, after, _ = _stepped("frozen")
  state = search_lib.next_state(problem, after, 8.0, 3.0)
  space = problem.space
  old = search.decode(after.variables["policy"], space)
  new = search.decode(state.variables["policy"], space)
  np.testing.assert_array_equal(old.gamma, new.gamma)
  np.testing.assert_array_equal(old.pi, new.pi)
  before, now = (
    float(search.layer_average(search.site_counts(p, space), space))
    for p in (old, new)
  )
  assert now < before
  assert now > 3.0  # above the limit, so that the search has to decide
  assert float(state.variables["multiplier"]["layer_average"]) == 0.0


def test_alignment_is_relative_and_has_no_gradient_in_its_target():
  mask = jnp.array([[True, True, False]])
  target = jnp.array([[[3.0], [4.0], [100.0]]])
  hidden = jnp.array([[[3.0], [3.0], [0.0]]])
  assert float(losses.alignment(hidden, target, mask)) == pytest.approx(1 / 25)
  gradient = jax.grad(losses.alignment, argnums=1)(hidden, target, mask)
  np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("better", [False, True])
def test_what_a_budget_leaves_is_used_if_the_checks_miss_it(better, tmp_path):
  """Loss of the plan that uses the budget up, against that of the policy's."""
  problem = _problem(sites=ONE, budgets=(8.0,))
  policy = search.init_policy(problem.space, counts=[2.0])
  state = search_lib.initial_state(problem, 8.0, policy)
  found, full = (problem.whole_counts(state, 8.0, more) for more in (0, 1))
  assert full[0] > found[0]

  class Checker:
    def loss(self, state, params, limit, keep):
      return float(keep[0]) * (-1.0 if better else 1.0)

    def __call__(self, state, params, limit, inner, keep):
      return 0.5, float(keep[0])

  with contextlib.closing(metrics.Writer(tmp_path)) as writer:
    model = models.Model(None, problem.params, partition.make_mesh())
    run = search_loop.Budgets(problem, Checker(), model, tmp_path, writer, {})
    run.check(2, state)
    assert not (tmp_path / "plans" / "8.json").exists()
    run.check(problem.settings.steps, state)
    (one,) = run.found()
  assert one.hard == (full if better else found)[0]
  assert one.plan.sites[0].keep == one.hard
  found = one.plan.provenance
  assert (found["budget"], found["score"]) == (8.0, one.hard)
  assert found["seed"] == problem.settings.seed
  assert found["steps"] == problem.steps


class _Questions:
  """A fixed set of eight questions, as the checks read it."""

  def __len__(self):
    return 8

  def batches(self, batch):
    assert batch == 8
    host = {n: np.asarray(v) for n, v in _batch(5).items()}
    yield {**host, "valid": np.arange(8) < 6, "index": np.arange(8)}


@pytest.mark.full
def test_hard_check_equals_the_plan_with_tokens_dropped():
  problem, _, after, _ = _stepped("frozen")
  checker = search_check.Checker(
    problem, _Questions(), 8, partition.make_mesh()
  )
  _, hard = checker(after, problem.params, 8.0, 3)
  plan = search.discretize(
    after.variables["policy"],
    problem.space,
    constraints=search.limits(layer_average=8.0),
    multipliers=after.variables["multiplier"],
    model="small",
  )
  assert isinstance(plan, ops.ReductionPlan)
  batch = _batch(5)
  text = models.Text(batch["tokens"], batch["mask"], batch["prompt_length"])
  image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
  logits = small.apply(CFG, problem.params, image, text, plan).logits[:, :-1]
  wrong = batch["loss_mask"][:, 1:] & (
    jnp.argmax(logits, -1) != batch["tokens"][:, 1:]
  )
  exact = 1.0 - np.any(np.asarray(wrong), axis=1)
  assert hard == pytest.approx(float(exact[:6].mean()))
  # With all tokens kept the loss is the unreduced model's.
  whole = [CFG.tokens] * len(problem.space.sites)
  dense, _ = losses.task_loss(CFG, problem.params, batch, None)
  found = checker.loss(after, problem.params, 8.0, whole)
  assert found == pytest.approx(float(dense), rel=1e-4)


@pytest.mark.full
def test_bilevel_mode_moves_policy_and_model_on_batches_of_their_own():
  problem = _problem(mode="bilevel", sites=ONE)
  state = search_lib.first_state(problem)
  step = jax.jit(search_lib.make_step(problem))
  rest = (problem.params, jax.random.key(0), 8.0, 0.5, 0.0, REAL(1))

  def stepped(*seeds):
    after, metrics = step(state, tuple(_batch(seed) for seed in seeds), *rest)
    return after.variables, metrics

  one, metrics = stepped(0, 1)
  other_model, _ = stepped(0, 2)
  other_policy, _ = stepped(3, 1)
  assert _moved(one["policy"], other_model["policy"]) == 0.0
  assert _moved(one["model"], other_model["model"]) > 0.0
  assert _moved(one["policy"], other_policy["policy"]) > 0.0
  assert _moved(one["model"], other_policy["model"]) == 0.0
  assert float(metrics["model_gradient_norm"]) > 0.0


@pytest.mark.slow
def test_one_policy_for_all_budgets_moves_the_knots_beside_a_budget():
  problem = _problem(knots=3, budgets=(8.0, 6.5), sites=ONE)
  assert problem.steps == problem.settings.steps
  state = search_lib.first_state(problem)
  step = jax.jit(search_lib.make_step(problem))
  after, metrics = step(
    state, _batch(), problem.params, jax.random.key(0), 6.5, 0.5, 0.0, REAL(1)
  )
  policy, before = after.variables["policy"], state.variables["policy"]
  assert _moved(policy["gamma"][0], before["gamma"][0]) > 0.01
  assert _moved(policy["gamma"][1:3], before["gamma"][1:3]) == 0.0
  assert _moved(policy["gamma"][3], before["gamma"][3]) > 0.01  # shared
  multipliers = after.variables["multiplier"]["layer_average"]
  assert float(metrics["violation/layer_average"]) > 0
  assert float(multipliers[0]) > 0 and not np.any(multipliers[1:])


@pytest.mark.slow
def test_calibration_moves_everything_but_counts():
  problem = _problem(calibration_steps=2, sites=ONE)
  assert problem.steps == 2 * (4 + 2)
  state = search_lib.first_state(problem)
  keep = problem.whole_counts(state, 8.0)
  step = jax.jit(search_lib.make_calibration_step(problem))
  after, metrics = step(
    state,
    _batch(),
    problem.params,
    jax.random.key(0),
    8.0,
    jnp.asarray(keep, jnp.float32),
  )
  policy, before = after.variables["policy"], state.variables["policy"]
  for name in policy:
    moved = _moved(policy[name], before[name])
    if name in search_lib.COUNT_FIELDS:
      assert moved == 0.0, name
  assert _moved(policy["gamma"], before["gamma"]) > 0.01
  assert problem.whole_counts(after, 8.0) == keep
  assert np.isfinite(float(metrics["task"]))


@pytest.mark.slow
def test_without_labels_answers_are_not_read():
  problem = _problem(labels=False, sites=ONE)
  state = search_lib.first_state(problem)
  step = jax.jit(search_lib.make_step(problem))
  batch = _batch()
  # Everything behind the prompts changes: another answer.
  slots = jnp.arange(batch["tokens"].shape[1])[None]
  behind = slots >= batch["prompt_length"][:, None]
  assert behind.any()
  tokens = jnp.where(behind, (batch["tokens"] + 1) % 7, batch["tokens"])
  rest = (problem.params, jax.random.key(0), 8.0, 0.5, 0.0, REAL(1))
  one, metrics = step(state, batch, *rest)
  other, _ = step(state, {**batch, "tokens": tokens}, *rest)
  assert float(metrics["task"]) == 0.0
  assert float(metrics["alignment"]) > 0.0
  policy = one.variables["policy"]
  assert _moved(state.variables["policy"], policy) > 0.01
  assert _moved(policy, other.variables["policy"]) == 0.0


def test_limits_are_shares_of_the_dense_model():
  chosen = search_settings.LimitSettings(
    final_count=2.0, flops=0.85, kv_bytes=0.6, text_tokens=8
  )
  problem = _problem(limits=chosen)
  shape = evaluator.model_shape(CFG)
  prefix = len(CFG.prefix)
  measures = limits.measures(shape, problem.space, chosen, prefix)
  problem = dataclasses.replace(problem, measures=measures)
  state = search_lib.first_state(problem)
  counts = problem.whole_counts(state, 8.0)
  assert counts[-1] <= 2
  layers = search.layer_counts(counts, problem.space)
  dense = [problem.space.tokens] * CFG.decoder.layers
  text = prefix + 8
  kv = [cost.kv_cache_bytes(shape, n, text) for n in (layers, dense)]
  assert kv[0] <= 0.6 * kv[1]
  plan = search.discretize(
    state.variables["policy"],
    problem.space,
    constraints=problem.constraints(8.0),
    measures=measures,
    multipliers=state.variables["multiplier"],
    model="small",
  )
  spent = cost.budget_of(plan, shape, text_tokens=text).total_flops
  assert spent <= 0.85 * cost.prefill_flops(shape, dense, text)


@pytest.mark.full
def test_priors_pull_to_the_start_and_binarising_rises():
  priors = search_settings.PriorSettings(
    **dict.fromkeys(search_settings.NUMBERS, 1e3)
  )
  held = _problem(priors=priors, sites=ONE)
  sure = _problem(binarize=10.0, sites=ONE)
  state = search_lib.first_state(sure)

  def tasks(problem, *shares):
    step = jax.jit(search_lib.make_step(problem))
    for progress in shares:
      rest = (problem.params, jax.random.key(0), 8.0, 0.5, progress, REAL(1))
      _, metrics = step(state, _batch(), *rest)
      yield float(metrics["task"]), float(metrics["aux"]["indecision"])

  (base, undecided), (risen, _) = tasks(sure, 0.0, 0.5)
  assert undecided > 0.01
  assert risen == pytest.approx(base + 5 * undecided, rel=1e-4)
  ((pulled, _),) = tasks(held, 0.0)
  assert pulled > base


def test_flops_of_a_step_grow_with_what_is_trained():
  shape = evaluator.model_shape(CFG)
  spent = [
    search_lib.step_flops(_problem(**changes), shape, 16)
    for changes in ({"align": 0.0}, {}, {"mode": "joint"}, {"mode": "bilevel"})
  ]
  assert spent == sorted(spent)
  both = _problem(relaxation="straight_through")
  assert search_lib.step_flops(both, shape, 16) > 1.3 * spent[1]
  # Forward and backward passes of eight samples are more than two forward ones.
  dense = [CFG.vision.tokens] * CFG.decoder.layers
  decoder = cost.decoder_flops(shape, dense, 16, head_positions=16)
  assert spent[0] > 8 * (cost.vision_flops(shape) + 2 * decoder)


def test_counts_are_whole_in_the_last_steps():
  problem = _problem()
  state = search_lib.first_state(problem)
  numbers = search.decode(state.variables["policy"], problem.space)
  real = search.site_counts(numbers, problem.space)
  early = search_lib.forced_counts(problem, state, 8.0, 2)
  np.testing.assert_array_equal(early, 0.0)
  late = search_lib.forced_counts(problem, state, 8.0, 3)
  assert late.tolist() == problem.whole_counts(state, 8.0)
  for keep, expected in ((early, real), (late, late)):
    found, slope = jax.jvp(
      lambda n, keep=keep: search_lib.whole_or_real(problem, n, keep),
      (numbers,),
      (jax.tree.map(jnp.ones_like, numbers),),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.all(np.asarray(slope) > 0)  # that of the real counts


PICTURES = 2


def _with_pictures(seed=0, rows=8):
  """Rows with one and with two pictures in turn, inside the text."""
  batch, draw = _batch(seed), np.random.default_rng(seed)
  there = np.arange(PICTURES) < 1 + np.arange(rows)[:, None] % 2
  image = draw.normal(size=(rows, PICTURES, 16, 16, 3)).astype(np.float32)
  shape = (rows, PICTURES, CFG.tokens)
  return batch | {
    "image": image,
    "present": np.broadcast_to(there[..., None], shape),
    "slots": np.where(there, np.arange(PICTURES), 7).astype(np.int32),
  }


@pytest.mark.full
def test_absent_pictures_count_for_nothing():
  problem = _problem(sites=ONE, binarize=1.0)
  numbers = jax.tree.map(lambda leaf: leaf[None], problem.space.spec.params())
  reduction = models.SoftReduction(
    params=numbers,
    temperature=jnp.float32(0.3),
    keep=jnp.array([5.0]),
    sites=ONE,
    spec=problem.space.spec,
  )

  @jax.jit
  def measured(batch):
    loss, aux = losses.task_loss(CFG, problem.params, batch, reduction)
    return loss, aux["indecision"]

  batch = _with_pictures()
  loss, indecision = measured(batch)
  absent = {**batch, "image": batch["image"].copy()}
  absent["image"][0::2, 1] += 1.0
  assert [float(v) for v in measured(absent)] == [
    float(loss),
    float(indecision),
  ]
  shown = {**batch, "image": batch["image"].copy()}
  shown["image"][1::2, 1] += np.random.default_rng(1).normal(size=(16, 16, 3))
  assert float(measured(shown)[0]) != float(loss)
  # Rows with one picture alone are as undecided as these in their first.
  alone = jax.tree.map(lambda leaf: leaf[0::2], batch)
  only = {
    **alone,
    **{n: alone[n][:, :1] for n in ("image", "present", "slots")},
  }
  np.testing.assert_allclose(measured(alone)[1], measured(only)[1], rtol=1e-5)


@pytest.mark.full
def test_a_step_moves_the_policy_by_several_pictures_a_row():
  problem = _problem(sites=ONE)
  state = search_lib.first_state(problem)
  step = jax.jit(search_lib.make_step(problem))
  rest = (problem.params, jax.random.key(0), 8.0, 0.5, 0.0, REAL(1))
  after, metrics = step(state, _with_pictures(), *rest)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))
  policy, before = after.variables["policy"], state.variables["policy"]
  assert _moved(policy["gamma"], before["gamma"]) > 0.01


def test_counts_of_a_search_that_diverged_are_refused():
  problem = _problem(sites=ONE)
  state = search_lib.first_state(problem)
  policy = jax.tree.map(
    lambda leaf: jnp.full_like(leaf, jnp.nan), state.variables["policy"]
  )
  broken = dataclasses.replace(
    state, variables=state.variables | {"policy": policy}
  )
  assert problem.whole_counts(state, 8.0)
  with pytest.raises(files.NotFinite, match=r"policy's counts are \[nan"):
    problem.whole_counts(broken, 8.0)
