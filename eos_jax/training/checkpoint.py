"""Checkpoints of a run: arrays, place in the data, and facts, through Orbax.

Each has a seal: its step, checksums of its arrays, and a copy of everything
else in it, with a digest. A checkpoint that differs from its seal is damaged.
"""

import contextlib
import itertools
import math
import pathlib
import tempfile
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
import tensorstore

from eos_jax import files, processes
from eos_jax.models import checksums

CheckpointError = files.CheckpointError


class OtherRun(CheckpointError):
  """A checkpoint that another model, or other settings, made."""


class Checkpointer:
  """Saves and restores `(state, place in the data, facts)` in a directory.

  Of several processes all save and restore, in a directory that they share.

  Frozen weights are not part of a state; their fingerprint belongs in `facts`,
  which must be equal when a run is resumed. The newest are kept, and if it is
  wanted the best of those that were saved with a score.
  """

  def __init__(
    self, directory: pathlib.Path, *, keep: int = 2, best: bool = False
  ):
    policies = [checkpoint_managers.LatestN(keep)]
    if best:
      policies.append(
        checkpoint_managers.BestN(
          get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
      )
    self._root, self._best = pathlib.Path(directory).resolve(), best
    self._damaged: list[str] = []
    # Before there is a manager, which fails where a score is damaged.
    self._sift({path: _fault(path) for path in _steps(self._root)})
    options = ocp.CheckpointManagerOptions(
      preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
      best_fn=_score if best else None,
      create=True,
    )
    self._manager = ocp.CheckpointManager(self._root, options=options)

  @property
  def begun(self) -> bool:
    """Whether there are saved steps, intact or damaged."""
    return self.latest is not None or bool(self._damaged)

  @property
  def latest(self) -> int | None:
    """Number of the newest saved step."""
    return self._manager.latest_step()

  @property
  def best(self) -> int | None:
    """Number of the saved step with the highest score, if any has one."""
    self._manager.wait_until_finished()
    return self._manager.best_step()

  def save(
    self,
    step: int,
    state: Any,
    iterator: Any,
    facts: dict[str, Any],
    score: float | None = None,
  ) -> None:
    """Saves in the background.

    Args:
      step: number of steps done.
      state: pytree of arrays and typed keys.
      iterator: stands after the last batch used (`data.loader.Batches`).
      facts: what must hold when the run is resumed; plain JSON values.
      score: how good the state is; None = not known.
    """
    if not self._best:
      score = None  # Orbax would not keep it
    table, data = _table(state), {"batches": iterator.position}
    seal = {
      "step": step,
      "data": data,
      "facts": files.plain(facts),
      "score": score,
      "sums": checksums.sums(table),
    }
    self._manager.save(
      step,
      metrics=None if score is None else {"score": score},
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(table),
        data=ocp.args.JsonSave(data),
        facts=ocp.args.JsonSave(facts),
        seal=ocp.args.JsonSave(files.sealed(seal)),
      ),
    )

  def restore(
    self, like: Any, iterator: Any, facts: dict[str, Any]
  ) -> tuple[Any, Any, int]:
    """Restores the newest readable checkpoint into today's shardings.

    A damaged one is set aside, with a line that says so, and the one before it
    is taken.

    Args:
      like: state with the shapes, dtypes and shardings to restore into.
      iterator: a fresh iterator over the same data; it is moved forward.
      facts: what must hold of the run, such as the model's fingerprint.

    Returns:
      The state, the iterator, and the number of steps done.

    Raises:
      OtherRun: the checkpoint was made under other facts.
      CheckpointError: no checkpoint can be read.
    """
    self._manager.wait_until_finished()
    while (newest := self.latest) is not None:
      seal = _sealed(self._root / str(newest))
      self._compare(newest, seal["facts"], files.plain(facts))
      # The best is one of all, and has to be there in the end.
      steps = sorted(self._manager.all_steps()) if self._best else [newest]
      state = None
      for step in steps:
        del state  # before the next one is read
        try:
          state = self._state(step, like)
        # Whatever a damaged file makes Orbax or tensorstore raise.
        except Exception as error:
          self._sift(
            {self._root / str(s): _reason(error) * (s == step) for s in steps}
          )
          self._manager.reload()
          break
      else:
        iterator.seek(seal["data"]["batches"])
        return state, iterator, newest
    raise CheckpointError(
      f"no checkpoint in {self._root} can be read; start again with a new"
      " --workdir, or put an intact copy back:\n  " + "\n  ".join(self._damaged)
    )

  def restore_best(self, like: Any) -> tuple[Any, int]:
    """Restores the state with the highest score, and its number of steps.

    Args:
      like: state with the shapes, dtypes and shardings to restore into.

    Raises:
      CheckpointError: no state was saved with a score, or it cannot be read.
    """
    step = self.best
    if step is None:
      raise CheckpointError(
        f"no checkpoint in {self._root} has a score; start again with a new"
        " --workdir"
      )
    try:
      return self._state(step, like), step
    except Exception as error:  # as in `restore`
      raise CheckpointError(
        f"checkpoint {step} in {self._root}, the best, cannot be read"
        f" ({_reason(error)}); put an intact copy back, or start again with a"
        " new --workdir"
      ) from error

  def _state(self, step, like):
    abstract = {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
      for name, leaf in _table(like).items()
    }
    _read_through(self._root / str(step) / "state")
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)),
    )["state"]
    saved = _sealed(self._root / str(step))["sums"]
    found = checksums.sums(restored)
    if wrong := [name for name in found if found[name] != saved.get(name)]:
      more = ", ..." if len(wrong) > 3 else ""
      raise ValueError(
        f"other numbers than were saved are in {', '.join(wrong[:3])}{more}"
      )
    return _tree(restored, like)

  def _compare(self, step, saved, facts):
    changed = [
      f"{name}: saved {saved.get(name)!r}, now {facts.get(name)!r}"
      for name in sorted(saved.keys() | facts.keys())
      if saved.get(name) != facts.get(name)
    ]
    if changed:
      raise OtherRun(
        f"checkpoint {step} in {self._root} belongs to another run; use a new"
        " --workdir or restore these settings:\n  " + "\n  ".join(changed)
      )

  def _sift(self, faults):
    """Sets damaged steps aside.

    Args:
      faults: why a step is damaged, or "", by its path; in their order.
    """
    spoiled = ""
    best = max((_rank(p) for p in faults if not faults[p]), default=None)
    for path, fault in faults.items():
      if fault or spoiled:
        lost = self._best and best and _rank(path) > best
        self._set_aside(path, fault or spoiled)
        # If the best is lost, those after it have to be made again.
        if lost and not spoiled:
          spoiled = f"it was saved after {path.name}, which is damaged"

  def _set_aside(self, path, reason):
    """Moves a step out of sight of the manager; nothing is deleted."""
    processes.meet("damaged")  # nobody reads it any more
    aside = self._root.with_name(f"{self._root.name}.damaged")
    if processes.first():
      aside.mkdir(exist_ok=True)
      aside = pathlib.Path(tempfile.mkdtemp(prefix=f"{path.name}.", dir=aside))
      path.rename(aside / path.name)
    processes.meet("set aside")
    self._damaged.append(f"{aside}: {reason}")
    print(
      f"warning: checkpoint {path.name} in {self._root} is damaged ({reason});"
      f" it now lies in {aside}, and the one before it is used",
      flush=True,
    )

  def close(self) -> None:
    """Waits for pending saves."""
    self._manager.wait_until_finished()
    self._manager.close()


