"""The families' conversation formats: turns in, one text out.

They are functions and not the Jinja templates that lie in model folders: four
formats do not need an interpreter and another dependency, a template from a
stranger's folder is a program, and its faults show as odd answers only. Each
function is tested against what the published template renders. A folder whose
template is of another format is refused (`check_template`); finished texts are
accepted everywhere in place of turns.

A conversation is a list of turns as they are common for chat templates:
`{"role": "user", "content": [{"type": "image"}, {"type": "text", "text":
"..."}]}`, where a content that is text alone may be a string.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Roles and parts of each turn, after `checked`.
Turn = tuple[str, tuple[str | None, ...]]  # None stands for a picture

ROLES = ("system", "user", "assistant")
VICUNA_SYSTEM = (
  "A chat between a curious user and an artificial intelligence assistant. The"
  " assistant gives helpful, detailed, and polite answers to the user's"
  " questions."
)
_QWEN_SYSTEM = "You are a helpful assistant."


def checked(conversation: Sequence[Mapping[str, Any]]) -> list[Turn]:
  """Turns as pairs of a role and its parts, None for each picture.

  Raises:
    ValueError: a role, a part or the order of a conversation is impossible.
  """
  if not conversation:
    raise ValueError("conversation is empty; give at least one turn")
  turns = []
  for number, turn in enumerate(conversation):
    where = f"conversation[{number}]"
    if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
      raise ValueError(
        f"{where} is {turn!r}; expected a dict of role and content"
      )
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
      raise ValueError(
        f"{where}: role is {role!r}; expected one of {', '.join(ROLES)}"
      )
    if isinstance(content, str):
      content = [{"type": "text", "text": content}]
    parts = tuple(_part(part, where) for part in content)
    if not parts:
      raise ValueError(f"{where}: content is empty; give a text or a picture")
    turns.append((role, parts))
  return turns


def _part(part: Any, where: str) -> str | None:
  kind = part.get("type") if isinstance(part, Mapping) else None
  if kind == "image":
    return None
  if kind == "text" and isinstance(part.get("text"), str):
    return part["text"]
  raise ValueError(
    f'{where}: a part is {part!r}; expected {{"type": "image"}} or {{"type":'
    ' "text", "text": ...}; videos and tools are not supported'
  )


def picture_count(turns: Sequence[Turn]) -> int:
  """Pictures in a conversation."""
  return sum(part is None for _, parts in turns for part in parts)


def _texts(parts) -> list[str]:
  return [part for part in parts if part is not None]


def llava(turns: Sequence[Turn], *, reply: bool) -> str:
  """LLaVA-1.5 as converted checkpoints have it: no system text of its own.

  Pictures of a turn come before its texts, and a space ends each text.
  """
  out = []
  for role, parts in turns:
    out.append("" if role == "system" else f"{role.upper()}: ")
    out += ["<image>\n"] * parts.count(None)
    out += [f"{text} " for text in _texts(parts)]
  return "".join(out) + ("ASSISTANT:" if reply else "")


def vicuna(turns: Sequence[Turn], *, reply: bool) -> str:
  """LLaVA-1.5 as its authors train and evaluate (`conv_vicuna_v1`).

  A system turn replaces the standing system text; `</s>` ends each answer.
  Source: haotian-liu/LLaVA `llava/conversation.py`.
  """
  turns, system = list(turns), VICUNA_SYSTEM
  if turns and turns[0][0] == "system":
    system = "".join(_texts(turns.pop(0)[1]))
  out = [f"{system} "]
  for role, parts in turns:
    if role == "system":
      raise ValueError(
        "conversation: a system turn comes late; it can only be the first"
      )
    body = "<image>\n" * parts.count(None) + "".join(_texts(parts))
    out.append(
      f"{role.upper()}: {body}{'</s>' if role == 'assistant' else ' '}"
    )
  return "".join(out) + ("ASSISTANT:" if reply else "")


def onevision(turns: Sequence[Turn], *, reply: bool) -> str:
  """LLaVA-OneVision: pictures of a turn on the line of its role."""
  out = []
  for role, parts in turns:
    out.append(f"<|im_start|>{role} " + "<image>" * parts.count(None))
    out += [f"\n{text}" for text in _texts(parts)]
    out.append("<|im_end|>")
  return "".join(out) + ("<|im_start|>assistant\n" if reply else "")


def qwen2_vl(turns: Sequence[Turn], *, reply: bool) -> str:
  """Qwen2-VL: parts in their order, a system text if there is none."""
  out = []
  if turns[0][0] != "system":
    out.append(f"<|im_start|>system\n{_QWEN_SYSTEM}<|im_end|>\n")
  picture = "<|vision_start|><|image_pad|><|vision_end|>"
  for role, parts in turns:
    body = "".join(picture if part is None else part for part in parts)
    out.append(f"<|im_start|>{role}\n{body}<|im_end|>\n")
  return "".join(out) + ("<|im_start|>assistant\n" if reply else "")


def smolvlm(
  turns: Sequence[Turn], *, reply: bool, begin: str = "<|im_start|>"
) -> str:
  """SmolVLM and Idefics3: parts in their order behind a capitalised role.

  Args:
    turns: the conversation.
    reply: whether to end where the answer begins.
    begin: the token that begins a text, which depends on the tokenizer.
  """
  out = [begin]
  for role, parts in turns:
    body = "".join("<image>" if part is None else part for part in parts)
    space = "" if parts[0] is None else " "
    out.append(f"{role.capitalize()}:{space}{body}<end_of_utterance>\n")
  return "".join(out) + ("Assistant:" if reply else "")


FORMATS: dict[str, Callable[..., str]] = {
  "llava": llava,
  "vicuna": vicuna,
  "onevision": onevision,
  "qwen2_vl": qwen2_vl,
  "smolvlm": smolvlm,
}

# What a template of the format cannot do without. Whitespace and what models
# add, such as videos, differ between copies.
_MARKS = {
  "llava": ("ASSISTANT:",),
  "vicuna": ("ASSISTANT:",),
  "onevision": ("<|im_start|>", "<image>", "<|im_end|>"),
  "qwen2_vl": ("<|im_start|>", "<|vision_start|><|image_pad|><|vision_end|>"),
  "smolvlm": ("<end_of_utterance>", "<image>", "Assistant:"),
}


def check_template(template: str, name: str, *, where: str) -> None:
  """Refuses a folder whose own chat template is of another format.

  Args:
    template: text of the folder's chat template; "" if it has none.
    name: the format, a key of `FORMATS`.
    where: the folder, for the message.
  """
  missing = [mark for mark in _MARKS[name] if mark not in template]
  if template and missing:
    raise ValueError(
      f"{where}: its chat template is not of the format {name!r}: it lacks"
      f" {', '.join(map(repr, missing))}; write the prompt as a text, with one"
      " image token a picture, and give that in place of the conversation"
    )
