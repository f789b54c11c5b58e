"""Spellings of fields, and one message for each mistake."""

import json
import math
import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest

from eos_jax.data import processors
from tests.data.processors import refusals, samples

_GOLDENS = pathlib.Path(__file__).parent / "goldens"


# Spellings.


@pytest.mark.parametrize(
  "name, changes",
  [
    ("llava", {"size": 336, "crop_size": 336}),
    ("llava", {"crop_size": [336, 336]}),
    ("llava", {"do_pad": False, "_valid_processor_keys": ["images"]}),
    ("llava", {"feature_extractor_type": "CLIPFeatureExtractor"}),
    ("onevision", {"size": {"shortest_edge": 384}}),
    ("onevision", {"size": 384}),
    (
      "qwen2_vl",
      {
        "min_pixels": None,
        "max_pixels": None,
        "size": {"shortest_edge": 3136, "longest_edge": 1003520},
      },
    ),
    (
      "qwen2_vl",
      {
        "min_pixels": None,
        "max_pixels": None,
        "size": {"min_pixels": 3136, "max_pixels": 1003520},
      },
    ),
    ("qwen2_vl", {"size": {"shortest_edge": 1, "longest_edge": 2}}),
    ("smolvlm", {"max_image_size": 512, "size": 2048}),
    ("smolvlm", {"video_sampling": {"fps": 1}, "return_row_col_info": None}),
  ],
)
def test_spellings_mean_the_same(name, changes, write):
  plain = processors.load(write(name)).settings
  assert processors.load(write(name, **changes)).settings == plain


@pytest.mark.parametrize("name", samples.FAMILIES)
def test_published_settings_are_the_defaults(name, write):
  processor = processors.load(write(name))
  assert processor.settings == processor.family.Settings()


@pytest.mark.parametrize("name", samples.FAMILIES)
def test_one_processor_file(name, write):
  """From transformers 5 on the fields lie in `processor_config.json`."""
  path = write(name)
  plain = processors.load(path)
  picture = json.loads((path / "preprocessor_config.json").read_text())
  (path / "preprocessor_config.json").unlink()
  samples.edit(path, "processor_config.json", image_processor=picture)
  (path / "chat_template.json").unlink()
  (path / "chat_template.jinja").write_text(plain.template)
  again = processors.load(path)
  assert again.settings == plain.settings
  assert again.template == plain.template


def test_folders_without_a_processor_file(write):
  """Older ones say by `config.json` alone how many tokens there are."""
  for name in samples.FAMILIES:
    path = write(name)
    plain = processors.load(path)
    (path / "processor_config.json").unlink()
    assert processors.load(path).settings == plain.settings


def test_templates_in_the_tokenizer_s_file(write):
  path = write("tiny_llava")
  (path / "chat_template.json").unlink()
  samples.edit(path, "tokenizer_config.json", chat_template="a")
  assert processors.load(path).template == "a"
  named = [{"name": "tools", "template": "b"}]
  named.append({"name": "default", "template": "c"})
  samples.edit(path, "tokenizer_config.json", chat_template=named)
  assert processors.load(path).template == "c"


_CLASSES = {
  "llava": (
    "LlavaImageProcessor",
    "CLIPImageProcessor",
    "SiglipImageProcessor",
  ),
  "onevision": ("LlavaOnevisionImageProcessor",),
  "qwen2_vl": ("Qwen2VLImageProcessor",),
  "smolvlm": ("SmolVLMImageProcessor", "Idefics3ImageProcessor"),
}


@pytest.mark.parametrize(
  "family, kind",
  [(family, kind) for family, kinds in _CLASSES.items() for kind in kinds],
)
def test_absent_fields_mean_what_the_class_says(family, kind, write):
  """The values are those of the classes in transformers 5.24."""
  defaults = json.loads((_GOLDENS / "defaults.json").read_text())[kind]
  path = write(family)
  loaded = []
  for name, fields in (
    (kind, defaults),
    (kind, {}),
    (f"{kind}Fast", {}),
    *([(None, {})] if kind == _CLASSES[family][0] else []),
  ):
    fields = fields | ({"image_processor_type": name} if name else {})
    text = json.dumps(fields)
    (path / "preprocessor_config.json").write_text(text)
    loaded.append(processors.load(path).settings)
  assert loaded == loaded[:1] * len(loaded)
  values = loaded[0].values
  assert list(values.mean) == defaults["image_mean"]
  assert list(values.std) == defaults["image_std"]


