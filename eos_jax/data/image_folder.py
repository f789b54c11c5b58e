"""Finds the image files that data files name, inside one folder."""

import os
import pathlib
import stat

from eos_jax import naming
from eos_jax.data import faults


class ImageFolder:
  """A folder, and the image files in it.

  A data file comes from anywhere, so the names in it may not reach files
  outside of the folder: not by an absolute path, by "..", or through a link.
  """

  def __init__(self, folder: pathlib.Path, *, anywhere: bool = False):
    """Finds nothing yet.

    Args:
      folder: may itself be a link.
      anywhere: whether names may lead out of it.
    """
    self._folder, self._anywhere = folder, anywhere
    self._root = os.path.realpath(folder)
    self._parents: dict[pathlib.Path, str] = {}

  def path(self, name: str) -> pathlib.Path:
    """Returns the path of an image by its name in a data file.

    Raises:
      faults.RowError: there is no such regular file, or it is not inside the
        folder.
    """
    faults.check_unicode("an image name", name)
    path, said = self._folder / name, f"the picture {naming.quoted(name)}"
    where = f"in the image folder {self._folder}"
    if not self._anywhere and os.path.isabs(name):
      raise faults.RowError(f"{said} has an absolute path; {self._hint(where)}")
    try:
      regular = stat.S_ISREG(os.stat(path).st_mode)
      real = self._real(path)
    except (FileNotFoundError, NotADirectoryError) as error:
      raise faults.RowError(
        f"the picture {path} does not exist; expected it {where}"
      ) from error
    except (OSError, ValueError) as error:
      what = getattr(error, "strerror", None) or error
      raise faults.RowError(
        f"{said} cannot be a file name ({what}); expected a file {where}"
      ) from error
    if not (self._anywhere or real.startswith(os.path.join(self._root, ""))):
      raise faults.RowError(
        f"{said} leads out of the image folder, to {real}; {self._hint(where)}"
      )
    if not regular:
      raise faults.RowError(f"{said} is not a regular file {where}")
    return path

  def _real(self, path: pathlib.Path) -> str:
    """The path without links; parents are looked up once."""
    if path.name == ".." or os.path.islink(path):
      return os.path.realpath(path)
    if path.parent not in self._parents:
      self._parents[path.parent] = os.path.realpath(path.parent)
    return os.path.join(self._parents[path.parent], path.name)

  def _hint(self, where: str) -> str:
    return (
      f"expected a file {where}; if you trust the data file, set"
      " data.images_anywhere=True"
    )
