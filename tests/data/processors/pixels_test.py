"""Sizes, borders and conversions of pictures."""

import numpy as np
from PIL import Image
import pytest

from eos_jax.data.processors import llava, pixels, smolvlm
from tests.data.processors import samples


def test_normalize_by_hand():
  settings = pixels.PixelSettings(mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 2.0))
  image = np.array([[[0, 255, 51]]], np.uint8)
  np.testing.assert_allclose(
    pixels.normalize(image, settings), [[[-1.0, 1.0, 0.0]]], atol=1e-7
  )


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(37, 500), (500, 37), (1, 300)])
def test_a_region_is_a_part_of_the_whole(resample, size, monkeypatch):
  # Neither black nor white, which are cut off between the passes of PIL.
  image = pixels.rgb(samples.picture(*size)) // 2 + 64
  target = pixels.shortest_edge_size(size, 64)
  region = pixels.center_region(target, (64, 64))
  whole = pixels.resize(image, target, resample)
  top, left, bottom, right = region
  want = whole[top:bottom, left:right].astype(int)
  got = pixels.resize(image, target, resample, region=region)
  np.testing.assert_array_equal(got, want)
  monkeypatch.setattr(pixels, "_LARGE", 0)
  got = pixels.resize(image, target, resample, region=region)
  difference = np.abs(got - want)
  # Nearest neighbours can fall on the other side of a tie.
  assert difference.max() <= 1 or (
    resample == 0 and (difference > 1).mean() < 0.01
  )


def test_lines_of_any_length_take_little_memory():
  # Whole, this would be 336 x 20,160,000 pixels.
  out = llava.preprocess([samples.picture(1, 60_000)], llava.Settings())
  assert out.pixels.shape == (1, 1, 336, 336, 3)


def test_margins():
  image = np.full((2, 5, 3), 7, np.uint8)
  square = pixels.pad_square(image, (1, 2, 3))
  assert square.shape == (5, 5, 3)
  assert (square[1:3] == 7).all() and (square[[0, 3, 4]] == (1, 2, 3)).all()
  black = pixels.pad_center(image, (5, 6))
  assert (black[1:3, :5] == 7).all() and not black[:, 5].any()
  # Cropping to more than there is puts the odd pixel first.
  crop = pixels.center_crop(image, (5, 3))
  assert (crop[2:4] == 7).all() and not crop[[0, 1, 4]].any()


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(37, 500), (500, 37), (1, 300), (300, 1)])
def test_a_square_need_not_be_whole(resample, size, monkeypatch):
  image = pixels.rgb(samples.picture(*size))
  color, target = (123, 117, 104), (28, 42)
  square = pixels.pad_square(image, color)
  want = pixels.resize(square, target, resample).astype(int)
  monkeypatch.setattr(pixels, "pad_square", None)
  monkeypatch.setattr(pixels, "_LARGE", 5000)
  difference = np.abs(
    pixels.resize_square(image, color, target, resample) - want
  )
  # Samples of the box filter can fall on the other side of a tie.
  assert difference.max() <= 1 or (
    resample == 4 and (difference > 1).mean() < 0.1
  )


@pytest.mark.parametrize("crop", [(3, 4), (9, 7), (12, 12), (1, 20)])
@pytest.mark.parametrize("size", [(2, 9), (9, 2), (8, 3), (5, 5)])
def test_the_middle_of_a_square(crop, size):
  image = pixels.rgb(samples.picture(*size))
  want = pixels.center_crop(pixels.pad_square(image, (1, 2, 3)), crop)
  got = pixels.square_region(image, (1, 2, 3), crop)
  np.testing.assert_array_equal(got, want)


def test_transparent_parts_are_white():
  picture = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
  picture.putpixel((1, 0), (10, 20, 30, 255))
  assert pixels.rgb(picture).tolist() == [[[255] * 3, [10, 20, 30]]]
  palette = Image.new("P", (1, 1), 0)
  palette.putpalette([9, 9, 9])
  assert pixels.rgb(palette).tolist() == [[[9, 9, 9]]]
  palette.info["transparency"] = 0
  assert pixels.rgb(palette).tolist() == [[[255] * 3]]


