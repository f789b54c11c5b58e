"""Efficient operator search: learned visual-token reduction in JAX.

Import the part you need, for example `from eos_jax import ops`; this file stays
empty of imports so that the parts stay independent of each other.
"""

__version__ = "0.1.0"