def _score(metrics):
  return metrics["score"]


def _steps(root):
  """Paths that Orbax takes for steps, in their order."""
  found = []
  for path in root.iterdir() if root.is_dir() else ():
    with contextlib.suppress(ValueError):
      found.append((int(path.name), path))
  return [path for _, path in sorted(found)]


def _sealed(path):
  """The seal of a step.

  Raises:
    ValueError: something in the step is not what the seal says, or it cannot
      be read.
  """
  seal = files.unsealed(files.read_json(path / "seal" / "metadata"))
  score = path / "metrics" / "metrics"
  there = {
    "step": path.name,
    "data": files.read_json(path / "data" / "metadata"),
    "facts": files.read_json(path / "facts" / "metadata"),
    "score": files.read_json(score)["score"] if score.exists() else None,
  }
  for name, value in there.items():
    saved = str(seal[name]) if name == "step" else seal[name]
    if value != saved:
      raise ValueError(f"its {name} is {value!r}, saved was {saved!r}")
  return seal


def _rank(path):
  """Score and number of a step; of equal scores the later one is better."""
  try:
    seal = files.unsealed(files.read_json(path / "seal" / "metadata"))
    score = -math.inf if seal["score"] is None else seal["score"]
  except (OSError, ValueError, KeyError):
    score = math.inf  # it may have been the best
  return score, int(path.name)


def _fault(path):
  """Why a step is damaged, by all but its arrays; "" = it is not."""
  try:
    _sealed(path)
  except (OSError, ValueError, KeyError, TypeError) as error:
    return _reason(error)
  return ""


def _reason(error):
  """An error in a line."""
  return f"{type(error).__name__}: {str(error)[:160]}".splitlines()[0]


def _read_through(folder):
  """Raises if a piece of an array below a folder cannot be read.

  Orbax reads all arrays at once. When one fails it gives up the others, which
  then print a traceback each. And of several processes each reads its own
  pieces: one would fail while the others wait for it. Here all read all.
  """
  base = {"driver": "ocdbt", "base": f"{folder.as_uri()}/"}
  store = tensorstore.KvStore.open(base).result()
  for key in store.list().result():
    name, _, last = key.decode().rpartition("/")
    if last != ".zarray":
      continue
    array = tensorstore.open(
      {"driver": "zarr", "kvstore": {**base, "path": f"{name}/"}}, read=True
    ).result()
    sizes = array.chunk_layout.read_chunk.shape or ()  # None of a scalar
    for corner in itertools.product(
      *(range(0, n, size) for n, size in zip(array.shape, sizes, strict=True))
    ):
      piece = tuple(
        slice(start, min(start + size, n))
        for start, size, n in zip(corner, sizes, array.shape, strict=True)
      )
      array[piece].read().result()


def _is_key(leaf):
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _table(state):
  """Leaves by path: independent of the classes that hold them.

  Typed random keys become plain integers, which is what Orbax stores.
  """
  return {
    jax.tree_util.keystr(path): jax.random.key_data(leaf)
    if _is_key(leaf)
    else leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  }


def _tree(table, like):
  """Inverse of `_table`."""
  paths, treedef = jax.tree_util.tree_flatten_with_path(like)
  leaves = [table[jax.tree_util.keystr(path)] for path, _ in paths]
  return treedef.unflatten(
    jax.random.wrap_key_data(leaf) if _is_key(model) else leaf
    for leaf, (_, model) in zip(leaves, paths, strict=True)
  )
