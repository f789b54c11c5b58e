"""What a plan saves where it runs: its times compared with the dense model's.

Four times, in seconds, of a batch:

- "prefill": the decoder over encoded pictures and the prompt, up to the first
  token, with the operators at the decoder's sites;
- "first_token": the same from pixels on, with the encoder and its sites;
- "step": one decoded token, every token waited for as a server does that
  streams;
- "end_to_end": the first token and `steps` more.

Dense and plan take turns, and a speed-up is the median over the rounds of
dense / plan. The ideal one is that of the FLOPs, those of the operators
included: a device that is bound by arithmetic alone, at one rate, reaches it.
Few rows do not keep a large chip busy: it waits for the weights. Where the chip
is one of `cost.DEVICES`, the speed-up of its roofline says what it can reach.

What the operators take is measured too: the plan's prefill minus one that
leaves as many rows at the same sites by `programs.CUT`, which keeps the first
rows and computes no signal. It holds signals, scores, selection, transfer, and
the attention bias of sizes in the layers after, but not the shortening. It is
taken where the plan acts: in "prefill", or in "first_token" for plans with
sites in the encoder.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from eos_jax import cost, models, ops
from eos_jax.timing import programs, stopwatch

PARTS = ("prefill", "first_token", "step", "end_to_end")


def flops(
  shape: cost.ModelShape,
  plan: ops.ReductionPlan | None,
  *,
  text_tokens: int,
  steps: int,
) -> dict[str, float]:
  """FLOPs of each of `PARTS` for one sample, operators included.

  Args:
    shape: sizes of the model.
    plan: the reduction; None = dense.
    text_tokens: all other tokens of the sequence.
    steps: tokens decoded after the first one.
  """
  budget = cost.budget_of(plan, shape, text_tokens=text_tokens)
  counts, late = _decoder_part(shape, plan, budget, text_tokens)
  decoded = sum(
    cost.decode_flops(shape, counts, text_tokens + done)
    for done in range(steps)
  )
  return {
    "prefill": cost.decoder_flops(shape, counts, text_tokens) + late,
    "first_token": budget.total_flops,
    "step": decoded / steps,
    "end_to_end": budget.total_flops + decoded,
  }


def least_seconds(
  device: cost.Device,
  shape: cost.ModelShape,
  plan: ops.ReductionPlan | None,
  *,
  text_tokens: int,
  steps: int,
  batch: int,
  dtype: str,
) -> dict[str, float]:
  """Least time of each of `PARTS` by the roofline of a chip, seconds.

  Args:
    device: the chip.
    shape: sizes of the model.
    plan: the reduction; None = dense.
    text_tokens: all other tokens of the sequence.
    steps: tokens decoded after the first one.
    batch: sequences at once.
    dtype: of weights, activations and cache.
  """
  budget = cost.budget_of(plan, shape, text_tokens=text_tokens)
  counts, late = _decoder_part(shape, plan, budget, text_tokens)
  chip = {"batch": batch, "dtype": dtype}
  first = cost.prefill_seconds(
    device,
    shape,
    counts,
    text_tokens,
    None if plan is None else cost.vision_row_counts(plan, shape),
    operator_flops=budget.operator_flops,
    **chip,
  )
  decoded = sum(
    cost.decode_seconds(device, shape, counts, text_tokens + done, **chip)
    for done in range(steps)
  )
  return {
    "prefill": cost.decoder_seconds(
      device, shape, counts, text_tokens, operator_flops=late, **chip
    ),
    "first_token": first,
    "step": decoded / steps,
    "end_to_end": first + decoded,
  }


def _decoder_part(shape, plan, budget, text_tokens):
  """Visual tokens by decoder layer, and FLOPs of the operators there."""
  if plan is None:
    return (budget.tokens,) * shape.layers, 0
  # They run before all others, so that their cost stands alone.
  inside = dataclasses.replace(plan, sites=programs.encoder_sites(plan))
  early = cost.plan_operator_flops(shape, inside, text_tokens)
  return cost.layer_counts(plan), budget.operator_flops - early


def compare(
  model: programs.Model,
  inputs: programs.Inputs,
  dense: programs.Pipeline,
  plan: ops.ReductionPlan,
  *,
  steps: int,
  repeats: int,
  seconds: float,
) -> dict[str, Any]:
  """Measures a plan and the dense model.

  Args:
    model: the model.
    inputs: the batch of `dense`.
    dense: the dense programs, for as many steps.
    plan: the reduction.
    steps: tokens decoded after the first one, at least 1.
    repeats: rounds.
    seconds: see `stopwatch.in_turns`.

  Returns:
    Plain values: "seconds", "speedup" (realised, ideal, and their ratio),
    "operators" (what they take), "compile_seconds", "kv_bytes" (allocated, and
    by the cost model) and "budget" (the four ways), see this module.
  """
  pipelines = {
    "dense": dense,
    "plan": programs.Pipeline(model, inputs, plan, steps=steps, dense=dense),
    "cut": programs.Pipeline(
      model, inputs, programs.cut(plan), steps=0, dense=dense
    ),
  }
  laps = stopwatch.in_turns(
    {side: pipeline.run for side, pipeline in pipelines.items()},
    repeats=repeats,
    seconds=seconds,
  )
  batch, text = inputs.batch["tokens"].shape
  text = programs.text_length(model, text)
  shape, plans = model.shape, {"dense": None, "plan": plan}
  budgets = {
    side: cost.budget_of(which, shape, text_tokens=text, dtype=model.dtype)
    for side, which in plans.items()
  }
  counted = {
    side: flops(shape, which, text_tokens=text, steps=steps)
    for side, which in plans.items()
  }
  chip = cost.device_of(jax.devices()[0].device_kind)
  least = None
  if chip is not None and model.dtype in chip.flops_per_second:
    least = {
      side: least_seconds(
        chip,
        shape,
        which,
        text_tokens=text,
        steps=steps,
        batch=batch,
        dtype=model.dtype,
      )
      for side, which in plans.items()
    }
  where = "first_token" if programs.encoder_sites(plan) else "prefill"
  return {
    "budget": {
      side: dataclasses.asdict(budget) | {"text": str(budget)}
      for side, budget in budgets.items()
    },
    "seconds": {
      side: {
        part: dataclasses.asdict(stopwatch.measured(values))
        for part, values in parts.items()
      }
      for side, parts in laps.items()
    },
    "speedup": speedups(laps["dense"], laps["plan"], counted, least),
    "operators": operators(laps["plan"][where], laps["cut"][where], where),
    "compile_seconds": {side: pipelines[side].seconds for side in plans},
    "kv_bytes": {
      side: pipelines[side].kv_bytes | {"model": batch * budgets[side].kv_bytes}
      for side in plans
    },
  }


def speedups(
  dense: Mapping[str, list[float]],
  plan: Mapping[str, list[float]],
  counted: Mapping[str, Mapping[str, float]],
  least: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, dict[str, float]]:
  """Measured speed-ups, those of the FLOPs, and of a chip's roofline.

  Args:
    dense: seconds of all rounds, by part.
    plan: the same under the plan.
    counted: FLOPs of "dense" and "plan", by part.
    least: least seconds of both, by part; None where the chip is not known.

  Returns:
    By part "realised" with its quartiles "low" and "high", "ideal", and
    "share": realised / ideal; with `least` also "roofline", the speed-up of the
    least seconds, and "roofline_share".
  """
  found = {}
  for part in PARTS:
    real = stopwatch.ratios(dense[part], plan[part])
    ideal = counted["dense"][part] / counted["plan"][part]
    found[part] = {
      "realised": real.median,
      "low": real.low,
      "high": real.high,
      "ideal": ideal,
      "share": real.median / ideal,
    }
    if least is not None:
      bound = least["dense"][part] / least["plan"][part]
      found[part]["roofline"] = bound
      found[part]["roofline_share"] = real.median / bound
  return found


def operators(
  plan: list[float], cut: list[float], where: str
) -> dict[str, Any]:
  """What the operators of a plan take, in seconds and as a share.

  Args:
    plan: seconds of the plan's program, all rounds.
    cut: the same where rows are only dropped.
    where: the part that it is.

  Returns:
    "seconds", and "share" with its quartiles: of the plan's time; noise may
    put it below 0.
  """
  pairs = list(zip(plan, cut, strict=True))
  share = stopwatch.measured([(whole - rest) / whole for whole, rest in pairs])
  return {
    "part": where,
    "seconds": stopwatch.differences(plan, cut).median,
    "share": share.median,
    "low": share.low,
    "high": share.high,
  }


def compilations(
  model: programs.Model,
  plan: ops.ReductionPlan | None,
  *,
  text_tokens: int,
  pictures: int,
  seed: int,
) -> dict[str, int]:
  """Programs that an engine compiles for many pictures and prompts.

  Args:
    model: the model.
    plan: the reduction; None = dense.
    text_tokens: longest prompt, and the one bucket; prompts of all lengths up
      to it are given.
    pictures: different pictures, one after the other.
    seed: of pictures and prompts.

  Returns:
    "pictures", and the number of programs of "prefill" and "step".
  """
  rng = np.random.default_rng(seed)
  engine = models.Engine(
    model.cfg, model.params, stop=(), buckets=(text_tokens,), room=1
  )
  for place in range(pictures):
    drawn = programs.draw(model, batch=1, text_tokens=1, seed=seed + place)
    batch = drawn.batch
    layout = batch.get("layout")
    length = rng.integers(1, text_tokens, endpoint=True)
    prompt = rng.integers(model.cfg.decoder.vocab, size=length).tolist()
    talk = engine.begin(
      models.inputs.normalize(batch["image"]),
      [prompt],
      plan=plan,
      slots=batch.get("slots"),
      valid=batch.get("present"),
      layout=None if layout is None else models.tiles.Layout(**layout),
    )
    engine.reply(talk, steps=2)
  counted = engine.compilations
  return {
    "pictures": pictures,
    "prefill": counted["prefill"],
    "step": counted["step"],
  }
