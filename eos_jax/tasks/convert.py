"""Converts a published checkpoint, and says beforehand whether it fits."""

import functools
import pathlib
import shutil

import tqdm

from eos_jax.models import converted, fits, loading, partition
from eos_jax.tasks import common
from eos_jax.training import convert_settings, settings


def check(job: convert_settings.ConvertJob) -> None:
  """Refuses a folder that cannot be read, or a mesh that does not fit."""
  faults, contents = [], None
  try:
    contents = _inspect(job)
  except ValueError as error:
    faults.append(f"config.model.path: {error}")
  shapes = contents and loading.shapes(contents.description.cfg)
  try:
    mesh = partition.make_mesh(job.mesh, shapes)
    if contents is not None:
      partition.param_shardings(mesh, shapes)
  except ValueError as error:
    faults.append(f"config.mesh: {error}")
  if faults:
    raise settings.ConfigError(faults)


def run(job: convert_settings.ConvertJob, folder: pathlib.Path) -> None:
  """Says what the model takes, reads it, and writes it to the folder."""
  if converted.finished(folder):
    description, mark = converted.check(folder)
    print(
      f"nothing to do: {folder} holds {description.cfg.name} in"
      f" {mark['dtype']}, and all of its files are as they were written",
      flush=True,
    )
    return
  contents = _inspect(job)
  mesh = partition.make_mesh(job.mesh, loading.shapes(contents.description.cfg))
  dtype = job.model.dtype or loading.stored_dtype(contents.description)
  need = fits.measure(
    contents.description, dtype, mesh, host=loading.passing(contents, dtype)
  )
  room = fits.room()
  print(fits.report(need, room), flush=True)
  fits.check(need, room)
  _check_disk(folder, need)
  with tqdm.tqdm(
    desc="reading", unit="B", unit_scale=True, dynamic_ncols=True
  ) as bar:
    _, params = loading.load(
      job.model.path,
      dtype=dtype,
      shardings=functools.partial(partition.param_shardings, mesh),
      watch=functools.partial(common.advance, bar),
      allow_outside=job.model.allow_outside,
    )
  print(f"writing {fits.in_words(need.total)} to {folder}", flush=True)
  converted.save(folder, pathlib.Path(job.model.path), params)
  print(
    f"done: {folder} holds {need.name} in {need.dtype}. It is read by\n"
    f"  eos_jax.models.converted.restore({str(folder)!r})",
    flush=True,
  )


def _inspect(job):
  outside = job.model.allow_outside
  return loading.inspect(job.model.path, allow_outside=outside)


def _check_disk(folder, need):
  free = shutil.disk_usage(folder).free
  if free < need.total:
    raise settings.ConfigError(
      [
        f"the parameters take {fits.in_words(need.total)} in {need.dtype}, and"
        f" {fits.in_words(free)} of the disk are free at {folder}; free some"
        " space, or choose another --workdir"
      ]
    )
