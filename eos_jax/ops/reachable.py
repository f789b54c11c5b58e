"""Which published operators lie in the continuous space, and what lies near."""

import dataclasses
import functools
import hashlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from eos_jax.array_typing import Array, Float
from eos_jax.ops import needs, operator, types
from eos_jax.ops.presets import PRESETS

# Kernels of the space that a search moves in by numbers alone.
_CONTINUOUS = {
  "select": ("top_k",),
  "diversity": ("none", "grid", "uniqueness"),
  "assign": ("none", "softmax"),
}
# Faults of one repository's code, which no spec reproduces; the recorded cases
# are compared with them in `tests/golden`.
LEFT_OUT = {
  "tome": "unmerge with a distillation token takes rows for those of the other"
  " set",
  "fastv": "a batch is cut where the attention of its first sample says",
  "prumerge_plus": "fixed mode: duplicated centres, and as many unselected"
  " tokens lost",
  "dart": "pivots are visited in the order of a Python set",
  "divprune": "the same token may be picked again where too few differ",
  "globalcom2": "kept tokens are written back to other cells where crops are"
  " padded",
}

# Which fields of a spec belong to which stage.
STAGES = {
  "score": ("scores", "pi"),
  "select": (
    "select",
    "diversity",
    "kappa",
    "stride",
    "protect",
    "fused",
  ),
  "assign": (
    "assign",
    "affinity",
    "sources",
    "receivers",
    "neighbours",
    "recycle",
    "tau",
    "theta",
    "omega",
  ),
  "combine": (
    "alpha",
    "beta",
    "chi",
    "zeta",
    "sizes",
    "gamma",
    "eta",
    "rho",
  ),
  "propagate": ("delta", "rho_attn"),
}

_SIDE, _WIDTH, _KEEP, _EXAMPLES = 6, 8, 18, 3
_SAME = 1e-5
READINGS = pathlib.Path(__file__).parent / "presets" / "readings.npz"


@dataclasses.dataclass(frozen=True)
class Reach:
  """Where a preset lies.

  Attributes:
    name: of the preset.
    kernels: named discrete kernels that it needs, as "field=name"; () for a
      point of the continuous space.
    left_out: what of its repository's code is a fault that is not reproduced.
  """

  name: str
  kernels: tuple[str, ...]
  left_out: str


@dataclasses.dataclass(frozen=True)
class Nearest:
  """The preset nearest to an operator.

  Attributes:
    name: of the preset.
    distance: of what attention reads from the outputs, relative to its root
      mean square; 0 where the operators act alike.
    stages: stages in which the two differ, of score, select, assign, combine
      and propagate.
  """

  name: str
  distance: float
  stages: tuple[str, ...]


def reach(spec: types.OperatorSpec) -> Reach:
  """Whether an operator is a point of the continuous space, and if not, why.

  >>> from eos_jax.ops import presets
  >>> reach(presets.FASTV).kernels, reach(presets.DIVPRUNE).kernels
  ((), ('diversity=max_min',))
  """
  kernels = [
    f"{field}={getattr(spec, field)}"
    for field, known in _CONTINUOUS.items()
    if getattr(spec, field) not in known
  ]
  kernels += [
    part for part in needs.discrete_parts(spec) if part not in kernels
  ]
  if "class_guided" in spec.scores:
    kernels.append("keep: one count for each image")
  return Reach(spec.name, tuple(kernels), LEFT_OUT.get(spec.name, ""))


def table() -> str:
  """The reach of every preset, as a Markdown table."""
  lines = [
    "| preset | is | left out |",
    "|---|---|---|",
  ]
  for spec in PRESETS.values():
    found = reach(spec)
    kind = "a point of the continuous space"
    if found.kernels:
      kind = "needs " + ", ".join(f"`{kernel}`" for kernel in found.kernels)
    lines.append(f"| `{found.name}` | {kind} | {found.left_out} |")
  return "\n".join(lines) + "\n"


def nearest_preset(spec: types.OperatorSpec) -> Nearest:
  """The preset whose outputs are nearest on reference inputs.

  Both act on the same fixed images with as many tokens as the preset's kernel
  allows nearest to half of them. Compared is what fixed queries read by
  attention, log-masses and biases included: it does not depend on the order of
  rows. Not differentiable. What the presets of this package give is stored
  (`presets/readings.npz`); presets added to `PRESETS` are compiled at their
  first call.

  Args:
    spec: the operator, such as one that a search found.

  Returns:
    The preset, the distance, and the stages that differ: those whose exchange
    changes what `spec` gives.
  """
  spec = spec.replace(protect=0)
  own = _read(spec)
  distances = {
    name: _distance(own, reading) for name, reading in _all_read().items()
  }
  name = min(distances, key=distances.get)
  preset = PRESETS[name].replace(protect=0)
  stages = [stage for stage in STAGES if _matters(spec, preset, stage)]
  return Nearest(name, distances[name], tuple(stages))


