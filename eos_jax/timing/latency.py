"""Measures a `cost.LatencyTable` of a model, and how well it predicts.

A decoder layer's time at N rows is a difference: of prefills of N rows by the
whole decoder and by its first layer alone, over the layers that one has more;
both take turns, and the median over the rounds is taken. So embedding, head,
cache and launching cancel. An encoder block's time is found likewise, at the
row counts of smaller pictures. The overhead is what the programs of one layer
and of one block take beyond these times, at full length. No time of a whole
model is fitted: predicting one is a test of the table.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from eos_jax import cost, ops
from eos_jax.timing import programs, stopwatch

Entry = dict[str, Any]
# `f(content, compute)`: what is known under `content`, or what is computed.
Once = Callable[[Entry, Callable[[], Entry]], Entry]


@dataclasses.dataclass(frozen=True)
class Measurement:
  """How a model is measured.

  Attributes:
    model: the model; at least 2 blocks and 2 layers.
    text_tokens: of the prompt.
    points: numbers of tokens that are measured, from one visual token to all.
    repeats: rounds.
    seconds: see `stopwatch.in_turns`.
    seed: of pictures and prompts.
    once: keeps what was measured.
  """

  model: programs.Model
  text_tokens: int
  points: int
  repeats: int
  seconds: float
  seed: int
  once: Once = lambda content, compute: compute()

  def table(
    self, batches: Sequence[int], *, device: str
  ) -> tuple[cost.LatencyTable, list[Entry]]:
    """Measures the table.

    Args:
      batches: samples at once.
      device: its name in the table.

    Returns:
      The table, and all measurements it is computed from, with their quartiles.
    """
    shape = self.model.shape
    rows, sides = self.row_counts(), self.sides()
    vision_rows = [side**2 + shape.class_tokens for side in sides]
    layers, blocks, overhead, entries = [], [], [], []
    for batch in sorted(batches):
      layer = self._layers(batch, rows)
      block = self._blocks(batch, sides)
      entries += [*layer, *block]
      layers.append([_time(entry) for entry in layer])
      blocks.append([_time(entry) for entry in block])
      beyond = sum(
        found[-1]["one"] - _time(found[-1]) for found in (layer, block) if found
      )
      if not sides:
        beyond += self._encoder(batch)
      overhead.append(max(beyond, 0.0))
    table = cost.LatencyTable(
      model=self.model.cfg.name,
      device=device,
      dtype=self.model.dtype,
      jax_version=jax.__version__,
      tokens=rows,
      batches=sorted(batches),
      seconds=layers,
      overhead=overhead,
      vision_rows=vision_rows,
      vision_seconds=blocks,
    )
    return table, entries

  def row_counts(self) -> list[int]:
    """Rows of the sequence that are measured, evenly spaced by ratio."""
    text = programs.text_length(self.model, self.text_tokens)
    most = text + self.model.cfg.tokens
    return _distinct(np.geomspace(text + 1, most, self.points))

  def sides(self) -> list[int]:
    """Sides of the images, in patches, whose blocks are measured.

    None where no plan reduces in the encoder: its time is overhead.
    """
    if not self.model.cfg.vision_sites:
      return []
    return _distinct(np.linspace(1, self.model.cfg.vision.grid[0], self.points))

  def check(
    self, table: cost.LatencyTable, plans: Sequence[ops.ReductionPlan]
  ) -> list[Entry]:
    """Predicted and measured times, dense and under plans.

    The table knows no operators: a plan is measured as it is, and with rows
    only dropped (`programs.CUT`).

    Args:
      table: of this model and device.
      plans: of this model.

    Returns:
      For each batch and plan "predicted", "measured" and "measured_cut"
      seconds of a prefill from pixels on, and the relative "error" and
      "error_cut" of the prediction.
    """
    return [
      line
      for batch in table.batches.tolist()
      for line in self._checked(table, batch, (None, *plans))
    ]

  def _inputs(self, model, batch):
    return programs.draw(
      model, batch=batch, text_tokens=self.text_tokens, seed=self.seed
    )

  def _laps(self, compiled):
    """Seconds of all rounds of compiled calls, by name."""
    laps = stopwatch.in_turns(
      {name: _whole(made) for name, made in compiled.items()},
      repeats=self.repeats,
      seconds=self.seconds,
    )
    return {name: parts["all"] for name, parts in laps.items()}

  def _difference(self, more, less, count):
    """Seconds of one of the `count` layers that the first program has more.

    And of the other program, "one".
    """
    laps = self._laps({"more": more, "less": less})
    apart = np.array(laps["more"]) - np.array(laps["less"])
    found = dataclasses.asdict(stopwatch.measured(apart / count))
    return found | {"one": stopwatch.measured(laps["less"]).median}

  def _layers(self, batch, counts):
    """One decoder layer at each number of rows."""
    model = self.model
    text = programs.text_length(model, self.text_tokens)
    one = programs.shallow(model, blocks=1, layers=1)
    inputs = functools.cache(lambda: self._inputs(model, batch))
    look = jax.jit(programs.see(model.cfg, None))

    @functools.cache
    def pictures():
      return look(model.params, inputs().shown, inputs().key)

    def compute(rows):
      seen = programs.shortened(pictures(), rows - text)
      more, less = (
        stopwatch.compiled(
          programs.prefill(part.cfg, None, room=1),
          part.params,
          seen,
          inputs().text,
        )
        for part in (model, one)
      )
      return self._difference(more, less, model.cfg.decoder.layers - 1)

    contents = [
      {"what": "decoder layer", "batch": batch, "rows": rows} for rows in counts
    ]
    return [
      content | self.once(content, functools.partial(compute, content["rows"]))
      for content in contents
    ]

  def _blocks(self, batch, sides):
    """One encoder block at pictures of each side."""

    def compute(side):
      model = programs.small_sighted(self.model, side)
      inputs = self._inputs(model, batch)
      one = programs.shallow(model, blocks=1, layers=1)
      more, less = (
        stopwatch.compiled(
          programs.see(part.cfg, None), part.params, inputs.shown, inputs.key
        )
        for part in (model, one)
      )
      return self._difference(more, less, model.cfg.vision.layers - 1)

    found = []
    for side in sides:
      rows = side**2 + self.model.shape.class_tokens
      content = {"what": "encoder block", "batch": batch, "rows": rows}
      again = self.once(content, functools.partial(compute, side))
      found.append(content | again)
    return found

  def _encoder(self, batch):
    """Seconds of the whole encoder and projector."""

    def compute():
      model = self.model
      inputs = self._inputs(model, batch)
      whole = stopwatch.compiled(
        programs.see(model.cfg, None), model.params, inputs.shown, inputs.key
      )
      laps = self._laps({"whole": whole})["whole"]
      return dataclasses.asdict(stopwatch.measured(laps))

    return _time(self.once({"what": "encoder", "batch": batch}, compute))

  def _checked(self, table, batch, plans):
    """The lines of `check` at a batch size."""
    inputs = functools.cache(lambda: self._inputs(self.model, batch))
    dense = functools.cache(
      lambda: programs.Pipeline(self.model, inputs(), None, steps=0)
    )

    def compute(plan):
      runs = {"measured": dense().run}
      if plan is not None:
        for name, which in (
          ("measured", plan),
          ("measured_cut", programs.cut(plan)),
        ):
          runs[name] = programs.Pipeline(
            self.model, inputs(), which, steps=0, dense=dense()
          ).run
      laps = stopwatch.in_turns(
        runs, repeats=self.repeats, seconds=self.seconds
      )
      return {
        name: stopwatch.measured(parts["first_token"]).median
        for name, parts in laps.items()
      }

    for plan in plans:
      content = {
        "what": "prefill",
        "batch": batch,
        "plan": "dense" if plan is None else plan.digest,
      }
      found = self.once(content, functools.partial(compute, plan))
      predicted = self._predicted(table, batch, plan)
      cut = found.get("measured_cut", found["measured"])
      yield {
        "batch": batch,
        "name": "dense" if plan is None else plan.name,
        "predicted": predicted,
        "measured": found["measured"],
        "measured_cut": cut,
        "error": predicted / found["measured"] - 1,
        "error_cut": predicted / cut - 1,
      }

  def _predicted(self, table, batch, plan):
    """Seconds of a prefill by the table."""
    shape = self.model.shape
    if plan is None:
      counts = (self.model.cfg.tokens,) * shape.layers
      rows = (shape.vision_tokens,) * shape.vision_layers
    else:
      counts = cost.layer_counts(plan)
      rows = cost.vision_row_counts(plan, shape)
    if not table.vision_rows.size:
      rows = None
    text = programs.text_length(self.model, self.text_tokens)
    return cost.latency(table, counts, text, rows, batch=batch)


def _whole(made):
  """A compiled call as something to time."""
  return lambda clock: {"all": stopwatch.seconds(made.call, clock)}


def _time(entry):
  """Seconds of an entry; noise cannot make them negative."""
  return max(entry["median"], 0.0)


def _distinct(values):
  return sorted({int(value) for value in np.round(values)})
