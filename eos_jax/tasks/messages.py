"""What a run says at its beginning and at its end."""

import jax

from eos_jax.search import init_policy
from eos_jax.training import fits, partition


def count_parameters(params):
  """Parameters by group, in words."""
  return ", ".join(
    f"{part} {sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6:.2f} M"
    for part, tree in sorted(params.items())
  )


def data_line(sources_):
  """The data sets, and how many pictures they have."""
  return "data: " + ", ".join(
    f"{source.name}/{source.split} {len(source):,} pictures"
    for source in sources_
  )


def mesh_line(mesh, params, batch_bytes):
  """The mesh, and what a device has to hold at least."""
  held = fits.held_bytes(params, partition.param_shardings(mesh, params))
  axes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
  ways = mesh.shape["data"] * mesh.shape["fsdp"]
  return (
    f"mesh: {axes}; a device holds {held / 2**20:.1f} MiB of parameters and"
    f" {batch_bytes / ways / 2**20:.1f} MiB of a batch, activations come on top"
  )


def describe_search(problem, case):
  """What a search is about to do, for its first lines."""
  cfg, job, space = problem.cfg, problem.settings, problem.space
  numbers = sum(leaf.size for leaf in jax.tree.leaves(init_policy(space)))
  numbers *= max(job.knots, 1)
  state = "projector, decoder trained too" if job.trains_model else "frozen"
  return "\n".join(
    [
      f"model {cfg.name}: {cfg.tokens} visual tokens,"
      f" {cfg.decoder.layers} decoder layers",
      f"parameters: {count_parameters(problem.params)} ({state}); policy of"
      f" {numbers} numbers at {', '.join(space.sites)} (searched)",
      mesh_line(case.mesh, problem.params, case.batch_bytes),
      f"{case.data}; {len(case.checks)} questions for the checks",
      f"budgets: {', '.join(f'{b:g}' for b in job.budgets)} visual tokens"
      f" (layer average), {_steps(job)}, from {job.start!r}",
    ]
  )


def _steps(job):
  """How long a search is, in words."""
  if job.knots:
    return (
      f"one policy with {job.knots} knots for all, {job.steps} steps of"
      f" {job.batch} questions"
    )
  calibrated = ""
  if job.calibration_steps:
    calibrated = f" and {job.calibration_steps} of calibration"
  return f"{job.steps} steps of {job.batch} questions each{calibrated}"


def cost_lines(facts, course):
  """What a search and its evaluation took."""
  whole, seconds = facts["cost"], facts["seconds"]
  lines = (
    f"Cost of the search: {whole['steps']} steps, {whole['examples']:,}"
    f" questions, {whole['flops'] / 1e12:.1f} TFLOPs by the cost model"
  )
  if course.steps:
    lines += (
      f"; this process took {course.steps} of the steps in"
      f" {course.seconds:.0f} s, checks included, and compiled"
      f" {course.compilations} program(s) for them"
    )
  lines += (
    f". Data and search {seconds['data and search']:.0f} s, evaluation"
    f" {seconds['evaluation']:.0f} s."
  )
  return f"{lines} {course.speed.in_words()}" if course.speed else lines


def where_to_look(found, folder, evaluated):
  """The files of a finished search.

  Args:
    found: the plans.
    folder: of the run.
    evaluated: whether `configs/evaluate.py` judges plans of this model.
  """
  plan = f"{min(item.limit for item in found):g}.json"
  more = [
    "To judge a plan on the whole test split:",
    "  python -m eos_jax.main --config=configs/evaluate.py"
    f" --config.plan={folder}/plans/{plan}",
  ]
  return "\n".join(
    [
      f"Look at {folder}/",
      "  report.html              start here",
      "  plans/                   the plans, a JSON file each",
      "  table.txt, results.json  all numbers",
      "  metrics.jsonl            the course of the search; also tensorboard/",
      "  speed.jsonl              how fast its steps were",
      *(more if evaluated else ()),
    ]
  )