def _matters(spec, preset, stage):
  """Whether an operator acts otherwise with a stage of another one."""
  changes = {name: getattr(preset, name) for name in STAGES[stage]}
  if all(getattr(spec, name) == value for name, value in changes.items()):
    return False
  try:
    return _distance(_read(spec), _read(spec.replace(**changes))) > 0
  except ValueError:  # the two halves do not fit together
    return True


def _all_read() -> dict[str, np.ndarray]:
  """Readings of every preset by name: stored ones, others computed."""
  stored = _stored()
  return {
    name: (
      stored[_fingerprint(spec)]
      if _fingerprint(spec) in stored
      else _read(spec.replace(protect=0))
    )
    for name, spec in PRESETS.items()
  }


def _fingerprint(spec: types.OperatorSpec) -> str:
  """Key of a stored reading: everything in a spec that a reading depends on."""
  parts = [(name, getattr(spec, name)) for name in sum(STAGES.values(), ())]
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def _stored() -> dict[str, np.ndarray]:
  with np.load(READINGS) as table:
    return dict(table)


def store() -> None:
  """Computes and stores the readings of all presets."""
  readings = {
    _fingerprint(spec): _read(spec.replace(protect=0))
    for spec in PRESETS.values()
  }
  np.savez(READINGS, **readings)


def _distance(a, b):
  scale = np.sqrt(np.mean(np.square(a)) + np.mean(np.square(b))) / np.sqrt(2)
  off = float(np.sqrt(np.mean(np.square(a - b))) / max(scale, 1e-12))
  return off if off > _SAME else 0.0


@functools.lru_cache(maxsize=256)
def _read(spec: types.OperatorSpec) -> np.ndarray:
  """What fixed queries read from the outputs of an operator, `[E, Q, D]`."""
  # Operators that differ in numbers alone share one compiled program.
  names = {field.name for field in dataclasses.fields(types.OperatorParams)}
  numbers = {name: types.DEFAULTS[name] for name in names - {"pi"}}
  one_hot = tuple(float(i == 0) for i in range(len(spec.scores)))
  structure = spec.replace(name="", doc="", pi=one_hot, **numbers)
  return np.asarray(_reader(structure)(spec.params()))


@functools.lru_cache(maxsize=256)
def _reader(spec: types.OperatorSpec):
  """Compiled function of the numbers of an operator."""
  tokens, signals, queries = _examples()

  def read(tokens, signals, queries, params):
    out = operator.reduce_masked(
      tokens, signals, params, spec=spec, keep=_KEEP
    ).tokens
    logits = queries @ out.x.T + (out.log_mass + out.bias)[None]
    return jax.nn.softmax(logits, -1) @ out.x

  program = jax.jit(
    jax.vmap(read, in_axes=(0, 0, 0, None)),
    compiler_options={"xla_backend_optimization_level": 0},
  )
  return lambda params: program(tokens, signals, queries, params)


@functools.cache
def _examples() -> tuple[types.TokenSet, types.Signals, Float[Array, "E Q D"]]:
  """Images of a few smooth regions, and every signal."""
  count, rng = _SIDE * _SIDE, np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=(_EXAMPLES, *shape)).astype(np.float32)

  def attention():
    power = np.exp(1.5 * normal(count))
    return power / power.sum(1, keepdims=True)

  coarse = normal(3, 3, _WIDTH)
  x = coarse.repeat(2, 1).repeat(2, 2).reshape(_EXAMPLES, count, _WIDTH)
  x = x + 0.5 * normal(count, _WIDTH)
  tokens = jax.vmap(types.token_set)(jnp.asarray(x))
  signals = types.Signals(
    keys=x @ normal(_WIDTH, 6),
    vision_keys=x @ normal(_WIDTH, 6),
    last_row=attention(),
    last_row_previous=attention(),
    text_rows=attention(),
    class_row=attention(),
    rater_rows=attention(),
    received=attention(),
    text=normal(4, _WIDTH),
    states=normal(count, _WIDTH),
    pivots=normal(6, _WIDTH),
    guide=normal(count),
    learned=normal(count),
    self_sums=attention(),
    cross_sums=attention(),
    noise=rng.uniform(size=(_EXAMPLES, count)).astype(np.float32),
    grid=(_SIDE, _SIDE),
  )
  return tokens, signals, jnp.asarray(normal(16, _WIDTH))


if __name__ == "__main__":
  store()
