"""Names of plans can neither break tables nor become formulas."""

import csv
import io

from eos_jax.evaluation import html, render

NAME = 'a|b\\|c\n=<script>"'


def test_columns_of_text_are_aligned():
  rows = [["plan", "x", "note"], ["a", "1.5", ""], ["bcdef", "-12", "a\nb"]]
  section = render.Section("some\nplans", rows, ["c\n- d"])
  assert render.text([section]).splitlines() == [
    *("some plans", ""),
    "plan     x  note",
    "a      1.5",
    "bcdef  -12  a b",
    *("", "- c - d"),
  ]


def test_cells_of_markdown_stay_cells():
  rows = [["plan", "x", "y"], [NAME, "1", "b"]]
  section = render.Section("a\n# b", rows, ["c\n- d"])
  assert render.markdown([section]).splitlines() == [
    *("## a # b", ""),
    r"| plan                 |   x | y   |",
    r"| -------------------- | --: | --- |",
    r'| a\|b\\\|c =<script>" |   1 | b   |',
    *("", "- c - d"),
  ]


def test_sections_may_have_no_table():
  section = render.Section("a", notes=["b"])
  for text in (render.text([section]), render.markdown([section])):
    assert text.splitlines()[1:] == ["", "- b"]
  assert "<table" not in html.page("t", html.tables([section]))


def test_cells_of_csv_are_no_formulas():
  row = ["=1+1", "+1+1", "-1+1", "@x", "\t=x", "a=b", "-", "-1.5e-3", "+2", ""]
  text = render.as_csv([row, [NAME]])
  first, second = csv.reader(io.StringIO(text))
  assert first == [
    *("'=1+1", "'+1+1", "'-1+1", "'@x", "'\t=x"),
    *("a=b", "-", "-1.5e-3", "+2", ""),
  ]
  assert second == [NAME]


def test_cells_of_html_are_text():
  section = render.Section(NAME, [[NAME], [NAME]], [NAME])
  page = html.page(NAME, html.tables([section]))
  assert "<script>" not in page and page.count("&lt;script&gt;") == 6
