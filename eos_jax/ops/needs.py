"""What an operator reads, from the registries of its stages."""

from eos_jax.ops import assign, score, second, select, types

_REGISTRIES = {
  "scores": score.SCORES,
  "select": select.KERNELS,
  "diversity": second.KERNELS,
  "assign": assign.KERNELS,
}

# Signals that come from the layer before a site.
PREVIOUS = frozenset({"last_row_previous", "pivots", "rater_rows"})


def known_kernels() -> dict[str, tuple[str, ...]]:
  """For each field of a spec that names kernels, the names it may have."""
  known = {field: tuple(registry) for field, registry in _REGISTRIES.items()}
  return {**known, "diversity": ("none", *known["diversity"])}


def unknown_kernels(spec: types.OperatorSpec) -> list[str]:
  """The kernel names of a spec that no registry has, in words."""
  faults = []
  for field, name in _names(spec):
    known = _REGISTRIES[field]
    if name not in known:
      faults.append(f"{field} names {name!r}, use one of {sorted(known)}")
  return faults


def kernels(spec: types.OperatorSpec) -> list[types.Kernel]:
  """The registry entries that an operator runs; ValueError for unknown ones."""
  faults = unknown_kernels(spec)
  if faults:
    raise ValueError(f"operator {spec.name!r}: " + "; ".join(faults))
  return [_REGISTRIES[field][name] for field, name in _names(spec)]


def required_signals(spec: types.OperatorSpec) -> tuple[str, ...]:
  """Names of the `Signals` fields that an operator reads, sorted.

  A model computes these and leaves the others None.

  >>> from eos_jax.ops import presets
  >>> required_signals(presets.FASTV)
  ('last_row_previous',)
  """
  names = {name for kernel in kernels(spec) for name in kernel.signals}
  if spec.affinity != "x" and uses_cosine(spec):
    names.add(spec.affinity)
  return tuple(sorted(names))


def reads_previous(spec: types.OperatorSpec) -> bool:
  """Whether an operator reads attention of the layer before its site.

  Such an operator cannot act before the second decoder layer.
  """
  return bool(PREVIOUS & set(required_signals(spec)))


def uses_cosine(spec: types.OperatorSpec) -> bool:
  """Whether an operator compares tokens with each other."""
  similar = spec.sizes == "similarity"
  return similar or any(kernel.cosine for kernel in kernels(spec))


def discrete_parts(spec: types.OperatorSpec) -> tuple[str, ...]:
  """What of an operator decides about sets of tokens, in its own terms.

  An operator without such parts is a point of the continuous space; one with
  some takes its hard decision in the soft form too.

  >>> from eos_jax.ops import presets
  >>> discrete_parts(presets.FASTV), discrete_parts(presets.POOL)
  ((), ('select=cells',))
  """
  parts = list(_marked(spec, "discrete"))
  if spec.fused:
    parts.append("fused=1")
  if spec.recycle not in (0, 1):
    parts.append(f"recycle={spec.recycle:g}")
  return tuple(parts)


def one_image_parts(spec: types.OperatorSpec) -> tuple[str, ...]:
  """What of an operator refuses several images in one token set."""
  parts = _marked(spec, "one_image")
  return (*parts, "fused=1") if spec.fused else parts


def one_count_parts(spec: types.OperatorSpec) -> tuple[str, ...]:
  """What of an operator refuses one count for each image."""
  return _marked(spec, "one_count")


def check_signals(spec: types.OperatorSpec, signals: types.Signals) -> None:
  """Raises `ValueError` for the signals that an operator lacks."""
  missing = [n for n in required_signals(spec) if getattr(signals, n) is None]
  if missing:
    raise ValueError(
      f"operator {spec.name!r} reads the signals {missing}, which are None: "
      "let the model compute what required_signals(spec) lists, or choose "
      "another score"
    )


def _marked(spec: types.OperatorSpec, mark: str) -> tuple[str, ...]:
  """The kernels of a spec with a mark, as "field=name"."""
  return tuple(
    f"{field}={name}"
    for field, name in _names(spec)
    if getattr(_REGISTRIES[field][name], mark)
  )


def _names(spec: types.OperatorSpec) -> list[tuple[str, str]]:
  """(registry, kernel name) of every kernel of a spec."""
  names = [("scores", name) for name in spec.scores]
  names += [("select", spec.select), ("assign", spec.assign)]
  if spec.diversity != "none":
    names.append(("diversity", spec.diversity))
  return names


def moves_rows(spec: types.OperatorSpec) -> bool:
  """Whether rows of the result are others than those of the input.

  True of pooled cells also where the number of rows stays: what belongs to a
  token then has to be gathered by `Reduced.index`.
  """
  return select.KERNELS[spec.select].pooled
