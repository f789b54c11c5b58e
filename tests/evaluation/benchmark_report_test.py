"""Names of plans can neither break tables nor become formulas."""

import csv
import io

from eos_jax.evaluation import benchmark_report

NAME = 'a|b\\|c\n=<script>"'


def test_cells_of_markdown_stay_cells():
  section = benchmark_report.Section(
    "a\n# b", [["plan", "x"], [NAME, "1"]], ["c\n- d"]
  )
  text = benchmark_report.as_markdown([section])
  assert text.splitlines() == [
    *("## a # b", "", "| plan | x |", "| --- | ---: |"),
    r'| a\|b\\\|c =<script>" | 1 |',
    *("", "- c - d"),
  ]


def test_cells_of_csv_are_no_formulas():
  row = ["=1+1", "+1+1", "-1+1", "@x", "\t=x", "a=b", "-", "-1.5e-3", "+2", ""]
  text = benchmark_report.as_csv([row, [NAME]])
  first, second = csv.reader(io.StringIO(text))
  assert first == [
    *("'=1+1", "'+1+1", "'-1+1", "'@x", "'\t=x"),
    *("a=b", "-", "-1.5e-3", "+2", ""),
  ]
  assert second == [NAME]


def test_cells_of_html_are_text():
  section = benchmark_report.Section(NAME, [[NAME]], [NAME])
  assert "<script>" not in benchmark_report.as_html(NAME, [section])
