"""Settings that have to stand before jax is imported, and shared fixtures."""

import fcntl
import os
import pathlib
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
_FLAGS = [
  os.environ.get("XLA_FLAGS", ""),
  # Sharded code is tested on eight devices of one CPU.
  "--xla_force_host_platform_device_count=8",
  # Tests compile far longer than they run: less optimisation is a third of it.
  "--xla_backend_optimization_level=0",
]
if "PYTEST_XDIST_WORKER" in os.environ:
  # Several workers already fill the cores.
  _FLAGS.append("--xla_cpu_multi_thread_eigen=false")
elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # What one worker has compiled, the others read; they inherit these.
  _CACHE = tempfile.TemporaryDirectory(prefix="eos_jax_tests_")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["XLA_FLAGS"] = " ".join(_FLAGS).strip()

import jaxtyping  # noqa: E402  (after the flags above)

import tests.typechecker  # noqa: E402, F401  (the hook calls it by name)

# Shape annotations of the library are checked while tests run. The hook has to
# stand before anything below these packages is imported.
jaxtyping.install_import_hook(
  ["eos_jax.ops", "eos_jax.cost", "eos_jax.search"], "tests.typechecker.check"
)

import jax  # noqa: E402
import pytest  # noqa: E402

import tests.command  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


# Not the checkout's own path, which may have any name in it.
_TESTS = pathlib.Path(__file__).parent


def pytest_addoption(parser):
  parser.addoption(
    "--slow",
    action="store_true",
    help="also run the tests marked `slow`, as continuous integration does",
  )
  parser.addoption(
    "--full",
    action="store_true",
    help="also run the tests marked `slow` and `full` (full size, long)",
  )


def pytest_collection_modifyitems(config, items):
  """Leaves out `slow` and `full` tests unless they are asked for.

  All that need the finished search are slow: the first of them runs it.
  """
  for item in items:
    if "searched" in item.fixturenames:
      item.add_marker(pytest.mark.slow)
  asked = config.getoption("markexpr")
  left_out = set()
  if not (config.getoption("--full") or "full" in asked):
    left_out.add("full")
    if not (config.getoption("--slow") or "slow" in asked):
      left_out.add("slow")
  if any("::" in arg for arg in config.args):
    left_out.discard("slow")  # a test that is named runs

  def is_left_out(item):
    # Not `keywords`: a checkout in a folder of that name has it in them.
    return any(item.get_closest_marker(name) for name in left_out)

  config.hook.pytest_deselected(items=list(filter(is_left_out, items)))
  items[:] = [item for item in items if not is_left_out(item)]


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
  """A finished short search, which all workers share; not to be changed."""
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent
  with open(root / "searched.lock", "w", encoding="utf-8") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    search = tests.command.Search(root / "searched", root / "cache")
    if not (search.workdir / "report.html").exists():
      done = search.run()
      (search.root / "stdout.txt").write_text(done.stdout, encoding="utf-8")
  return search


@pytest.fixture(autouse=True)
def room_for_programs():
  """Forgets compiled programs before the process runs out of memory maps.

  Each takes some; at Linux's limit of 65,530 the next compilation crashes.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
    jax.clear_caches()


@pytest.fixture(autouse=True)
def strict_promotion(request):
  """Mixed dtypes are an error in ops and cost; optax itself mixes them."""
  parts = request.node.path.relative_to(_TESTS).parts
  if any(name in parts for name in ("ops", "cost")):
    with jax.numpy_dtype_promotion("strict"):
      yield
  else:
    yield
