"""Programs for TPUs that are not here."""

import importlib.util
import json
import runpy

import jax
import pytest

from eos_jax.compilation import ahead
from eos_jax.data import instructions, question_sets
from eos_jax.models import partition
from eos_jax.tasks import compile as compile_task
from eos_jax.tasks import compile_programs
from eos_jax.training import compile_settings, settings
from tests import command
from tests.models import tiny_families


def _job(arg="", **changes):
  path = command.ROOT / "configs" / "compile.py"
  config = runpy.run_path(str(path))["get_config"](arg).to_dict()
  del config["task"]
  search = changes.pop("search", {})
  limits = config["search"]["limits"] | search.pop("limits", {})
  config["search"] |= search | {"limits": limits}
  return settings.build(compile_settings.CompileJob, config | changes)


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_batches_are_those_of_instructions(family, tmp_path):
  folder = tiny_families.write(family, tmp_path / "model")
  rooms = tiny_families.ROOMS[family]
  job = _job(model=str(folder), text_length=120, search={"batch": 4}, **rooms)
  found = compile_programs.subject(job)
  path = tiny_families.instructions(tmp_path / "data", 4)
  items = instructions.load(path, path.parent, {"all": 1.0}).parts["all"]
  rows = found.files.rows(120)
  real = next(
    question_sets.batches(question_sets.stream(items, rows, 0), batch=4)
  )
  kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), real)
  shapes = compile_programs.batch(found)
  wanted = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), shapes)
  assert kinds == wanted


@pytest.mark.slow
def test_a_search_with_limits_is_that_of_the_task(tmp_path, monkeypatch):
  # Type checks in tests want arrays in the state, not their shardings.
  monkeypatch.setattr(compile_programs, "_everywhere", lambda mesh, tree: tree)
  folder = tiny_families.write("llava_1_5", tmp_path / "model")
  chosen = {"batch": 2, "budgets": (3.0,), "sites": ("decoder.0",)}
  chosen |= {"start": "merge", "limits": {"flops": 0.9, "kv_bytes": 0.9}}
  given = {"text_length": 64, **tiny_families.ROOMS["llava_1_5"]}
  found = compile_programs.subject(
    _job(model=str(folder), search=chosen, **given)
  )
  seen = {}

  def make(step, args, **_):
    def run(*args):
      state, metrics = step(*args)
      seen["multipliers"] = set(state.variables["multiplier"])
      seen["metrics"] = set(metrics)
      return metrics["total"]

    return jax.eval_shape(run, *args)

  given = compile_programs.batch(found)
  mesh = partition.make_mesh()
  compile_programs._search(found, make, found.files.shapes, given, mesh)
  limited = {"flops", "kv_bytes", "layer_average"}
  assert seen["multipliers"] == limited
  assert {f"violation/{name}" for name in limited} <= seen["metrics"]


def test_what_cannot_be_compiled_is_told(tmp_path):
  with pytest.raises(settings.ConfigError) as error:
    _job(programs=("searches",), topologies=(), mesh=(2, 2), dtype="float8")
  assert error.value.faults == (
    "config.dtype is 'float8'; did you mean 'float32'?",
    "config.programs has 'searches'; did you mean 'search'?",
    "config.topologies is empty; give at least one",
    "config.mesh is (2, 2); give the devices along data, fsdp and tensor, such"
    " as (1, 8, 1), or () for the default",
  )
  with pytest.raises(settings.ConfigError, match="config.model: .*config.json"):
    compile_task.check(_job(model=str(tmp_path)))


def program(peak):
  """A program that needs so many bytes."""
  return ahead.Program(
    name="search",
    topology="v5e:2x2",
    device="tpu_v5e",
    mesh={"data": 1, "fsdp": 4, "tensor": 1},
    parameter_bytes=2**20,
    argument_bytes=2**21,
    temporary_bytes=2**22,
    peak_bytes=peak,
    memory_bytes=16 * 10**9,
    flops=2e12,
    moved_bytes=2**30,
    collectives={"all-gather": (3, 2**20)},
    compile_seconds=9.0,
    seconds={"arithmetic": 0.01, "memory": 0.04, "network": 0.001},
  )


