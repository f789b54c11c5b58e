"""The public surface of ops and cost: signatures and docstrings."""

import inspect
import subprocess
import sys
import typing

import pytest

from eos_jax import cost, ops

_FUNCTIONS = [
  (package, name)
  for package in (ops, cost)
  for name in package.__all__
  if inspect.isfunction(getattr(package, name))
]
_CLASSES = [
  (package, name)
  for package in (ops, cost)
  for name in package.__all__
  if inspect.isclass(getattr(package, name))
]
_IDS = [f"{p.__name__}.{n}" for p, n in _FUNCTIONS]
_PLAIN = {"int", "float", "bool", "str"}


def _signature(package, name):
  return inspect.signature(getattr(package, name))


def _is_plain(annotation):
  """Whether an annotation says: a Python value, never an array."""
  return getattr(annotation, "__name__", None) in _PLAIN


@pytest.mark.parametrize("package", [ops, cost])
def test_all_names_exist_and_are_sorted_by_kind(package):
  assert len(set(package.__all__)) == len(package.__all__)
  for name in package.__all__:
    assert hasattr(package, name)


@pytest.mark.parametrize("package, name", _FUNCTIONS, ids=_IDS)
def test_signature(package, name):
  parameters = _signature(package, name).parameters.values()
  names = [p.name for p in parameters]
  assert "rng" not in names
  if "key" in names:
    assert names[0] == "key"
  positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
  takes_data = any(not _is_plain(p.annotation) for p in positional)
  for p in positional:
    if takes_data and not name == "cell_shape":
      assert not _is_plain(p.annotation), f"{p.name} belongs after `*`"
    if p.default is not p.empty:
      # Data that may be absent.
      assert type(None) in typing.get_args(p.annotation), p.name


@pytest.mark.parametrize("package, name", _FUNCTIONS, ids=_IDS)
def test_annotations_and_docstring(package, name):
  signature = _signature(package, name)
  assert signature.return_annotation is not signature.empty
  for p in signature.parameters.values():
    assert p.annotation is not p.empty, p.name
  doc = inspect.getdoc(getattr(package, name))
  assert doc and doc.splitlines()[0].endswith((".", "`."))
  arrays = any(
    "Array" in str(p.annotation) for p in signature.parameters.values()
  )
  if arrays:
    assert "[" in doc, "say the shapes"


@pytest.mark.parametrize("package, name", _CLASSES)
def test_classes_have_docstrings(package, name):
  assert inspect.getdoc(getattr(package, name))


def test_importing_ops_loads_only_jax():
  code = (
    "import sys, eos_jax.ops\n"
    "found = {m.split('.')[0] for m in sys.modules}\n"
    "bad = found & {'flax', 'optax', 'orbax', 'tensorflow', 'torch', 'grain',"
    " 'tensorflow_datasets'}\n"
    "assert not bad, bad\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
