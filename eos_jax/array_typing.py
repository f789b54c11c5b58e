"""Shape annotations, and the letters that name axes throughout the project.

    B batch          V visual tokens at a site   K kept tokens
    T text tokens    N sequence (all tokens)     D width
    H heads          L layers                    S sites
    E encoder blocks F score functions

Annotations are checked in tests, by the jaxtyping import hook, and cost
nothing at run time.
"""

from jaxtyping import Array, Bool, Float, Int, Num, Shaped

__all__ = [
  "Array",
  "Bool",
  "Counts",
  "Float",
  "Int",
  "Num",
  "Scalar",
  "Shaped",
]

# A Python number or a rank-0 array, traced or not.
Scalar = float | int | Num[Array, ""]
# One number of tokens, or one for each image of an example.
Counts = Scalar | Num[Array, "I"]
