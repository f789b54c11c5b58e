"""Chat templates of model folders that differ from the published ones.

Each is a kind of difference: another system text, none, one more line, another
make of model, and whatever Jinja has that real templates use.
"""

import json

from tests.data.processors import samples

_QWEN, _LLAVA = samples.TEMPLATES["qwen2_vl"], samples.TEMPLATES["llava"]
_SMOL, _ONE = samples.TEMPLATES["smolvlm"], samples.TEMPLATES["onevision"]

# Name -> (a folder of `samples`, the template).
OTHERS = {
  "qwen_other_system": (
    "tiny_qwen2_vl",
    _QWEN.replace("a helpful assistant.", "Qwen, made somewhere else."),
  ),
  "qwen_no_system": (
    "tiny_qwen2_vl",
    _QWEN.replace(
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", ""
    ),
  ),
  "qwen_one_image_a_line": (
    "tiny_qwen2_vl",
    _QWEN.replace("<|vision_end|>", "<|vision_end|>\n"),
  ),
  "llava_system": (
    "tiny_llava",
    "{{ bos_token }}A chat. " + _LLAVA,
  ),
  "llava_human": (
    "tiny_llava",
    _LLAVA.replace(
      "message['role'].upper()",
      "('Human' if message.role == 'user' else message.role | title)",
    ).replace("ASSISTANT:", "Assistant:"),
  ),
  "llava_ends": (
    "tiny_llava",
    _LLAVA.replace(
      "{% endif %}{% endfor %}{% if add",
      "{{ eos_token }}{% endif %}{% endfor %}{% if add",
    ),
  ),
  "llava_llama_3": (
    "tiny_llava",
    """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message.content is string %}
        {{- message.content | trim }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' %}{{ '<image>' }}
            {%- else %}{{ part.text | trim }}{% endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
  ),
  "llava_text_only": (
    "tiny_llava",
    "{% for m in messages %}[{{ m.role }}] {{ m['content'] | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
  ),
  "onevision_system": (
    "tiny_onevision",
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou see."
    "<|im_end|>\n{% endif %}" + _ONE,
  ),
  "onevision_whitespace": (
    "tiny_onevision",
    """{% for message in messages %}
  {% if message.role == 'system' %}
  {% continue %}
  {% endif %}
  <|im_start|>{{ message.role }}
    {% for part in message.content %}
{{ {'image': '<image>'}.get(part.type, part.text) }}
    {% endfor %}
<|im_end|>

{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}
""",
  ),
  "smolvlm_changed": (
    "tiny_smolvlm",
    _SMOL.replace("<end_of_utterance>\n", "<end_of_utterance>\n\n").replace(
      "capitalize", "upper"
    ),
  ),
  "smolvlm_counted": (
    "tiny_smolvlm",
    """{% macro show(part, ns) -%}
{% if part['type'] == 'image' %}{% set ns.n = ns.n + 1 %}Image {{ ns.n }}:
<image>{% else %}{{ part['text'].strip().split(' ')[::-1] | join(' ') }}
{%- endif %}
{%- endmacro %}
{% set ns = namespace(n=0) %}
<|im_start|>{{ messages | map(attribute='role') | unique | list | tojson }}
{% for message in messages %}
{% if loop.last and not add_generation_prompt %}(end){% endif %}
{{ loop.index0 }} {{ '%s:' % message.role }}
{% for part in message.content %}
{% generation %}{{ show(part, ns) }}{% endgeneration %}

{% endfor %}
{% endfor %}
{% if tools is not none or documents is defined and documents %}x{% endif %}
""",
  ),
}

# They read a content as one text.
TEXT_ONLY = ("llava_text_only",)


def write(name, path):
  """Writes the folder of a template, which names its end token too."""
  folder, template = OTHERS[name]
  samples.write(folder, path)
  (path / "chat_template.json").unlink()
  (path / "chat_template.jinja").write_text(template)
  file = path / "tokenizer_config.json"
  ends = {"tiny_llava": "</s>", "tiny_smolvlm": "<end_of_utterance>"}
  fields = {"eos_token": ends.get(folder, "<|im_end|>")}
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))
  return path
