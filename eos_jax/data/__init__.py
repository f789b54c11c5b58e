"""Images, texts and questions, from files to arrays; no model is needed."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from eos_jax.data.items import Item
  from eos_jax.data.question_sets import QuestionSet, Rows
  from eos_jax.data.registry import SOURCES, Questions, load, register

__all__ = [
  "SOURCES",
  "Item",
  "QuestionSet",
  "Questions",
  "Rows",
  "load",
  "register",
]

_MODULES = {"Item": "items", "QuestionSet": "question_sets"}
_MODULES["Rows"] = "question_sets"


def __getattr__(name: str) -> Any:
  """Imports a name on first use: processes that render need none of them."""
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module = f"{__name__}.{_MODULES.get(name, 'registry')}"
  return getattr(importlib.import_module(module), name)
