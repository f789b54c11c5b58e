"""Conversations: turns in, one text out, by a chat template.

A model folder's own template is what counts; `TEMPLATES` are those of the
published checkpoints, for folders without one, and that of LLaVA's authors.

A conversation is a list of turns as they are common for chat templates:
`{"role": "user", "content": [{"type": "image"}, {"type": "text", "text":
"..."}]}`, where a content that is text alone may be a string.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eos_jax.data.processors import template as template_lib

# Roles and parts of each turn, after `checked`.
Turn = tuple[str, tuple[str | None, ...]]  # None stands for a picture

ROLES = ("system", "user", "assistant")
VICUNA_SYSTEM = (
  "A chat between a curious user and an artificial intelligence assistant. The"
  " assistant gives helpful, detailed, and polite answers to the user's"
  " questions."
)

# Pictures of a turn before its texts; a turn's parts in their order.
_PICTURES_FIRST = """
{%- macro pictures(turn, mark) -%}
{%- for part in turn.content if part.type == "image" %}{{ mark }}{% endfor -%}
{%- endmacro -%}
{%- macro texts(turn, before, after) -%}
{%- for part in turn.content if part.type == "text" -%}
{{- before + part.text + after -}}
{%- endfor -%}
{%- endmacro -%}
"""
_IN_ORDER = """
{%- macro parts(turn, mark) -%}
{%- for part in turn.content -%}
{{- mark if part.type == "image" else part.text -}}
{%- endfor -%}
{%- endmacro -%}
"""

TEMPLATES: dict[str, str] = {
  # LLaVA-1.5 as converted checkpoints have it: no system text of its own, and
  # a space ends each text.
  "llava": _PICTURES_FIRST
  + """
{%- for turn in messages -%}
{{- turn.role | upper + ": " if turn.role != "system" -}}
{{- pictures(turn, "<image>\\n") + texts(turn, "", " ") -}}
{%- endfor -%}
{{- "ASSISTANT:" if add_generation_prompt -}}
""",
  # LLaVA-1.5 as its authors train and evaluate (`conv_vicuna_v1` of
  # haotian-liu/LLaVA, `llava/conversation.py`). A system turn replaces the
  # standing system text.
  "vicuna": _PICTURES_FIRST
  + """
{%- if messages[0].role == "system" -%}
{{- texts(messages[0], "", "") + " " -}}
{%- set messages = messages[1:] -%}
{%- else -%}
{{- """
  + f'"{VICUNA_SYSTEM} "'
  + """ -}}
{%- endif -%}
{%- for turn in messages -%}
{%- if turn.role == "system" -%}
{{- raise_exception("a system turn comes late; it can only be the first") -}}
{%- endif -%}
{{- turn.role | upper + ": " + pictures(turn, "<image>\\n") -}}
{{- texts(turn, "", "") + ("</s>" if turn.role == "assistant" else " ") -}}
{%- endfor -%}
{{- "ASSISTANT:" if add_generation_prompt -}}
""",
  # Pictures of a turn on the line of its role.
  "onevision": _PICTURES_FIRST
  + """
{%- for turn in messages -%}
{{- "<|im_start|>" + turn.role + " " + pictures(turn, "<image>") -}}
{{- texts(turn, "\\n", "") + "<|im_end|>" -}}
{%- endfor -%}
{{- "<|im_start|>assistant\\n" if add_generation_prompt -}}
""",
  # A system text if there is none.
  "qwen2_vl": _IN_ORDER
  + """
{%- if messages[0].role != "system" -%}
{{- "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n" -}}
{%- endif -%}
{%- set mark = "<|vision_start|><|image_pad|><|vision_end|>" -%}
{%- for turn in messages -%}
{{- "<|im_start|>" + turn.role + "\\n" + parts(turn, mark) -}}
{{- "<|im_end|>\\n" -}}
{%- endfor -%}
{{- "<|im_start|>assistant\\n" if add_generation_prompt -}}
""",
  # SmolVLM and Idefics3, whose tokenizers begin texts with different tokens.
  "smolvlm": _IN_ORDER
  + """
{{- bos_token or "<|im_start|>" -}}
{%- for turn in messages -%}
{{- turn.role | capitalize + ":" -}}
{{- " " if turn.content[0].type != "image" -}}
{{- parts(turn, "<image>") + "<end_of_utterance>\\n" -}}
{%- endfor -%}
{{- "Assistant:" if add_generation_prompt -}}
""",
}


def checked(conversation: Sequence[Mapping[str, Any]]) -> list[Turn]:
  """Turns as pairs of a role and its parts, None for each picture.

  Raises:
    ValueError: a role or a part of a conversation is impossible.
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


def render(
  turns: Sequence[Turn],
  template: str,
  *,
  image: str,
  reply: bool,
  tokens: Mapping[str, str],
) -> str:
  """The text of a conversation, with one image token a picture.

  Args:
    turns: from `checked`.
    template: text of a chat template.
    image: the image token.
    reply: whether to end where the model's answer begins.
    tokens: special tokens by name, such as `bos_token`.

  Raises:
    ValueError: a text contains the image token.
    TemplateError: the template cannot be rendered, or does not write one image
      token a picture.
  """
  pictures = 0
  for _, parts in turns:
    pictures += parts.count(None)
    if any(image in part for part in parts if part is not None):
      raise ValueError(
        f"conversation: a text contains the image token {image!r}; give the"
        ' picture as a part {"type": "image"} of its own'
      )
  ask = lambda content: template_lib.render(
    template,
    [{"role": role, "content": content(parts)} for role, parts in turns],
    reply=reply,
    tokens=tokens,
  )
  try:
    text = ask(lambda parts: [_as_part(part) for part in parts])
  except template_lib.TemplateError:
    if pictures:
      raise
    # Templates of language models read texts alone.
    text = ask("".join)
  if text.count(image) != pictures:
    raise template_lib.TemplateError(
      f"it writes {text.count(image)} image tokens {image!r} for {pictures}"
      " images"
    )
  return text


def _as_part(part: str | None) -> dict[str, str]:
  if part is None:
    return {"type": "image"}
  return {"type": "text", "text": part}
