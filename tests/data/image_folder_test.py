"""Image names of data files: found inside their folder, refused elsewhere."""

import os

import pytest

from eos_jax.data import faults, image_folder


@pytest.fixture
def folder(tmp_path):
  """A folder of images, another beside it, and links between them."""
  images, other = tmp_path / "images", tmp_path / "images_of_others"
  for path in (images / "sub", other):
    path.mkdir(parents=True)
    (path / "a.png").write_bytes(b"a")
  (images / "b.png").write_bytes(b"b")
  (images / "inside.png").symlink_to(images / "b.png")
  (images / "outside.png").symlink_to(other / "a.png")
  (images / "outside").symlink_to(other)
  (images / "loop").symlink_to(images / "loop")
  (images / "broken").symlink_to(images / "nothing")
  os.mkfifo(images / "pipe")
  return images


@pytest.mark.parametrize(
  "name",
  ["b.png", "sub/a.png", "./b.png", "sub/../b.png", "inside.png"],
)
def test_names_inside(folder, name):
  found = image_folder.ImageFolder(folder).path(name)
  assert found == folder / name and found.is_file()


def test_the_folder_may_be_a_link(folder, tmp_path):
  (tmp_path / "link").symlink_to(folder)
  found = image_folder.ImageFolder(tmp_path / "link").path("b.png")
  assert found.read_bytes() == b"b"


@pytest.mark.parametrize(
  "name, said",
  [
    ("../images_of_others/a.png", "leads out of the image folder, to /"),
    ("sub/../../images_of_others/a.png", "leads out of the image folder"),
    ("outside.png", "leads out of the image folder"),
    ("outside/a.png", "leads out of the image folder"),
    ("{folder}/b.png", "has an absolute path; expected a file in"),
    ("/etc/passwd", "has an absolute path"),
  ],
)
def test_names_outside_need_a_setting(folder, name, said):
  name = name.format(folder=folder)
  with pytest.raises(faults.RowError, match=said) as error:
    image_folder.ImageFolder(folder).path(name)
  assert "data.images_anywhere=True" in str(error.value)
  found = image_folder.ImageFolder(folder, anywhere=True).path(name)
  assert found.is_file()


@pytest.mark.parametrize(
  "name, said",
  [
    ("c.png", "c.png does not exist; expected it in the image folder"),
    ("b.png/c.png", "does not exist"),
    ("broken", "does not exist"),
    ("loop", "cannot be a file name .Too many levels of symbolic links"),
    ("x" * 300, "'x{47}...x{47}' cannot be a file name .File name too long"),
    ("x/" * 3000, "cannot be a file name .File name too long"),
    ("a\0.png", "cannot be a file name .embedded null"),
    ("\ud83d.png", r"half of a surrogate pair, '\\ud83d' at character 1"),
    ("pipe", "is not a regular file in the image folder"),
    (".", "leads out|not a regular file"),
    ("sub", "is not a regular file"),
  ],
)
@pytest.mark.parametrize("anywhere", [False, True])
def test_what_is_no_image_file(folder, name, said, anywhere):
  with pytest.raises(faults.RowError, match=said) as error:
    image_folder.ImageFolder(folder, anywhere=anywhere).path(name)
  assert len(str(error.value)) < 500
