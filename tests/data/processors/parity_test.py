"""The families' processors in transformers, over random sizes and modes.

They need transformers (and torch, which its models need), which the project
does not install; run from an environment that has both packages' needs:

    python -m pytest -m full -s tests/data/processors/parity_test.py

Pixels may differ by rounding alone; the worst is printed.
"""

import dataclasses
import pathlib

import numpy as np
from PIL import Image
import pytest

from eos_jax.data import processors
from eos_jax.data.processors import onevision, smolvlm
from tests.data.processors import samples

pytestmark = [pytest.mark.full, pytest.mark.slow]
pytest.importorskip(
  "transformers",
  reason="transformers is not installed: nothing to compare with",
)

reference = pytest.importorskip("tests.data.processors.reference")

_MODES = ("RGB", "RGB", "RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I")
# The bar is one 8-bit step; what is seen is a rounding of float32.
_STEP = 1 / 255
_SMALL = {
  "llava": ("llava", "tiny_llava", "tiny_llava_pad"),
  "onevision": ("onevision", "tiny_onevision"),
  "qwen2_vl": ("qwen2_vl", "tiny_qwen2_vl"),
  "smolvlm": ("smolvlm", "tiny_smolvlm"),
}
_NAMES = [name for names in _SMALL.values() for name in names]


def _pictures(count, *, longest, seed):
  """Random sizes, log-uniform in both sides, in random modes."""
  rng = np.random.default_rng(seed)
  fixed = [(1, 1), (1, longest), (longest, 1), (3, 3), (2, 7), (4, 3)]
  fixed += [(1, 150), (150, 1), (336, 336), (384, 768), (longest, longest)]
  sizes = fixed + [
    tuple(int(v) for v in np.exp(rng.uniform(0, np.log(longest), 2)))
    for _ in range(count)
  ]
  for place, (height, width) in enumerate(sizes):
    mode = _MODES[rng.integers(len(_MODES))] if place >= 3 else "RGB"
    base = samples.picture(
      height, width, mode=mode if mode not in ("1", "I") else "L", seed=place
    )
    yield base if mode not in ("1", "I") else base.convert(mode)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  made = {}

  def call(name):
    if name not in made:
      path = samples.write(name, tmp_path_factory.mktemp(name))
      made[name] = processors.load(path), reference.processor(name, path)
    return made[name]

  return call


@pytest.mark.parametrize("name", _NAMES)
def test_pixels(name, both):
  ours, theirs = both(name)
  family = samples.FOLDERS[name][0]
  tiny = name in samples.TINY
  worst, exact, compared = 0.0, 0, 0
  pictures = _pictures(
    150 if tiny else 20, longest=700 if tiny else 1500, seed=len(name)
  )
  for picture in pictures:
    size = picture.height, picture.width
    try:
      want = reference.pixels(family, theirs.image_processor, picture)
    except ValueError as error:
      assert family == "qwen2_vl" and "aspect ratio" in str(error)
      with pytest.raises(ValueError, match="200 times"):
        ours.family.preprocess([picture], ours.settings)
      continue
    out = ours.family.preprocess([picture], ours.settings)
    got = out.pixels[0, out.valid[0]]
    assert got.shape == want.shape, size
    difference = float(np.abs(got - want).max())
    assert difference <= _STEP, (size, picture.mode)
    worst, exact = max(worst, difference), exact + (difference == 0)
    compared += 1
  print(f"\n{name}: {compared} pictures, {exact} equal, worst {worst:.2e}")


@pytest.mark.parametrize("name", samples.FAMILIES)
def test_very_large_pictures(name, both):
  ours, theirs = both(name)
  picture = samples.picture(5200, 3900)
  want = reference.pixels(name, theirs.image_processor, picture)
  out = ours.family.preprocess([picture], ours.settings)
  got = out.pixels[0, out.valid[0]]
  assert got.shape == want.shape
  assert np.abs(got - want).max() <= _STEP


