"""What a search may change: sites, groups of variables and their ranges."""

import dataclasses

from eos_jax import ops
from eos_jax.ops import types

# Group of variables -> fields of `ops.OperatorParams`.
GROUPS = {
  "where": ("activation",),
  "how_many": ("retention",),
  "scores": ("pi",),
  "diversity": ("kappa",),
  "transfer": ("gamma",),
  "temperature": ("tau",),
  "threshold": ("theta",),
  "affinity": ("omega",),
  "reweight": ("rho", "rho_attn"),
  "normalization": ("eta",),
  "size_bias": ("delta",),
}

# Mixtures: searched on the simplex, so they have no range.
SIMPLEX = ("pi", "omega")

# What a search may explore (thresholds of a cosine have its range), and what it
# explores by default. For tau only the lower end binds (its floor): pooling is
# the limit tau -> inf.
_ALLOWED = types.NUMBERS | {"theta": (-1.0, 1.0)}
_RANGES = _ALLOWED | {
  "eta": (0.0, 1.0),
  "tau": (0.02, float("inf")),
  "rho": (0.0, 2.0),
  "rho_attn": (0.0, 2.0),
}


@dataclasses.dataclass(frozen=True)
class SearchSpace:
  """The sites of a model and the part of the operator space to search in.

  What is not free is constant: the numbers of `spec`, or `counts`.

  Attributes:
    sites: names in the order of the model: "vision.i" (inside encoder block i),
      "decoder.l" (before decoder layer l).
    tokens: visual tokens V of the unreduced model, the class token not counted.
    layers: decoder layers L.
    spec: the discrete choices of the operator, and the numbers that a search
      starts from.
    free: groups of variables that the search may move, keys of `GROUPS`.
    frozen_sites: sites of which nothing moves.
    counts: visual tokens after each site, one per site, for sites whose count
      is constant (frozen, or `how_many` is not free). Without it these sites
      have the retention of `spec`.
    ranges: pairs of a field's name and its (low, high), where they differ from
      the default; `tau` has a low end only.
  """

  sites: tuple[str, ...]
  tokens: int
  layers: int
  spec: ops.OperatorSpec
  free: tuple[str, ...] = (
    "where",
    "how_many",
    "scores",
    "transfer",
    "temperature",
    "reweight",
  )
  frozen_sites: tuple[str, ...] = ()
  counts: tuple[int, ...] | None = None
  ranges: tuple[tuple[str, tuple[float, float]], ...] = ()

  def __post_init__(self):
    faults = [*_site_faults(self), *_group_faults(self), *_count_faults(self)]
    faults += _kernel_faults(self)
    if faults:
      raise ValueError("SearchSpace: " + "; ".join(faults))

  @property
  def fields(self) -> tuple[str, ...]:
    """Fields of `ops.OperatorParams` that the search moves."""
    fields = tuple(f for group in self.free for f in GROUPS[group])
    # Without score functions there is no mixture to move.
    return tuple(f for f in fields if f != "pi" or self.spec.scores)

  @property
  def first_layer(self) -> tuple[int, ...]:
    """For each site the first decoder layer that sees its result."""
    return tuple(_first_layer(site) for site in self.sites)

  def range_of(self, field: str) -> tuple[float, float]:
    """Lowest and highest value of a field that is no mixture."""
    return dict(self.ranges).get(field, _RANGES[field])

  def site_is_free(self, index: int) -> bool:
    """Whether anything moves at a site."""
    return self.sites[index] not in self.frozen_sites

  def count_is_free(self, index: int) -> bool:
    """Whether the search moves the number of tokens that a site keeps."""
    moves = "how_many" in self.free or "where" in self.free
    return moves and self.site_is_free(index)


def _first_layer(site):
  kind, index = ops.site_index(site)
  return 0 if kind == "vision" else index


def _site_faults(space):
  if not space.sites:
    yield "sites is empty; name at least one, for example 'decoder.0'"
  places = []
  for site in space.sites:
    try:
      kind, index = ops.site_index(site)
    except ValueError as error:
      yield str(error)
      continue
    places.append((kind == "decoder", index))
    if kind == "decoder" and index >= space.layers:
      yield f"site {site!r} lies outside the layers={space.layers} decoder"
  if any(a >= b for a, b in zip(places, places[1:], strict=False)):
    yield f"sites={space.sites} must be in the order of the model, each once"
  for site in space.frozen_sites:
    if site not in space.sites:
      yield f"frozen_sites has {site!r}, which is not one of sites"
  if space.tokens < 1 or space.layers < 1:
    yield f"tokens={space.tokens} and layers={space.layers} must be positive"


def _group_faults(space):
  for group in space.free:
    if group not in GROUPS:
      yield f"free has unknown group {group!r}; choose from {sorted(GROUPS)}"
  if len(set(space.free)) < len(space.free):
    yield f"free={space.free} names a group twice"
  for field, (low, high) in space.ranges:
    if field not in _ALLOWED:
      yield f"ranges has {field!r}; choose from {sorted(_ALLOWED)}"
      continue
    least, most = _ALLOWED[field]
    if not least <= low < high <= most:
      yield (
        f"ranges has {field}=({low}, {high}); it needs"
        f" {least} <= low < high <= {most}"
      )
    elif field == "tau" and low <= 0:
      yield f"ranges has tau=({low}, {high}); its low end must be positive"
    elif field != "tau" and high == float("inf"):
      yield f"ranges has {field}=({low}, {high}); its high end must be finite"


# Selection kernels that cannot keep any number of tokens.
_RIGID = {
  "bipartite": "merges at most half of the tokens at a site",
  "bipartite_distilled": "merges at most half of the tokens at a site",
  "kth": "keeps one token of every group of spec.stride",
  "blocks": "keeps one token for every block of spec.stride a side",
}


def _kernel_faults(space):
  reason = _RIGID.get(space.spec.select)
  free = any(map(space.count_is_free, range(len(space.sites))))
  if reason and free:
    yield (
      f"spec {space.spec.name!r} cannot start a search for counts: its"
      f" select={space.spec.select!r} {reason}; start from another preset, such"
      " as 'merge', or give counts and leave 'where' and 'how_many' out of free"
    )


def _count_faults(space):
  if space.spec.activation <= 0 and (
    "where" not in space.free or space.counts is not None
  ):
    yield (
      f"spec.activation={space.spec.activation} lets no constant site act;"
      " give the spec activation=1.0"
    )
  if space.counts is None:
    return
  if len(space.counts) != len(space.sites):
    yield f"counts={space.counts} needs {len(space.sites)} numbers, one a site"
  steps = zip((space.tokens, *space.counts), space.counts, strict=False)
  if any(not 1 <= after <= before for before, after in steps):
    yield (
      f"counts={space.counts} must not increase and lie between 1 and"
      f" tokens={space.tokens}"
    )
