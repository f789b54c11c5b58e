"""Lines of metrics that are damaged are left out, with a warning."""

import json

from eos_jax.training import metrics


def test_only_rows_of_a_step_and_numbers_are_read(tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  good = [{"step": 1, "loss": 0.5}, {"step": 3, "counts": [[1, 2.5], [3, 4]]}]
  bad = [{}, {"loss": 1}, {"step": "2"}, {"step": 2, "loss": None}]
  bad += [{"step": True}, {"step": 2, "counts": [1, "x"]}]
  lines = [json.dumps(row) for row in [good[0], *bad, good[1]]]
  lines[1:1] = ["null", "[1]", '{"step": 2, "loss": NaN}']
  path.write_bytes("\n".join(lines).encode() + b'\n\xff\n{"step": 4, "lo')
  assert metrics.read(tmp_path) == good
  assert capsys.readouterr().out == (
    f"warning: {path}: lines 2, 3, 4, 12 are no JSON object; left out\n"
    f"warning: {path}: 6 lines are not metrics of a step; left out\n"
  )
  writer = metrics.Writer(tmp_path)
  writer.cut(2)
  writer.close()
  assert path.read_text() == lines[0] + "\n"