def test_siglip_in_a_llava_folder_squeezes_the_whole_image(write):
  path = write("llava")
  picture = {"image_processor_type": "SiglipImageProcessor"}
  (path / "preprocessor_config.json").write_text(json.dumps(picture))
  vision = {"model_type": "siglip_vision_model", "patch_size": 16}
  samples.edit(path, "config.json", vision_config=vision)
  counts = {"num_additional_image_tokens": 0, "patch_size": 16}
  counts["vision_feature_select_strategy"] = "full"
  samples.edit(path, "processor_config.json", **counts)
  processor = processors.load(path)
  image = samples.picture(300, 410)
  out = processor.family.preprocess([image], processor.settings)
  assert out.tokens.tolist() == [14 * 14]
  small = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
  expected = (small / 255 - 0.5) / 0.5
  np.testing.assert_allclose(out.pixels[0, 0], expected, rtol=0, atol=2e-6)


def test_flags_that_are_null_are_false(write):
  """So they are to the classes in transformers, whatever their defaults."""
  flags = {
    "llava": ("do_resize", "do_rescale", "do_normalize"),
    "onevision": ("do_rescale", "do_normalize"),
    "qwen2_vl": ("do_rescale", "do_normalize"),
    "smolvlm": ("do_resize", "do_normalize", "do_image_splitting"),
  }
  for family, names in flags.items():
    for name in names:
      path, found = write(family), []
      for value in (None, False):
        samples.edit(path, "preprocessor_config.json", **{name: value})
        found.append(processors.load(path).settings)
      assert found[0] == found[1] != processors.load(write(family)).settings
  path = write("llava")
  samples.edit(path, "preprocessor_config.json", do_center_crop=None)
  assert "do_center_crop is null; expected true, or a size" in refusals.of(path)


def test_flags_are_obeyed(write):
  off = {"do_rescale": False, "do_normalize": False}
  settings = processors.load(write("tiny_llava", **off)).settings
  assert settings.values.scale == 1.0
  picture = samples.picture(28, 28)
  out = processors.llava.preprocess([picture], settings)
  assert (out.pixels[0, 0] == processors.pixels.rgb(picture)).all()
  settings = processors.load(write("tiny_llava", do_resize=False)).settings
  out = processors.llava.preprocess([samples.picture(10, 40)], settings)
  black = out.pixels[0, 0, 0, 0]
  assert (out.pixels[0, 0, :9] == black).all()


def test_class_token_is_kept_by_the_full_strategy(write):
  path = write("llava")
  full = {"vision_feature_select_strategy": "full"}
  samples.edit(path, "processor_config.json", **full)
  assert processors.load(path).settings.tokens == 577


# Mistakes.


def test_missing_and_damaged_files(write):
  path = write("tiny_llava")
  for name in ("config.json", "preprocessor_config.json"):
    whole = (path / name).read_text()
    (path / name).write_text(whole[:20])
    assert f"{path / name} is damaged (" in refusals.of(path)
    (path / name).write_text("[]")
    assert refusals.of(path) == (
      f"{path / name} holds a list; expected a JSON object; copy the file again"
    )
    (path / name).unlink()
    assert refusals.of(path) == (
      f"{path / name} is missing; expected a model folder in the Hugging Face"
      " layout; copy the file from where the weights came from"
    )
    (path / name).write_text(whole)
  file = path / "tokenizer.json"
  file.write_text(file.read_text()[:100])
  said = refusals.of(path)
  assert said.startswith(f"{file} is damaged (") and said.endswith(
    "; expected a tokenizer; copy the file again"
  )
  file.unlink()
  assert refusals.of(path).startswith(f"{file} is missing; expected the fast")


def test_smolvlm_s_format_begins_as_the_tokenizer_does(write):
  """Idefics3 has the format too, with the tokens of Llama 3."""
  path = write("tiny_smolvlm")
  samples.edit(path, "config.json", model_type="idefics3")
  file = path / "tokenizer.json"
  file.write_text(file.read_text().replace("<|im_start|>", "<|begin_of_text|>"))
  samples.edit(path, "tokenizer_config.json", bos_token="<|begin_of_text|>")
  (path / "chat_template.json").unlink()
  text = processors.load(path).prompt([{"role": "user", "content": "Hi."}])
  assert text == "<|begin_of_text|>User: Hi.<end_of_utterance>\nAssistant:"


