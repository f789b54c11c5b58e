"""Instruction files: what is read, who gets it, and what is refused."""

import json

import pytest

from eos_jax.data import instructions, items

SHARES = {"search": 0.5, "checks": 0.25, "test": 0.25}


def _entry(picture, question="<image>\nWhat is it?", answer="A cat.", **more):
  return {
    "id": f"id {picture}",
    "image": picture,
    "conversations": [
      {"from": "human", "value": question},
      {"from": "gpt", "value": answer},
    ],
  } | more


def _longer(question, answer):
  """An entry with a second turn."""
  entry = _entry("0")
  entry["conversations"] += [
    {"from": "human", "value": question},
    {"from": "gpt", "value": answer},
  ]
  return entry


@pytest.fixture
def write(tmp_path):
  """Writes entries and the pictures "0" to "39"; returns both paths."""
  images = tmp_path / "images"
  images.mkdir()
  for number in range(40):
    (images / str(number)).touch()

  def call(entries):
    path = tmp_path / "instructions.json"
    text = entries if isinstance(entries, str) else json.dumps(entries)
    path.write_text(text)
    return path, images

  return call


def test_parts_are_disjoint_and_stay_when_entries_are_added(write):
  entries = [_entry(str(number % 40)) for number in range(80)]
  few = instructions.load(*write(entries[:40]), SHARES).parts
  all_of = instructions.load(*write(entries), SHARES).parts
  shown = {
    name: {item.images for item in listed} for name, listed in all_of.items()
  }
  assert sum(map(len, shown.values())) == len(set().union(*shown.values()))
  assert sum(map(len, all_of.values())) == 80
  assert len(shown["search"]) > max(len(shown["checks"]), len(shown["test"]))
  for name, listed in few.items():
    assert {item.images for item in listed} == shown[name]


def test_questions_and_answers(write):
  later = [{"from": "human", "value": "and?"}, {"from": "gpt", "value": "no"}]
  entry = _entry("3", "What?\n<image>", " Two cats. ")
  # What precedes the first question goes.
  said = {"from": "gpt", "value": "Welcome."}
  entry["conversations"] = [said, *entry["conversations"], *later]
  several = _entry("4", "<image><image>Which?") | {"image": ["4", "5"]}
  unnamed = _entry("6", "no placeholder")
  del unnamed["id"]
  path, images = write([entry, several, unnamed])
  found = instructions.load(path, images, {"all": 1.0})
  assert found.without_picture == 0
  assert found.parts["all"] == (
    items.Item(
      "id 3", "What?", "Two cats.", (images / "3",), (("and?", "no"),)
    ),
    items.Item("id 4", "Which?", "A cat.", (images / "4", images / "5")),
    items.Item("3", "no placeholder", "A cat.", (images / "6",)),
  )


def test_entries_without_picture_are_counted(write):
  text_only = _entry("1", "What is 1 + 1?")
  del text_only["image"]
  found = instructions.load(*write([_entry("0"), text_only]), {"all": 1.0})
  assert len(found.parts["all"]) == 1 and found.without_picture == 1


@pytest.mark.parametrize(
  "entries, message",
  [
    ("[{", "is no JSON"),
    ({"a": 1}, "holds dict; expected a list"),
    ([], "holds an empty list"),
    ([_entry("0"), 3], "instructions.json, row 2: it is int"),
    ([_entry("0", image=7)], "row 1: image is 7; expected a file name"),
    ([_entry("none.jpg")], "row 1: the picture .*none.jpg does not exist"),
    ([_entry("0", "<image><image>?")], "has 2 <image> for 1 pictures"),
    ([_entry("0", "<image>")], "row 1: the question is empty"),
    ([_entry("0", answer=" ")], "row 1: the answer is empty"),
    ([_entry("0", conversations="no")], "got str"),
    ([_entry("0", conversations=[{}])], "got 1 from the first question on"),
    (
      [_entry("0", conversations=[{"from": "gpt", "value": "a"}] * 3)],
      "the turn of 'human' is {'from': 'gpt'",
    ),
    ([_longer("<image> and?", "no")], "a later turn has <image>"),
    ([_longer("", "no")], "a later question is empty"),
    ([_longer("and?", " ")], "a later answer is empty"),
    ([_entry("x" * 300)], "row 1: the picture 'x.*File name too long"),
    ([_entry("a\0b")], "row 1: the picture .*cannot be a file name .embedded"),
    ([_entry("../instructions.json")], "row 1: the picture .* leads out"),
    ([_entry("/etc/passwd")], "row 1: the picture .* has an absolute path"),
    ([_entry("\ud83d")], "row 1: an image name has half of a surrogate pair"),
    ([_entry("0", "a \ud83d")], "row 1: the question has half of a surrogate"),
    ([_entry("0", answer="\udc00")], "row 1: the answer has half of"),
    ([_longer("a", "\ud83d")], "row 1: a later answer has half of"),
    ([_entry("0", images=["1"])], r"image is \['0'\] and images is \['1'\]"),
    ([_entry(None, images=[None])], r"row 1: images is \[None\]; expected"),
    ([_entry("0"), None], "row 2: it is NoneType; expected an object"),
    ("[" * 100_000, "instructions.json nests its values too deeply"),
    ("[" + "9" * 5000 + "]", "instructions.json is no JSON"),
    ([3, _entry("0"), 4], "2 rows cannot be used; correct them"),
  ],
)
def test_faults_say_where_and_what(entries, message, write):
  with pytest.raises(ValueError, match=message):
    instructions.load(*write(entries), {"all": 1.0})


