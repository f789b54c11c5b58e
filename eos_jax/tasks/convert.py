"""Converts a published checkpoint, and says beforehand whether it fits."""

import functools
import pathlib
import shutil

import jax

from eos_jax import models
from eos_jax.models import converted, fits
from eos_jax.tasks import opening
from eos_jax.training import convert_settings, settings


def check(job: convert_settings.ConvertJob) -> None:
  """Refuses a folder that cannot be read, or a mesh that does not fit."""
  attempt = opening.Attempts()
  files, _ = opening.open_model(job, attempt, {}, without_processor=True)
  if files is not None and files.family == models.TINY:
    attempt.faults.append(
      f"config.model is {job.model!r}, which has nothing to convert; give the"
      " folder of a checkpoint"
    )
  attempt.check()


def run(job: convert_settings.ConvertJob, folder: pathlib.Path) -> None:
  """Says what the model needs, reads it, and writes it to the folder."""
  if converted.finished(folder):
    description, mark = converted.check(folder)
    print(
      f"nothing to do: {folder} holds {description.cfg.name} in"
      f" {mark['dtype']}, and all of its files are as they were written",
      flush=True,
    )
    return
  files, mesh = opening.open_model(
    job, opening.Attempts(), {}, without_processor=True
  )
  model = opening.Opened(files, mesh, None).load(
    {}, check=functools.partial(_check_disk, folder)
  )
  kind, size = files.dtype.name, fits.in_words(_bytes(files))
  print(f"writing {size} to {folder}", flush=True)
  model.save(folder, model.params)
  print(
    f"done: {folder} holds {model.name} in {kind}. It is read by\n"
    f"  eos_jax.models.load({str(folder)!r}), and --config.model={folder}",
    flush=True,
  )


def _bytes(files):
  return sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(files.shapes)
  )


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
