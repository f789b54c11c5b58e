"""Compiles programs of a model for TPUs that are not here: what fits."""

import dataclasses
import pathlib

import tqdm

from eos_jax import files
from eos_jax.compilation import ahead
from eos_jax.evaluation import render
from eos_jax.models import fits
from eos_jax.tasks import compile_programs
from eos_jax.training import compile_settings, settings


def check(job: compile_settings.CompileJob) -> None:
  """Refuses a model that is not known."""
  compile_programs.subject(job)


def run(job: compile_settings.CompileJob, folder: pathlib.Path) -> None:
  """Compiles everything that is named, and writes the table."""
  found = compile_programs.subject(job)
  shapes = found.files.shapes
  made, faults = [], []
  total = len(job.topologies) * len(job.programs)
  with tqdm.tqdm(total=total, desc="programs", dynamic_ncols=True) as bar:
    for topology in job.topologies:
      for name in job.programs:
        bar.set_postfix_str(f"{name}, {topology}")
        try:
          where = ahead.chips(topology, job.mesh, shapes)
          made.append(compile_programs.compile_for(found, name, where))
        except ValueError as error:
          faults.append(f"{name} on {topology}: {error}")
        bar.update()
  if not made:
    raise settings.ConfigError(list(dict.fromkeys(faults)))
  title = (
    f"{found.cfg.name} in {found.files.dtype.name}, batch"
    f" {found.job.search.batch}"
  )
  text = write(folder, title, made, faults)
  print(text, f"Look at {folder}/: compile.md, compile.json", sep="\n")


def write(
  folder: pathlib.Path,
  title: str,
  made: list[ahead.Program],
  faults: list[str],
) -> str:
  """Writes programs, and the report, which is returned."""
  programs = [dataclasses.asdict(program) for program in made]
  value = {"title": title, "programs": programs, "faults": faults}
  files.write_json(folder / "compile.json", files.sealed(files.plain(value)))
  return report(folder)


def report(folder: pathlib.Path) -> str:
  """Writes `compile.md` from `compile.json`, and returns it."""
  value = files.unsealed(files.read_json(folder / "compile.json"))
  made = [ahead.Program(**program) for program in value["programs"]]
  section = render.Section(
    value["title"], table(made), notes(made, value["faults"])
  )
  text = render.markdown([section])
  files.write_text(folder / "compile.md", text)
  return text


def table(made: list[ahead.Program]) -> render.Table:
  """A row for each program, the head first."""
  return render.table(
    [
      {
        "program": one.name,
        "topology": one.topology,
        "mesh": "x".join(str(size) for size in one.mesh.values()),
        "parameters": fits.in_words(one.parameter_bytes),
        "peak": fits.in_words(one.peak_bytes),
        "of": fits.in_words(one.memory_bytes),
        "fits": "yes" if one.fits else "no",
        "TFLOP": f"{one.flops / 1e12:.3g}",
        "moved": fits.in_words(one.moved_bytes),
        "network": fits.in_words(
          sum(size for _, size in one.collectives.values())
        ),
        "least ms": f"{1e3 * one.seconds[one.bound]:.3g}",
        "bound by": one.bound,
        "of peak rate": f"{one.utilisation:.0%}",
      }
      for one in made
    ]
  )


def notes(made: list[ahead.Program], faults: list[str]) -> list[str]:
  """What has to be known to read the table, and what to change."""
  said = [
    "All of one chip, in one run. Peak: arguments, temporaries, results and"
    " code. TFLOP: products of the traced program, cut evenly. Moved: inputs"
    " and results of instructions in main memory. Network: results of"
    " collectives.",
    "Least ms: the longest of arithmetic, memory and network at the chip's"
    " rates, which run at once at best; a bound, no measurement.",
  ]
  if any("*" in one.topology for one in made):
    said.append(
      "Between slices is the data centre's network, which is slower: its time"
      " is not counted apart."
    )
  for one in made:
    parts = ", ".join(
      f"{kind} {count} x, {fits.in_words(size)}"
      for kind, (count, size) in one.collectives.items()
    )
    said.append(
      f"{one.name} on {one.topology}: {parts or 'no collectives'}; compiled in"
      f" {one.compile_seconds:.0f} s."
    )
    if not one.fits:
      said.append(
        f"{one.name} on {one.topology} does not fit: try more chips, a smaller"
        " config.search.batch, a config.search.micro_batch, or"
        " config.search.remat='layers'."
      )
  return said + [f"Not compiled: {fault}" for fault in faults]