@pytest.mark.parametrize(
  "name, changes",
  [
    ("tiny_llava", {"crop_size": 40}),
    ("tiny_llava", {"crop_size": {"height": 14, "width": 42}}),
    ("tiny_llava", {"size": 40, "resample": 2}),
    ("tiny_llava", {"size": {"height": 28, "width": 42}}),
    (
      "tiny_llava",
      {"size": {"height": 28, "width": 42}, "do_center_crop": False},
    ),
    ("tiny_llava", {"do_resize": False}),
    ("tiny_llava", {"do_normalize": False, "rescale_factor": 0.5}),
    ("tiny_llava", {"do_rescale": False}),
    ("tiny_llava", {"image_mean": None, "image_std": None, "resample": None}),
    ("tiny_llava", {"do_convert_rgb": None}),
    (
      "tiny_llava",
      {
        "image_processor_type": "SiglipImageProcessor",
        **dict.fromkeys(("size", "crop_size", "do_center_crop", "resample")),
        **dict.fromkeys(("image_mean", "image_std")),
      },
    ),
    (
      "tiny_llava",
      {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 42, "width": 28},
        "crop_size": None,
        "do_center_crop": False,
      },
    ),
    ("tiny_onevision", {"resample": 0, "do_pad": None}),
    ("tiny_onevision", {"image_mean": None, "image_std": None}),
    (
      "tiny_onevision",
      {"image_grid_pinpoints": [[48, 24], [24, 48], [24, 24]]},
    ),
    ("tiny_qwen2_vl", {"patch_size": 7, "merge_size": 3}),
    ("tiny_qwen2_vl", {"temporal_patch_size": 1, "resample": 1}),
    ("tiny_qwen2_vl", {"size": {"shortest_edge": 400, "longest_edge": 9000}}),
    ("tiny_qwen2_vl", {"min_pixels": 3000, "max_pixels": 3500}),
    ("tiny_smolvlm", {"do_image_splitting": False}),
    ("tiny_smolvlm", {"do_resize": False}),
    ("tiny_smolvlm", {"do_resize": False, "do_image_splitting": False}),
    ("tiny_smolvlm", {"size": {"longest_edge": 24}}),
    ("tiny_smolvlm", {"size": {"longest_edge": 77}}),
    ("tiny_smolvlm", {"size": {"longest_edge": 20}, "resample": 2}),
    (
      "tiny_smolvlm",
      {"max_image_size": {"longest_edge": 400}, "size": {"longest_edge": 5000}},
    ),
  ],
)
def test_other_settings(name, changes, tmp_path):
  path = samples.write(name, tmp_path, **changes)
  ours = processors.load(path)
  theirs = reference.image_processor(path)
  family = samples.FOLDERS[name][0]
  for picture in _pictures(25, longest=200, seed=1):
    if picture.mode != "RGB" and "do_convert_rgb" in changes:
      continue
    want = reference.pixels(family, theirs, picture)
    out = ours.family.preprocess([picture], ours.settings, capacity=1000)
    # Without a capacity there is room for every picture.
    assert out.valid.sum() <= getattr(ours.settings, "capacity", 1) or (
      ours.settings.longest is None
    )
    got = out.pixels[0, out.valid[0]]
    assert got.shape == want.shape, (picture.size, picture.mode)
    assert np.abs(got - want).max() <= _STEP, (picture.size, picture.mode)


@pytest.mark.parametrize("name", _NAMES)
def test_folders_that_transformers_writes(name, both, tmp_path):
  ours, theirs = both(name)
  theirs.save_pretrained(tmp_path)
  config = pathlib.Path(ours.where) / "config.json"
  (tmp_path / "config.json").write_bytes(config.read_bytes())
  again = processors.load(tmp_path)
  assert again.settings == ours.settings
  assert again.text.image_id == ours.text.image_id
  conversation = samples.CONVERSATIONS["turns"]
  pictures = samples.pictures_of(conversation)
  assert again.prepare(conversation, pictures).ids.tolist() == (
    ours.prepare(conversation, pictures).ids.tolist()
  )


@pytest.mark.parametrize("name", _NAMES)
def test_token_counts(name, both):
  ours, theirs = both(name)
  rng = np.random.default_rng(5)
  sizes = np.exp(rng.uniform(0, np.log(8000), (1500, 2))).astype(int).tolist()
  for size, want in zip(sizes, reference.counts(theirs, sizes), strict=True):
    size = tuple(size)
    if want is None:
      with pytest.raises(ValueError, match="200 times"):
        ours.family.token_count(size, ours.settings)
    elif ours.family is smolvlm:
      rows, cols = smolvlm.tile_grid(size, ours.settings)[1]
      tokens = ours.settings.tokens
      # Behind each tile's tokens its name, behind each row a line end.
      got = tokens + 3
      if (rows, cols) != (1, 1):
        got += rows * (cols * (tokens + 2) + 1)
      assert got == want, size
    elif hasattr(ours.family, "token_count"):
      assert ours.family.token_count(size, ours.settings) == want, size
    else:
      assert ours.settings.tokens == want


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("key", samples.CONVERSATIONS)
def test_prompts_and_ids(name, key, both):
  ours, theirs = both(name)
  conversation, reply = samples.CONVERSATIONS[key], samples.REPLY[key]
  assert ours.prompt(conversation, reply=reply) == reference.prompt(theirs, key)
  large = name not in samples.TINY
  pictures = samples.pictures_of(conversation, large=large)
  inputs = ours.prepare(conversation, pictures, reply=reply)
  assert inputs.ids.tolist() == reference.ids(theirs, key, large=large)


