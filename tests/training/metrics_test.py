"""Metrics of a run: lines that can be read again, and TensorBoard's file."""

import contextlib
import errno
import json
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

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


def _events(path):
  """The events of a file: length, its checksum, bytes, their checksum."""
  data, events = path.read_bytes(), []
  while data:
    (length,) = struct.unpack("Q", data[:8])
    events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
    data = data[16 + length :]
  return events


def test_tensorboard_gets_the_numbers_and_where_a_run_resumed(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.show(1, {"early": 1.0})  # before the file is there
  writer.cut(6)
  writer.write(7, {"loss": np.float32(0.5), "counts": np.arange(2)})
  writer.close()
  (path,) = (tmp_path / "tensorboard").iterdir()
  version, start, *numbers = _events(path)
  assert version.file_version == "brain.Event:2"
  assert (start.step, start.session_log.status) == (
    7,
    event_pb2.SessionLog.START,
  )
  assert [
    (event.step, value.tag, value.simple_value)
    for event in numbers
    for value in event.summary.value
  ] == [(7, "loss", 0.5), (7, "counts/0", 0.0), (7, "counts/1", 1.0)]


def test_a_full_disk_is_an_error_where_it_is_written(tmp_path):
  writer = metrics.Writer(tmp_path)
  writer.cut(0)
  records = writer._board._file._py_recordio_writer
  records._writer.close()
  records._writer = open("/dev/full", "wb")
  with pytest.raises(OSError) as error:
    for step in range(1000):
      writer.write(step, {"loss": np.arange(10.0)})
  assert error.value.errno == errno.ENOSPC
  with pytest.raises(OSError):
    writer.close()
  assert writer._file.closed
  with contextlib.suppress(OSError):
    records._writer.close()
