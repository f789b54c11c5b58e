"""What the documents and docstrings show has to run."""

import doctest
import importlib
import os
import pathlib
import re
import subprocess

import jax
import pytest

import eos_jax

ROOT = pathlib.Path(eos_jax.__file__).parent
CHECKOUT = ROOT.parent


def _blocks(language):
  text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
  return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def test_readme_python_runs():
  blocks = _blocks("python")
  assert blocks
  names = {}
  with jax.numpy_dtype_promotion("strict"):
    for block in blocks:  # in order; later blocks use earlier names
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


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
  module = importlib.import_module(name.removesuffix(".__init__"))
  result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
  assert result.attempted and not result.failed


def _launch(*arguments, **environment):
  return subprocess.run(
    ["bash", str(CHECKOUT / "launch" / "tpu_vm.sh"), *arguments],
    capture_output=True,
    text=True,
    env=os.environ | environment,
  )


def test_launch_dry_run_prints_every_step():
  result = _launch(
    "--dry-run", "--", "--config=configs/search.py", NAME="n", ZONE="z"
  )
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  verbs = [line.split("tpu-vm ")[1].split()[0] for line in lines[1:]]
  assert verbs == ["create", "scp", "ssh", "ssh", "scp", "delete"]
  assert all("--zone=z" in line for line in lines[1:])
  assert "configs/search.py" in lines[4]


def test_launch_rejects_unknown_options():
  result = _launch("--dryrun")
  assert result.returncode == 2
  assert "--dryrun" in result.stderr