@pytest.mark.parametrize("family", samples.FAMILIES)
def test_random_conversations(family, both):
  ours, theirs = both(f"tiny_{family}")
  rng = np.random.default_rng(11)
  texts = ("a", " b ", "\n", "c\n\nd", "Answer:", "\u00e9\u4e2d", "USER:")
  for _ in range(200):
    conversation = []
    for role in rng.choice(("system", "user", "assistant"), rng.integers(1, 6)):
      parts = [
        {"type": "image"}
        if role == "user" and rng.random() < 0.4
        else {"type": "text", "text": str(rng.choice(texts))}
        for _ in range(rng.integers(1, 4))
      ]
      conversation.append({"role": str(role), "content": parts})
    for reply in (False, True):
      want = theirs.apply_chat_template(
        conversation, add_generation_prompt=reply, tokenize=False
      )
      assert ours.prompt(conversation, reply=reply) == want


def test_several_pictures_of_onevision(both):
  ours, theirs = both("tiny_onevision")
  pictures = list(_pictures(10, longest=300, seed=3))
  want = theirs.image_processor([pictures], return_tensors="np")["pixel_values"]
  got = onevision.preprocess(pictures, ours.settings).pixels
  np.testing.assert_array_equal(got, np.moveaxis(want, -3, -1))


def test_layout_of_onevision(both):
  """Features are packed as the model packs them."""
  torch = pytest.importorskip("torch")
  from transformers.models.llava_onevision import modeling_llava_onevision

  ours = both("tiny_onevision")[0]
  rng = np.random.default_rng(2)
  worst = 0.0
  for most in (1, 3, 9):
    settings = dataclasses.replace(ours.settings, most=most)
    config = type("Config", (), {})()
    config.vision_config = type("Config", (), {})()
    config.vision_config.image_size = settings.side
    config.vision_config.patch_size = settings.side // settings.patches
    config.image_grid_pinpoints = [list(pair) for pair in settings.resolutions]
    model = type("Model", (), {"config": config})()
    for size in np.exp(rng.uniform(0, 6, (120, 2))).astype(int).tolist():
      best = onevision.best_resolution(size, settings.resolutions)
      tiles = 1 + best[0] * best[1] // settings.side**2
      features = rng.normal(size=(tiles, settings.patches**2, 5))
      newline = rng.normal(size=5)
      layout = onevision.layout(tuple(size), settings, capacity=500)
      rows = features.reshape(-1, 5)
      got = (layout.weight[..., None] * rows[layout.index]).sum(1)
      got = (got + layout.newline[:, None] * newline)[layout.valid]
      if not onevision._plane(size, settings)[2][0]:
        assert len(got) == settings.patches**2  # torch has no empty rows
        continue
      if not onevision._plane(size, settings)[2][1]:
        continue
      pack = modeling_llava_onevision.LlavaOnevisionModel.pack_image_features
      (want,), _ = pack(
        model,
        [torch.tensor(features)],
        torch.tensor([size]),
        torch.tensor(newline),
        f"anyres_max_{most}",
      )
      assert got.shape == tuple(want.shape), size
      worst = max(worst, float(np.abs(got - want.numpy()).max()))
  print(f"\nlayout: worst {worst:.2e}")
  assert worst < 1e-5  # shares are float32


def test_files_with_an_orientation(tmp_path):
  from transformers.image_utils import load_image

  for orientation in range(1, 9):
    picture = samples.picture(20, 50)
    exif = picture.getexif()
    exif[274] = orientation
    path = tmp_path / f"{orientation}.jpg"
    picture.save(path, exif=exif)
    want = np.asarray(load_image(str(path)))
    got = processors.pixels.rgb(processors.open_picture(path))
    np.testing.assert_array_equal(got, want)
    # From memory the tag is not read, there as here.
    raw = Image.open(path)
    assert processors.pixels.rgb(raw).shape == (20, 50, 3)
