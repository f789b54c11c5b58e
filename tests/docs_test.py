"""What the documents and docstrings show has to run."""

import doctest
import importlib
import pathlib
import re
import runpy

import jax
import pytest

import eos_jax
from eos_jax import files

ROOT = pathlib.Path(eos_jax.__file__).parent
CHECKOUT = ROOT.parent


PAGES = [
  CHECKOUT / "README.md",
  CHECKOUT / "CONTRIBUTING.md",
  *sorted((CHECKOUT / "docs").glob("*.md")),
]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def _blocks(page, language):
  text = page.read_text(encoding="utf-8")
  return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.full
@pages
def test_python_runs(page):
  names = {}  # blocks run in order; later ones use names of earlier ones
  for block in _blocks(page, "python"):
    # optax itself mixes dtypes.
    promotion = "standard" if "optax" in block else "strict"
    with jax.numpy_dtype_promotion(promotion):
      exec(compile(block, page.name, "exec"), names)


@pages
def test_commands_name_files_and_settings_that_exist(page):
  text = "\n".join(_blocks(page, "bash")).replace("\\\n", " ")
  for path in re.findall(r"(?:configs|launch)/\w+\.\w+", text):
    assert (CHECKOUT / path).exists(), path
  for line in text.splitlines():
    found = re.search(r"--config=(configs/\w+\.py):?(\w*)", line)
    if not found:
      continue
    path, variant = found.groups()
    made = runpy.run_path(CHECKOUT / path)["get_config"](variant).to_dict()
    for name in re.findall(r"--config\.([\w.]+)=", line):
      assert name in files.flat(made), line


@pages
def test_links_lead_somewhere(page):
  text = page.read_text(encoding="utf-8")
  for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
    path, _, anchor = link.partition("#")
    target = page.parent / path
    assert target.exists(), link
    heads = (
      re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.M)
      if anchor
      else []
    )
    anchors = {
      re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in heads
    }
    assert not anchor or anchor in anchors, link


def test_every_page_is_in_the_menu():
  text = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
  listed = set(re.findall(r": (\w+\.md)$", text, re.M))
  assert listed == {page.name for page in (CHECKOUT / "docs").glob("*.md")}


def test_readme_is_short():
  text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
  assert text.count("\n") <= 150


def test_readme_layout_is_the_tree():
  (layout,) = _blocks(CHECKOUT / "README.md", "text")
  listed = re.findall(r"^  (\w+(?:\.py)?)", layout, re.M)
  for name in listed:
    assert (ROOT / name).exists(), name
  parts = {p.parent.name for p in ROOT.glob("*/__init__.py")}
  assert parts <= set(listed)


MODULES = [
  ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
  for path in sorted(ROOT.rglob("*.py"))
  if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
  module = importlib.import_module(name.removesuffix(".__init__"))
  result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
  assert result.attempted and not result.failed