def test_the_table_says_what_fits_and_what_to_change():
  made = [program(2**30), program(16 * 10**9)]
  head, one, other = compile_task.table(made)
  assert dict(zip(head, one, strict=True)) == {
    "program": "search",
    "topology": "v5e:2x2",
    "mesh": "1x4x1",
    "parameters": "1.0 MiB",
    "peak": "1.0 GiB",
    "of": "14.9 GiB",
    "fits": "yes",
    "TFLOP": "2",
    "moved": "1.0 GiB",
    "network": "1.0 MiB",
    "least ms": "40",
    "bound by": "memory",
    "of peak rate": "25%",
  }
  assert other[head.index("fits")] == "no"
  said = "\n".join(compile_task.notes(made, ["dense on v5e:9x9: no"]))
  assert said.count("does not fit: try more chips") == 1
  assert "all-gather 3 x, 1.0 MiB" in said
  assert "Not compiled: dense on v5e:9x9: no" in said


def test_without_the_compiler_the_extra_is_named():
  if importlib.util.find_spec("libtpu"):
    with pytest.raises(ahead.NoCompiler, match="'v5e:x' cannot be compiled"):
      ahead.chips("v5e:x", (), {})
    return
  with pytest.raises(ahead.NoCompiler, match=r"pip install -e '.\[tpu\]'"):
    ahead.chips("v5e:2x2", (), {})


@pytest.mark.full
def test_the_shipped_model_compiles_for_four_chips(tmp_path):
  pytest.importorskip("libtpu")
  args = (
    f"--config.programs={compile_settings.PROGRAMS!r}",
    "--config.topologies=('v5e:2x2','v5e:2x2*2')",
  )
  done = command.run(tmp_path, *args, config="compile:tiny")
  assert done.returncode == 0, done.stderr[-3000:]
  value = json.loads((tmp_path / "compile.json").read_text(encoding="utf-8"))
  assert not value["faults"]
  whole, slices = (
    {one["name"]: one for one in value["programs"] if one["topology"] == name}
    for name in ("v5e:2x2", "v5e:2x2*2")
  )
  for found in (whole, slices):
    _check_programs(found)
  # Two slices share a batch; each has the whole of the parameters.
  for name, one in slices.items():
    assert one["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    assert one["parameter_bytes"] == whole[name]["parameter_bytes"]
    assert one["flops"] == pytest.approx(whole[name]["flops"] / 2)


def _check_programs(found):
  assert tuple(found) == compile_settings.PROGRAMS
  for one in found.values():
    assert 0 < one["parameter_bytes"] < one["peak_bytes"] < 2**27
    assert one["flops"] > 1e9 and "all-gather" in one["collectives"]
  # All parameters move, with two moments of each.
  assert found["finetune"]["argument_bytes"] > found["dense"]["argument_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_a_search_of_every_family_compiles_for_four_chips(family, tmp_path):
  pytest.importorskip("libtpu")
  folder = tiny_families.write(family, tmp_path / "model")
  rooms = tiny_families.ROOMS[family]
  done = command.run(
    tmp_path / "run",
    f"--config.model={folder}",
    "--config.topologies=('v5e:2x2',)",
    "--config.search.batch=4",
    "--config.search.budgets=(2.0,)",
    "--config.search.sites=('decoder.0',)",
    *(f"--config.{name}={value}" for name, value in rooms.items()),
    config="compile",
  )
  assert done.returncode == 0, done.stderr[-3000:]
  text = (tmp_path / "run" / "compile.json").read_text(encoding="utf-8")
  value = json.loads(text)
  assert not value["faults"]
  (one,) = value["programs"]
  assert one["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
  assert "all-gather" in one["collectives"]