def test_an_unknown_family_and_format(write):
  path = write("tiny_llava")
  samples.edit(path, "config.json", model_type="fuyu")
  assert refusals.of(path) == (
    f'{path / "config.json"}: model_type is "fuyu"; expected one of llava,'
    " llava_onevision, qwen2_vl, qwen2_5_vl, smolvlm, idefics3; convert the"
    " checkpoint, or prepare its inputs yourself"
  )
  path = write("tiny_smolvlm")
  assert refusals.of(path, style="vicuna") == (
    f"style is 'vicuna'; expected one of smolvlm for {path}"
  )


@pytest.mark.parametrize(
  "name, changes, said",
  [
    (
      "llava",
      {"do_sharpen": True, "gamma": 2},
      "fields do_sharpen, gamma are unknown and may change the pixels",
    ),
    ("llava", {"size": "big"}, 'size is "big"; expected a number,'),
    ("llava", {"size": {"shortest_edge": -1}}, '{"shortest_edge": -1}'),
    ("llava", {"do_center_crop": False}, "do_center_crop is false"),
    ("llava", {"resample": 9}, "resample is 9; expected one of PIL's"),
    ("llava", {"image_mean": [1, 2]}, "image_mean is [1, 2]; expected three"),
    ("llava", {"image_std": 0}, "expected numbers other than 0"),
    ("llava", {"do_resize": "yes"}, 'do_resize is "yes"; expected true or'),
    ("llava", {"rescale_factor": "1/255"}, 'is "1/255"; expected a number'),
    ("llava", {"rescale_factor": math.inf}, "is Infinity; expected a number"),
    ("qwen2_vl", {"rescale_factor": 10**400}, "...; expected a number, all"),
    ("smolvlm", {"rescale_factor": 0}, "expected numbers other than 0"),
    ("onevision", {"image_mean": [0, math.nan, 0]}, "[0, NaN, 0]; expected"),
    ("llava", {"image_std": [1, 1, math.inf]}, "Infinity]; expected three"),
    ("smolvlm", {"image_std": [0.5, 0, 0.5]}, "expected numbers other than 0"),
    ("onevision", {"image_mean": [0.5, 0.5, -1]}, "expected numbers from 0 to"),
    ("tiny_llava_pad", {"image_mean": 2}, "are padded with this colour"),
    ("llava", {"image_std": 1e-50}, "make pixels that are not finite"),
    ("llava", {"rescale_factor": 1e38}, "make pixels that are not finite"),
    ("llava", {"size": {"shortest_edge": 10**9}}, "of 1 to 8,192 pixels"),
    ("llava", {"size": {"height": True, "width": 9}}, "of 1 to 8,192 pixels"),
    ("llava", {"size": 5, "crop_size": 5}, "have no whole patch of 14"),
    (
      "llava",
      {"image_processor_type": "LlavaNextImageProcessor"},
      'image_processor_type is "LlavaNextImageProcessor"; expected one of'
      " LlavaImageProcessor, CLIPImageProcessor, SiglipImageProcessor;",
    ),
    (
      "onevision",
      {"image_processor_type": "SiglipImageProcessor"},
      "expected one of LlavaOnevisionImageProcessor;",
    ),
    ("qwen2_vl", {"image_processor_type": 7}, "image_processor_type is 7;"),
    ("onevision", {"do_resize": False}, "do_resize is false; expected true"),
    (
      "onevision",
      {"size": {"height": 384, "width": 383}},
      "expected a square",
    ),
    (
      "onevision",
      {"image_grid_pinpoints": [[384, 100]]},
      "image_grid_pinpoints is [[384, 100]]; expected a list of [height,",
    ),
    ("qwen2_vl", {"min_pixels": 2e6}, "expected whole numbers, 0 < min_pixels"),
    ("qwen2_vl", {"size": 224}, "size is 224; expected {shortest_edge,"),
    ("qwen2_vl", {"patch_size": 0}, "patch_size is 0; expected a whole number"),
    ("qwen2_vl", {"do_resize": False}, "expected true, so that patches"),
    (
      "smolvlm",
      {"size": {"height": 5, "width": 5}},
      "expected {longest_edge: pixels}",
    ),
  ],
)
def test_fields_that_cannot_be_used(name, changes, said, write):
  path = write(name, **changes)
  refusal = refusals.of(path)
  assert refusal.startswith(f"{path / 'preprocessor_config.json'}: ")
  assert said in refusal


