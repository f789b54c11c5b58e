"""What the documents and docstrings show has to run."""

import doctest
import importlib
import pathlib
import re

import jax
import pytest

import eos_jax

ROOT = pathlib.Path(eos_jax.__file__).parent
CHECKOUT = ROOT.parent


def _blocks(language):
  text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
  return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.full
def test_readme_python_runs():
  blocks = _blocks("python")
  assert blocks
  names = {}
  for block in blocks:  # in order; later blocks use earlier names
    # optax itself mixes dtypes.
    promotion = "standard" if "optax" in block else "strict"
    with jax.numpy_dtype_promotion(promotion):
      exec(compile(block, "README.md", "exec"), names)


def test_readme_commands_name_files_that_exist():
  text = "\n".join(_blocks("bash"))
  paths = re.findall(r"(?:configs|launch)/\w+\.\w+", text)
  assert paths
  for path in paths:
    assert (CHECKOUT / path).exists(), path


def test_readme_layout_is_the_tree():
  (layout,) = _blocks("text")
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