def test_messages_are_short(write):
  with pytest.raises(ValueError) as error:
    long = _entry("0", conversations=[{"from": "x" * 9**6}] * 2)
    instructions.load(*write([_entry("1", image=[3] * 9**6), long]), SHARES)
  assert len(str(error.value)) < 1500


@pytest.mark.parametrize(
  "fields, found",
  [
    ({"image": None, "images": ["1", "2"]}, ["1", "2"]),
    ({"image": [], "images": "1"}, ["1"]),
    ({"image": "1", "images": None}, ["1"]),
    ({"image": ["1"], "images": []}, ["1"]),
    ({"image": "1", "images": ["1"]}, ["1"]),
    ({"images": ["1"]}, ["1"]),
    ({"image": None, "images": None}, []),
    ({"image": [], "images": []}, []),
    ({}, []),
  ],
)
def test_an_empty_field_names_no_image(fields, found, write):
  entry = _entry("0", "What is it?")
  del entry["image"]
  path, images = write([_entry("0"), entry | fields])
  read = instructions.load(path, images, {"all": 1.0})
  assert read.without_picture == (not found)
  shown = [item.images for item in read.parts["all"][1:]]
  assert shown == ([tuple(images / name for name in found)] if found else [])


def test_images_elsewhere_need_a_setting(write, tmp_path):
  (tmp_path / "other").touch()
  path, images = write([_entry("../other"), _entry(str(tmp_path / "other"))])
  read = instructions.load(path, images, {"all": 1.0}, images_anywhere=True)
  for item in read.parts["all"]:
    assert item.images[0].samefile(tmp_path / "other")
  with pytest.raises(ValueError, match="2 rows cannot be used"):
    instructions.load(path, images, {"all": 1.0})


def test_encodings(write):
  path, images = write([_entry("0"), _entry("1", "<image>\u2028é?")])
  text = json.dumps(json.loads(path.read_text()), ensure_ascii=False, indent=1)
  for encoding in ("utf-8", "utf-8-sig"):
    path.write_bytes(text.encode(encoding))
    read = instructions.load(path, images, {"all": 1.0})
    assert read.parts["all"][1].question == "é?"
  path.write_bytes(text.encode("utf-8").replace("é".encode(), b"\xe9"))
  line = text[: text.index("é")].count("\n") + 1
  with pytest.raises(ValueError, match=f"instructions.json, line {line}: byte"):
    instructions.load(path, images, {"all": 1.0})


def test_faults_can_be_set_apart(write):
  entries = [3, _entry("0"), _entry("1", answer=""), _entry("2")]
  found = instructions.load(*write(entries), {"all": 1.0}, skip_invalid=True)
  assert [item.name for item in found.parts["all"]] == ["id 0", "id 2"]
  assert [fault.row for fault in found.faults] == [1, 3]
  with pytest.raises(ValueError, match="no entry falls to 'all'"):
    instructions.load(*write([3]), {"all": 1.0}, skip_invalid=True)


def test_missing_file_folder_and_part(write, tmp_path):
  path, images = write([_entry("0")])
  with pytest.raises(ValueError, match="nowhere.json cannot be read"):
    instructions.load(tmp_path / "nowhere.json", images, SHARES)
  with pytest.raises(ValueError, match="is not a folder"):
    instructions.load(path, tmp_path / "nowhere", SHARES)
  with pytest.raises(ValueError, match="no entry falls to"):
    instructions.load(path, images, SHARES)


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_impossible_shares(shares, write):
  with pytest.raises(ValueError, match="expected numbers above 0 that sum"):
    instructions.load(*write([_entry("0")]), shares)