def test_fields_beside_the_pictures(write):
  path = write("onevision")
  samples.edit(path, "config.json", vision_aspect_ratio="square")
  assert refusals.of(path) == (
    f'{path / "config.json"}: vision_aspect_ratio is "square"; expected'
    ' "anyres_max_" and a number; correct the file'
  )
  path = write("llava")
  samples.edit(path, "config.json", image_aspect_ratio="anyres")
  assert 'image_aspect_ratio is "anyres"; expected "pad" or "square"' in (
    refusals.of(path)
  )
  samples.edit(path, "config.json", image_aspect_ratio=None, vision_config=7)
  assert "vision_config is 7; expected an object" in refusals.of(path)
  shutil.rmtree(path)
  path = write("llava")
  samples.edit(
    path, "processor_config.json", vision_feature_select_strategy="cls"
  )
  assert 'is "cls"; expected "default" or "full"' in refusals.of(path)


# Conversations.


def _turn(*parts, role="user"):
  return [{"role": role, "content": list(parts)}]


_IMAGE = {"type": "image"}


@pytest.mark.parametrize(
  "conversation, said",
  [
    ([], "conversation is empty"),
    (["hello"], r"conversation\[0\] is 'hello'; expected a dict of role"),
    (_turn(_IMAGE, role="tool"), "role is 'tool'; expected one of system,"),
    (_turn(), "content is empty"),
    (_turn({"type": "video"}), "videos and tools are not supported"),
    (_turn({"type": "text"}), "a part is {'type': 'text'}"),
    (
      _turn({"type": "text", "text": "an <image>"}),
      "a text contains the image token '<image>'",
    ),
  ],
)
def test_impossible_conversations(conversation, said, write):
  processor = processors.load(write("tiny_llava"))
  with pytest.raises(ValueError, match=said):
    processor.prompt(conversation)


def test_system_turns_come_first_in_the_original_format(write):
  processor = processors.load(write("tiny_llava"), style="vicuna")
  late = _turn(_IMAGE) + _turn({"type": "text", "text": "a"}, role="system")
  with pytest.raises(ValueError, match="a system turn comes late"):
    processor.prompt(late)


def test_a_content_may_be_a_string(write):
  for name in samples.FAMILIES:
    processor = processors.load(write(name))
    text = [{"role": "user", "content": "Hi."}]
    assert processor.prompt(text) == processor.prompt(
      _turn({"type": "text", "text": "Hi."})
    )


def test_texts_are_taken_where_no_template_is(write):
  path = write("tiny_llava")
  (path / "chat_template.jinja").write_text("[INST] {{ messages }} [/INST]")
  processor = processors.load(path)
  with pytest.raises(ValueError, match="cannot render the conversation"):
    processor.prompt(_turn(_IMAGE))
  picture = samples.picture(9, 9)
  assert processor.prepare("[INST] <image> [/INST]", [picture]).visual.any()


def test_templates_of_the_wrong_type(write):
  path = write("tiny_llava")
  for value in (7, [1, 2], {"default": ["a"]}, {"tools": "a"}):
    samples.edit(path, "chat_template.json", chat_template=value)
    assert refusals.of(path) == (
      f"{path / 'chat_template.json'}: chat_template is {json.dumps(value)};"
      ' expected a template, or several by name and one of them "default";'
      " correct the file"
    )
  (path / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x }}")
  assert f"{path / 'chat_template.jinja'} is damaged (" in refusals.of(path)


def test_numbers_that_do_not_fit(write):
  processor = processors.load(write("tiny_smolvlm"))
  picture = samples.picture(20, 50)
  with pytest.raises(ValueError, match="1 image tokens '<image>' for 0 pic"):
    processor.prepare(_turn(_IMAGE))
  with pytest.raises(ValueError, match="0 image tokens '<image>' for 1 pic"):
    processor.prepare("no picture", [picture])
  with pytest.raises(
    ValueError, match="20 x 50 pixels has 7 tiles, but capacity is 5; raise it"
  ):
    processor.prepare(_turn(_IMAGE), [picture], capacity=5)
  with pytest.raises(ValueError, match="tokens, but length is 9; raise it"):
    processor.prepare(_turn(_IMAGE), [picture], length=9)
