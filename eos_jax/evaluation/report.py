"""Tables and plots of a comparison."""

from collections.abc import Sequence
import math
import pathlib
from typing import Any

from eos_jax import files
from eos_jax.evaluation import charts, evaluator


def table(results: Sequence[evaluator.Result]) -> str:
  """The comparison as text: a block for each budget, best mean first."""
  tasks = sorted({task for r in results for task in r.accuracy})
  width = max(len(r.name) for r in results) + 2
  head = (
    f"{'operator':<{width}}{'mean':>7}{'+-':>6}"
    + "".join(f"{task[:9]:>10}" for task in tasks)
    + f"{'layer avg':>11}{'MFLOPs':>9}{'KV KiB':>8}  kept"
  )
  lines = []
  for limit in _limits(results):
    block = [r for r in results if r.limit == limit]
    block.sort(key=lambda r: -r.mean if r.accuracy else math.inf)
    title = "dense" if limit is None else f"budget {limit:g} visual tokens"
    lines += ["", f"{title} (layer average)" if limit else title, head]
    lines += [_line(r, tasks, width) for r in block]
  return "\n".join(lines[1:])


def _limits(results):
  found = {r.limit for r in results}
  return sorted(found, key=lambda x: -math.inf if x is None else -x)


def _line(result, tasks, width):
  if not result.accuracy:
    return f"{result.name:<{width}}  cannot reach it: {result.reason}"
  note = result.plan.note if result.plan else ""
  return (
    f"{result.name:<{width}}{result.mean:7.3f}{result.error:6.3f}"
    + "".join(f"{result.accuracy[task]:10.3f}" for task in tasks)
    + f"{result.layer_average:11.2f}"
    + f"{result.flops / 1e6:9.1f}{result.kv_bytes / 1024:8.1f}"
    + f"  {result.kept}  {note}"
  ).rstrip()


def write_json(
  path: pathlib.Path, results: Sequence[evaluator.Result], facts: dict[str, Any]
) -> None:
  """Writes all numbers and the facts of the run, with a digest."""
  value = files.plain({**facts, "results": [r.to_dict() for r in results]})
  files.write_json(path, {**value, "digest": _digest(value)})


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads what `write_json` wrote.

  Raises:
    ValueError: it is damaged, or was changed.
  """
  value = files.read_json(path)
  if not isinstance(value, dict) or value.get("digest") != _digest(value):
    raise ValueError(f"the contents of {path} do not match their digest")
  return value


def _digest(value):
  """Of all that does not depend on where and how fast a run was."""
  left_out = ("config", "seconds", "digest")
  return files.digest({n: v for n, v in value.items() if n not in left_out})


def plot(path: pathlib.Path, results: Sequence[evaluator.Result]) -> None:
  """Accuracy against prefill FLOPs: every operator a line over the budgets."""
  figure = charts.accuracy_cost([r.to_dict() for r in results])
  with files.whole(path) as file:
    figure.savefig(file, format="png", dpi=150)
