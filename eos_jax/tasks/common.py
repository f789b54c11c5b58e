"""What several tasks need: plans that fit a model."""

import dataclasses
import errno
import pathlib
from typing import Any

import eos_jax
from eos_jax import cost, models, ops
from eos_jax.evaluation import evaluator
from eos_jax.ops import plan_file, trial
from eos_jax.training import settings


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
    for field, theirs, ours in models.reduction.differences(plan, cfg)
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


def preset_plan(
  cfg: models.VLMConfig, name: str, limit: float
) -> ops.ReductionPlan:
  """Returns a preset at a token budget, at its published place or moved.

  Raises:
    cost.UnreachableBudget: it cannot meet the budget.
    ValueError: a site lacks a signal that it reads.
  """
  plan = evaluator.preset_plan(cfg, ops.PRESETS[name], limit)
  for site in plan.sites:
    if fault := lacking(site.site, site.spec):
      raise ValueError(fault)
  return plan


def shipped_plan(model: str, limit: float) -> ops.ReductionPlan | None:
  """Returns the plan in the package for a model at a budget, if any."""
  root = pathlib.Path(eos_jax.__file__).parent
  path = root / "models" / "plans" / f"{model}_{limit:g}.json"
  return read_plan(str(path), "shipped plan") if path.exists() else None


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A plan to be judged, or why there is none.

  Attributes:
    name: of the plan, of the operator, or "dense".
    limit: layer average that it stands for; None = dense.
    plan: what acts; None where nothing does.
    reason: why there is no plan at this limit; "" = there is, or dense.
  """

  name: str
  limit: float | None = None
  plan: ops.ReductionPlan | None = None
  reason: str = ""


def preset_candidate(
  cfg: models.VLMConfig, name: str, limit: float
) -> Candidate:
  """Returns a preset at a budget, or why it cannot be there."""
  try:
    return Candidate(name, limit, preset_plan(cfg, name, limit))
  except ValueError as error:  # unreachable, or a signal that is not there
    return Candidate(name, limit, None, str(error))


def candidates(cfg: models.VLMConfig, job: Any) -> list[Candidate]:
  """Returns dense, the plans in files, and presets at each budget.

  Where no budgets are named, they are those of the plans.

  Args:
    cfg: shape of the model.
    job: settings with `plans`, `budgets` and `presets`.

  Raises:
    settings.ConfigError: a plan is not one of this model, or two have one name.
  """
  listed = [Candidate("dense")]
  for path in job.plans:
    plan = fitting_plan(cfg, path, "config.plans")
    listed.append(Candidate(plan.name, round(cost.plan_average(plan), 2), plan))
  budgets = job.budgets or dict.fromkeys(one.limit for one in listed[1:])
  for limit in budgets:
    for name in job.presets:
      found = preset_candidate(cfg, name, limit)
      full = dataclasses.replace(found, name=f"{name}@{limit:g}")
      listed.append(full)
  names = [one.name for one in listed]
  if twice := sorted({name for name in names if names.count(name) > 1}):
    raise settings.ConfigError(
      [f"config.plans: {', '.join(twice)} is there twice; rename one"]
    )
  return listed