def test_files_lose_their_alpha_channel(tmp_path):
  """What transformers 5.24's loader and processors make of them."""
  draw = np.random.default_rng(0)
  color = Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8))
  alpha = Image.fromarray(draw.integers(0, 255, (8, 8), np.uint8))
  palette = color.quantize(4)
  color.putalpha(alpha)
  cases = {
    "RGBA.png": (color, {}),
    "LA.png": (color.convert("LA"), {}),
    "P.png": (palette, {"transparency": bytes([0, 128, 255, 9])}),
    "RGBA.webp": (color, {"lossless": True, "exact": True}),
  }
  for name, (picture, options) in cases.items():
    picture.save(tmp_path / name, **options)
    opened = pixels.open_picture(tmp_path / name)
    assert opened.mode == "RGB"
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(pixels.rgb(opened), expected)
  # One colour that stands for transparent survives the loader, though.
  key = palette.getpixel((3, 3))
  palette.save(tmp_path / "key.png", transparency=key)
  expected = np.array(palette.convert("RGB"))
  expected[np.asarray(palette) == key] = 255
  opened = pixels.open_picture(tmp_path / "key.png")
  np.testing.assert_array_equal(pixels.rgb(opened), expected)


def test_arrays_are_pictures():
  grey = np.array([[3, 4]], np.uint8)
  want = [[[3] * 3, [4] * 3]]
  assert pixels.rgb(grey).tolist() == want
  assert pixels.rgb(grey[..., None]).tolist() == want
  color = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
  np.testing.assert_array_equal(pixels.rgb(color), color)


@pytest.mark.parametrize(
  "picture, said",
  [
    (np.zeros((2, 2, 3), np.float32), r"float32\[2, 2, 3\]; it must be uint8"),
    (np.zeros((3, 4, 5), np.uint8), r"5 channels; it must have 1, 3 or 4"),
    (np.zeros((0, 4), np.uint8), "without pixels"),
    (np.zeros(4, np.uint8), r"uint8\[4\]"),
    ("cat.png", "is str; give a PIL picture"),
  ],
)
def test_what_is_no_picture(picture, said):
  with pytest.raises(ValueError, match=said):
    pixels.rgb(picture)


def test_a_crop_of_more_than_there_is_stays_small(monkeypatch):
  # The shorter side is 20, and 40 are wanted: black above and below.
  settings = llava.Settings(size=20, side=(40, 40))
  image = samples.picture(10, 300)
  whole = pixels.resize(pixels.rgb(image), (20, 600), settings.values.resample)
  want = pixels.center_crop(whole, (40, 40))
  got = llava.preprocess([image], settings).pixels[0, 0]
  np.testing.assert_array_equal(got, pixels.normalize(want, settings.values))
  out = llava.preprocess([samples.picture(1, 60_000)], settings)
  assert out.pixels.shape == (1, 1, 40, 40, 3)


def test_too_many_tiles_are_refused_before_they_are_made():
  settings = smolvlm.Settings(longest=None, side=512)
  with pytest.raises(ValueError, match="has 119 tiles, but capacity is 65"):
    smolvlm.preprocess([samples.picture(1, 60_000)], settings)


def test_files_are_turned_upright(tmp_path):
  picture = samples.picture(20, 50)
  exif = picture.getexif()
  exif[274] = 6  # to be turned by a quarter
  picture.save(tmp_path / "turned.png", exif=exif)
  opened = pixels.open_picture(tmp_path / "turned.png")
  assert opened.size == (20, 50)
  np.testing.assert_array_equal(
    pixels.rgb(opened), np.rot90(pixels.rgb(picture), -1)
  )
  (tmp_path / "damaged.png").write_bytes(b"no picture")
  for name in ("damaged", "missing"):
    with pytest.raises(ValueError, match=f"{name}.png cannot be read"):
      pixels.open_picture(tmp_path / f"{name}.png")
