"""The limits of a search: what the settings name, as constraints and measures.

Costs are limited as shares of the dense model's, so that a limit means the same
for every model.
"""

import pathlib
from typing import Any

from eos_jax import cost, search
from eos_jax.training import search_settings, settings

_SHARES = ("flops", "kv_bytes", "latency")


def constraints(
  limit: Any, chosen: search_settings.LimitSettings
) -> tuple[search.Constraint, ...]:
  """The constraints of a budget.

  Args:
    limit: layer average of visual tokens, may be traced.
    chosen: limits that hold at every budget.
  """
  further = {
    name: value
    for name in ("final_count", *_SHARES)
    if (value := getattr(chosen, name))
  }
  return search.limits(layer_average=limit, **further)


def measures(
  shape: cost.ModelShape,
  space: search.SearchSpace,
  chosen: search_settings.LimitSettings,
  prefix: int,
) -> dict[str, Any]:
  """The measures that the limits name, each a share of the dense model's.

  Args:
    shape: sizes of the model.
    space: the search space.
    chosen: the limits.
    prefix: tokens of every sequence that are neither picture nor prompt.

  Raises:
    settings.ConfigError: the latency table cannot be used.
  """
  text = prefix + chosen.text_tokens
  makers = {
    "flops": lambda: search.flops_measure(shape, space, text),
    "kv_bytes": lambda: search.kv_measure(shape, space, text),
    "latency": lambda: _latency(shape, space, chosen, text),
  }
  whole = (space.tokens,) * len(space.sites)
  found = {}
  for name in _SHARES:
    if not getattr(chosen, name):
      continue
    measure = makers[name]()
    try:
      dense = float(measure(whole))
      if name == "flops":  # the dense model runs no operators
        bare = search.flops_measure(shape, space, text, operators=False)
        dense = float(bare(whole))
    except ValueError as error:  # counts that the table does not have
      raise settings.ConfigError([f"limits.{name}: {error}"]) from error
    if not 0 < dense <= settings.MOST_FLOAT:
      raise settings.ConfigError(
        [
          f"limits.{name} is a share of the dense model's, which is {dense:g};"
          " measure a table in which prefills take time"
        ]
      )
    found[name] = lambda counts, m=measure, d=dense: m(counts) / d
  return found


def _latency(shape, space, chosen, text):
  path = pathlib.Path(chosen.latency_table)
  try:
    table = cost.LatencyTable.from_json(path.read_text(encoding="utf-8"))
    return search.latency_measure(
      table, space, text, batch=chosen.latency_batch, shape=shape
    )
  except OSError as error:
    raise settings.ConfigError(
      [
        f"limits.latency_table: {path} cannot be read ({error.strerror}); write"
        " one with --config=configs/timing.py:latency"
      ]
    ) from error
  except RecursionError as error:
    raise settings.ConfigError(
      [f"limits.latency_table: {path} is nested too deeply to be a table"]
    ) from error
  except ValueError as error:
    raise settings.ConfigError([f"limits.latency_table: {error}"]) from error
