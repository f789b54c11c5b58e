"""Who may import whom; read from the source, so nothing has to be installed."""

import ast
import pathlib
import subprocess
import sys

import pytest

import eos_jax

ROOT = pathlib.Path(eos_jax.__file__).parent

# Part -> the parts of eos_jax it may import, itself aside.
ARROWS = {
  "array_typing": set(),
  "files": set(),
  "naming": set(),
  "processes": set(),
  "ops": {"array_typing", "naming"},
  "cost": {"ops", "array_typing"},
  "search": {"ops", "cost", "array_typing"},
  "models": {"ops", "data", "files", "naming", "processes", "array_typing"},
  "data": {"files", "naming", "array_typing"},
}
_MODEL = {"ops", "cost", "models", "data", "files", "naming", "array_typing"}
ARROWS["evaluation"] = _MODEL | {"processes"}
ARROWS["training"] = _MODEL | {"search", "processes"}
ARROWS["timing"] = _MODEL | {"evaluation"}
ARROWS["compilation"] = _MODEL
# Where training and evaluation meet.
ARROWS["tasks"] = set(ARROWS)
ARROWS["main"] = set(ARROWS)

# The library's parts live on these alone (and the standard library).
_PLAIN = {"jax", "jaxtyping", "numpy"}
THIRD_PARTY = {
  "array_typing": _PLAIN,
  "files": set(),
  "naming": set(),
  "processes": _PLAIN,
  "ops": _PLAIN,
  "cost": _PLAIN,
  "search": _PLAIN | {"optax"},
}

FILES = sorted(ROOT.rglob("*.py"))


def _part(path):
  name = path.relative_to(ROOT).parts[0]
  return name.removesuffix(".py")


def _imported(path):
  """Yields (line, dotted module) for every import in a file."""
  package = ("eos_jax", *path.relative_to(ROOT).parent.parts)
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        above = package[: len(package) - node.level + 1]
        base = ".".join([*above, base]).rstrip(".")
      for alias in node.names:
        yield node.lineno, f"{base}.{alias.name}"


def test_every_part_is_known():
  known = set(ARROWS) | {"__init__"}
  assert {_part(path) for path in FILES} <= known


def test_package_itself_imports_nothing():
  assert not list(_imported(ROOT / "__init__.py"))


@pytest.mark.parametrize(
  "path", FILES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_arrows(path):
  part = _part(path)
  if part == "__init__":
    return
  faults = []
  for line, module in _imported(path):
    top, *rest = module.split(".")
    if top == "eos_jax":
      # The package itself is empty; `import eos_jax` pulls nothing in.
      if rest and rest[0] not in ARROWS[part] | {part, "__version__"}:
        faults.append(f"{path}:{line}: {part} may not import {module}")
    elif part in THIRD_PARTY and top not in sys.stdlib_module_names:
      if top not in THIRD_PARTY[part]:
        faults.append(f"{path}:{line}: {part} may not need {top}")
    if top == "flax" and part != "models":
      faults.append(f"{path}:{line}: flax belongs below models/ only")
  assert not faults, "\n".join(faults)


def _loaded_by(module):
  """Names of the packages that importing `module` loads, in a new process."""
  code = (
    f"import sys, {module}\n"
    "print(*sorted({name.split('.')[0] for name in sys.modules}))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    check=True,
    cwd=ROOT.parent,
  )
  return set(result.stdout.split())


HEAVY = {"flax", "orbax", "tensorflow", "tensorflow_datasets", "torch", "grain"}


@pytest.mark.slow
@pytest.mark.parametrize(
  "module, unwanted",
  [
    ("eos_jax", HEAVY | {"jax", "optax"}),
    ("eos_jax.ops", HEAVY | {"optax"}),
    ("eos_jax.cost", HEAVY | {"optax"}),
    ("eos_jax.search", HEAVY),
    ("eos_jax.models", {"tensorflow", "torch", "transformers"}),
    ("eos_jax.data", {"tensorflow", "torch", "transformers"}),
    ("eos_jax.main", {"tensorflow", "torch", "transformers"}),
  ],
)
def test_import_stays_light(module, unwanted):
  assert not _loaded_by(module) & unwanted
