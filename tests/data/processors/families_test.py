"""Pictures and prompts are those of each family's processor in transformers.

What that gave is recorded (`reference.py`); `parity_test.py` compares more,
with transformers itself.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eos_jax.data import processors
from eos_jax.data.processors import onevision, qwen2_vl, smolvlm
from tests.data.processors import samples

_GOLDENS = pathlib.Path(__file__).parent / "goldens"
# Values are recorded as 8-bit levels; floats come from them by one table.
_ROUNDING = 2e-6


@pytest.fixture(scope="module")
def pixels():
  with np.load(_GOLDENS / "pixels.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def texts():
  return json.loads((_GOLDENS / "texts.json").read_text())


@pytest.fixture(scope="module")
def load(tmp_path_factory):
  made = {}

  def call(name):
    if name not in made:
      path = samples.write(name, tmp_path_factory.mktemp(name))
      made[name] = processors.load(path)
    return made[name]

  return call


def _as_levels(name, settings, values):
  """Parts of one picture, channels last, to compare with recorded levels."""
  if samples.FOLDERS[name][0] == "qwen2_vl":
    side = settings.patch
    values = values.reshape(len(values), 3, settings.frames, side, side)
    values = np.moveaxis(values, 1, -1)
  return values


@pytest.mark.parametrize("name", samples.TINY)
@pytest.mark.parametrize("key", [row[0] for row in samples.RECORDED])
def test_pixels(name, key, pixels, load):
  processor = load(name)
  _, height, width, mode = next(r for r in samples.RECORDED if r[0] == key)
  picture = samples.picture(height, width, mode=mode)
  out = processor.family.preprocess([picture], processor.settings)
  levels = pixels[f"{name}/{key}"]
  values = processor.settings.values
  want = (levels * values.scale - np.array(values.mean)) / np.array(values.std)
  got = _as_levels(name, processor.settings, out.pixels[0, out.valid[0]])
  assert got.shape == want.shape and got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=0, atol=_ROUNDING)
  assert not out.pixels[0, ~out.valid[0]].any()
  assert out.sizes.tolist() == [[height, width]]


@pytest.mark.parametrize("name", samples.FOLDERS)
def test_token_counts(name, texts, load):
  processor = load(name)
  family, settings = processor.family, processor.settings
  for size, want in zip(samples.SIZES, texts[name]["counts"], strict=True):
    if want is None:
      with pytest.raises(ValueError, match="200 times"):
        family.token_count(size, settings)
    elif family is smolvlm:
      grid = smolvlm.tile_grid(size, settings)[1]
      grid = (0, 0) if grid == (1, 1) else grid
      text = smolvlm.image_prompt(grid, settings)
      assert len(processor.text.encode(text)) == want, size
    elif family in (onevision, qwen2_vl):
      assert family.token_count(size, settings) == want, size
    else:
      assert settings.tokens == want


@pytest.mark.parametrize("name", samples.TINY)
@pytest.mark.parametrize("key", samples.CONVERSATIONS)
def test_prompts_and_ids(name, key, texts, load):
  processor = load(name)
  conversation = samples.CONVERSATIONS[key]
  reply = samples.REPLY[key]
  assert (
    processor.prompt(conversation, reply=reply) == (texts[name]["prompts"][key])
  )
  pictures = samples.pictures_of(conversation)
  inputs = processor.prepare(conversation, pictures, reply=reply)
  assert inputs.ids.tolist() == texts[name]["ids"][key]
  assert inputs.visual.sum() == inputs.pictures.tokens.sum()
  assert inputs.mask.all()


@pytest.mark.parametrize("name", samples.TINY)
def test_shapes_do_not_depend_on_the_pictures(name, load):
  processor = load(name)
  shapes = set()
  for height, width in ((5, 80), (64, 64), (90, 31)):
    picture = samples.picture(height, width)
    inputs = processor.prepare(
      samples.CONVERSATIONS["question"], [picture], length=900
    )
    arrays = (inputs.pictures.pixels, inputs.pictures.valid, inputs.ids)
    shapes.add(tuple(array.shape for array in arrays))
    # The token behind the prompt is masked, not an image token.
    assert not (inputs.visual & ~inputs.mask).any()
    assert inputs.visual.sum() == inputs.pictures.tokens[0]
  assert len(shapes) == 1


@pytest.mark.parametrize("name", samples.TINY)
def test_a_compiled_function_takes_them(name, load):
  processor = load(name)
  traces = []

  @jax.jit
  def count(pixels, valid, ids):
    traces.append(pixels.shape)
    parts = jnp.abs(pixels).sum(range(2, pixels.ndim)) > 0
    return (parts & valid).sum(), (ids == processor.text.image_id).sum()

  for height, width in ((5, 80), (64, 64), (90, 31)):
    inputs = processor.prepare(
      samples.CONVERSATIONS["question"],
      [samples.picture(height, width)],
      length=900,
    )
    out = inputs.pictures
    parts, tokens = count(out.pixels, out.valid, inputs.ids)
    assert int(parts) == out.valid.sum()
    assert int(tokens) == out.tokens.sum()
  assert len(traces) == 1


def test_a_text_in_place_of_turns(load):
  processor = load("tiny_llava")
  picture = samples.picture(20, 50)
  conversation = samples.CONVERSATIONS["question"]
  text = processor.prompt(conversation)
  assert processor.prepare(text, [picture]).ids.tolist() == (
    processor.prepare(conversation, [picture]).ids.tolist()
  )


def test_decoded_text_has_no_special_tokens(load):
  text = load("tiny_qwen2_vl").text
  ids = text.encode("<|im_start|>the cat<|im_end|>")
  assert text.decode(ids) == "the cat"


# LLaVA-1.5.


def test_original_format_of_llava(tmp_path):
  path = samples.write("tiny_llava", tmp_path)
  processor = processors.load(path, style="vicuna")
  system = (
    "A chat between a curious user and an artificial intelligence assistant."
    " The assistant gives helpful, detailed, and polite answers to the user's"
    " questions."
  )
  assert processor.prompt(samples.CONVERSATIONS["question"]) == (
    f"{system} USER: <image>\nWhat is the colour? ASSISTANT:"
  )
  assert processor.prompt(samples.CONVERSATIONS["turns"]) == (
    "Be brief. USER: <image>\nWho is the other? ASSISTANT: Nobody.</s>USER:"
    " <image>\nAnd here, the \u4e2d\u6587? ASSISTANT:"
  )


def test_picture_is_padded_as_the_authors_config_says(tmp_path, pixels):
  path = samples.write("tiny_llava", tmp_path)
  config = json.loads((path / "config.json").read_text())
  config["image_aspect_ratio"] = "pad"
  (path / "config.json").write_text(json.dumps(config))
  processor = processors.load(path)
  assert processor.settings.aspect == "pad"
  picture = samples.picture(20, 50)
  out = processor.family.preprocess([picture], processor.settings)
  levels = pixels["tiny_llava_pad/wide"]
  values = processor.settings.values
  want = (levels / 255 - np.array(values.mean)) / np.array(values.std)
  np.testing.assert_allclose(out.pixels[0], want, rtol=0, atol=_ROUNDING)
  # What was added is the mean colour: zero but for rounding to 8 bits.
  assert np.abs(out.pixels[0, 0, :4]).max() < 1 / 255 / min(values.std)


# LLaVA-OneVision.


@pytest.mark.parametrize("size", [(20, 50), (61, 33), (300, 410), (1, 90)])
def test_layout_of_tokens(size, load):
  settings = load("tiny_onevision").settings
  picture = samples.picture(*size)
  out = onevision.preprocess([picture], settings)
  layout = onevision.layout(size, settings, capacity=200)
  assert layout.valid.sum() == out.tokens[0]
  assert layout.index.shape == layout.weight.shape == (200, 4)
  used = layout.valid & ~layout.newline
  np.testing.assert_allclose(layout.weight[used].sum(-1), 1, atol=1e-6)
  assert not layout.weight[~used].any()
  # Nothing is read from tiles that are not there.
  tiles = layout.index[used] // settings.patches**2
  assert out.valid[0, tiles].all()
  # The whole comes first, as it is.
  base = settings.patches**2
  assert layout.index[:base, 0].tolist() == list(range(base))


def test_layout_by_hand():
  # 16 x 8 pixels fill a plane of 2 x 1 tiles of 2 x 2 features.
  settings = onevision.Settings(
    side=8, resolutions=((8, 8), (16, 8)), patches=2, most=9
  )
  layout = onevision.layout((16, 8), settings)
  rows = layout.index[:, 0].tolist()
  assert rows == [0, 1, 2, 3, 4, 5, 0, 6, 7, 0, 8, 9, 0, 10, 11, 0]
  assert np.flatnonzero(layout.newline).tolist() == [6, 9, 12, 15]
  # One tile's worth at most: 4 x 2 features become 2 x 1, by averages.
  settings = onevision.Settings(
    side=8, resolutions=((8, 8), (16, 8)), patches=2, most=1
  )
  layout = onevision.layout((16, 8), settings)
  assert layout.newline.tolist() == [False] * 5 + [True, False, True]
  assert sorted(layout.index[4].tolist()) == [4, 5, 6, 7]
  np.testing.assert_allclose(layout.weight[4], 0.25)


def test_several_pictures_are_not_tiled(load):
  settings = load("tiny_onevision").settings
  pictures = [samples.picture(20, 50), samples.picture(61, 33)]
  out = onevision.preprocess(pictures, settings)
  assert out.pixels.shape == (2, 1, 24, 24, 3)
  assert out.tokens.tolist() == [settings.patches**2 + 1] * 2
  layout = onevision.layout((20, 50), settings, tiled=False)
  assert layout.newline.tolist() == [False] * 9 + [True]


# Qwen2-VL.


def test_patches_by_hand():
  settings = qwen2_vl.Settings(
    least=16, most=64, patch=2, merge=2, frames=2, values=qwen2_vl.llava.CLIP
  )
  picture = samples.picture(4, 8)
  out = qwen2_vl.preprocess([picture], settings, capacity=16)
  assert out.grid.tolist() == [[2, 4]] and out.tokens.tolist() == [2]
  assert out.pixels.shape == (1, 16, 3 * 2 * 2 * 2)
  image = processors.pixels.normalize(np.asarray(picture), settings.values)
  # The third patch of the second block is its lower left one.
  want = image[2:4, 4:6].transpose(2, 0, 1)
  got = out.pixels[0, 6].reshape(3, 2, 2, 2)
  np.testing.assert_array_equal(got[:, 0], want)
  np.testing.assert_array_equal(got[:, 1], want)


# SmolVLM.


def test_tiles_and_their_announcement(load):
  processor = load("tiny_smolvlm")
  settings = processor.settings
  out = smolvlm.preprocess([samples.picture(20, 50)], settings)
  assert out.grid.tolist() == [[2, 3]] and out.valid.sum() == 7
  assert out.tokens.tolist() == [14]
  mask = smolvlm.pixel_mask(out)
  assert mask.shape == (1, 10, 24, 24)
  assert mask[0, :7].all() and not mask[0, 7:].any()
  text = smolvlm.image_prompt((1, 2), settings)
  around = "<fake_token_around_image>"
  assert text == (
    f"{around}<row_1_col_1><image><image>{around}<row_1_col_2><image><image>\n"
    f"\n{around}<global-img><image><image>{around}"
  )
