"""The launch script against a stand-in for gcloud that plays a scene.

What a scene's commands are to the letter lies in `goldens/launch`.
"""

import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import textwrap
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
GOLDENS = pathlib.Path(__file__).parent / "goldens" / "launch"

# Notes every call. `follow` and `create` hold what the next such calls return
# (the last line counts on); a state beside a status is the TPUs' from then on.
# `queue` holds what the next descriptions of a queued resource say.
_GCLOUD = """\
#!/usr/bin/env bash
cd "$(dirname "$0")/.."
[[ "$1" == compute ]] || { cat project; exit; }  # config get-value project
kind="$3"
echo "$*" >> commands
shift 3  # compute tpus tpu-vm
echo "$*" >> calls
next() {
  read -r status state < "$1" || true
  [[ $(wc -l < "$1") == 1 ]] || sed -i 1d "$1"
  [[ -z "$state" ]] || echo "$state" > state
  return "$status"
}
case "$*" in
  ssh*nohup*) for word; do case "$word" in
    --command=*) printf %s "${word#--command=}" > started ;;
  esac; done ;;
esac
case "$*" in
  describe*)
    if [[ -s queue ]]; then head -n 1 queue > state; sed -i 1d queue; fi
    cat state ;;
  create*)
    case "$kind" in tpu-vm) echo READY > state ;; *) echo ACTIVE > state ;; esac
    next create ;;
  ssh*--worker=0*job.log*)
    [[ ! -e hang ]] || exec sleep 60
    echo "the output of the job"; next follow ;;
  scp*--recurse*worker=0*) mkdir -p "$4" && touch "$4/fetched" ;;
esac
"""


@pytest.fixture
def stage(tmp_path):
  """A checkout with the script, and a stand-in gcloud on the PATH."""
  checkout = tmp_path / "checkout"
  (checkout / "launch").mkdir(parents=True)
  shutil.copy(ROOT / "launch" / "tpu_vm.sh", checkout / "launch")
  for command in (
    ["init", "-q"],
    ["add", "-A"],
    ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"],
  ):
    subprocess.run(["git", *command], cwd=checkout, check=True)
  (tmp_path / "bin").mkdir()
  gcloud = tmp_path / "bin" / "gcloud"
  gcloud.write_text(textwrap.dedent(_GCLOUD))
  gcloud.chmod(0o755)
  (tmp_path / "project").write_text("a-project\n")
  (tmp_path / "create").write_text("0\n")
  (tmp_path / "follow").write_text("0\n")
  return tmp_path


def _start(stage, *args, path=None, **environment):
  return subprocess.Popen(
    ["bash", "launch/tpu_vm.sh", *args],
    cwd=stage / "checkout",
    env={
      **os.environ,
      "PATH": path or f"{stage / 'bin'}:{os.environ['PATH']}",
      "WAIT": "0",
      **environment,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _run(stage, *args, **options):
  process = _start(stage, *args, **options)
  out, error = process.communicate(timeout=60)
  return process.returncode, out, error


def _calls(stage):
  """First word of every call but `describe`; what of the job an ssh does."""
  calls = []
  for line in (stage / "calls").read_text().splitlines():
    verb = line.split()[0]
    if verb == "ssh":
      verb = "install" if "uv" in line else "follow"
      verb = "start" if "nohup" in line else verb
    if verb == "scp":
      verb = "upload" if "--worker=all" in line else "fetch"
    calls.append(verb)
  return [verb for verb in calls if verb != "describe"]


def _commands(stage):
  """All commands but descriptions, places of this machine left out.

  Those that go to several nodes at once have no order; they are sorted.
  """
  text = (stage / "commands").read_text()
  text = re.sub(r"\S*/eos_jax\.\w{6}(?=\s)", "ARCHIVE", text)
  text = text.replace(str(stage / "checkout"), "CHECKOUT")
  lines = [line for line in text.splitlines() if " describe " not in line]

  def same_for_all(line):
    return re.sub(r"eos-jax-\d+", "NODE", line)

  groups = itertools.groupby(lines, same_for_all)
  return [line for _, group in groups for line in sorted(group)]


_SET_UP = ["create", "upload", "install", "start"]
_END = ["follow", "fetch", "delete"]


def test_dry_run_prints_the_commands_and_runs_none(stage):
  code, _, shown = _run(stage, "--dry-run", "--spot", "--", "--config=c.py")
  assert code == 0
  assert not (stage / "calls").exists()
  verbs = [line.split()[5] for line in shown.splitlines() if "gcloud" in line]
  assert verbs == ["create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
  assert "--spot" in shown and "--config=c.py" in shown


def test_a_job_is_run_followed_fetched_and_its_vm_deleted(stage):
  code, out, _ = _run(stage, "--", "--config=c.py", "--config.name=a b")
  assert code == 0
  assert "the output of the job" in out
  assert _calls(stage) == [*_SET_UP, "follow", "fetch", "delete"]
  assert (stage / "checkout" / "runs" / "eos-jax" / "fetched").exists()
  calls = (stage / "calls").read_text()
  assert "a\\\\\\ b" in calls  # quoted for the shell on the VM, and for its sh


def test_a_failed_job_gives_its_status(stage):
  (stage / "follow").write_text("3\n")
  code, _, _ = _run(stage)
  assert code == 3
  assert _calls(stage) == [*_SET_UP, "follow", "fetch", "delete"]


def test_a_preempted_job_goes_on_on_a_new_vm(stage):
  (stage / "follow").write_text("255 PREEMPTED\n0\n")
  runs = stage / "checkout" / "runs" / "eos-jax"
  runs.mkdir(parents=True)  # as an earlier copy would have left it
  code, _, error = _run(stage)
  assert code == 0
  again = ["create", "upload", "install", "upload", "start"]
  assert _calls(stage) == [
    *again,
    "follow",
    "delete",
    *again,
    "follow",
    "fetch",
    "delete",
  ]
  assert "attempt 2 of 5" in error


def test_a_broken_connection_is_taken_up_again(stage):
  (stage / "follow").write_text("255\n255\n0\n")
  code, _, _ = _run(stage)
  assert code == 0
  follows = ["follow"] * 3
  assert _calls(stage) == [*_SET_UP, *follows, "fetch", "delete"]


def test_it_gives_up_when_no_vm_can_be_had(stage):
  (stage / "create").write_text("1 GONE\n")
  code, _, error = _run(stage, RETRIES="2")
  assert code == 1
  assert _calls(stage) == ["create", "delete", "create", "delete"]
  assert "error: gave up after 2 attempts" in error


def test_keep_leaves_the_vm(stage):
  code, _, error = _run(stage, "--keep")
  assert code == 0
  assert "delete" not in _calls(stage)
  assert "still running" in error


def test_a_signal_deletes_the_vm(stage):
  (stage / "hang").touch()
  process = _start(stage)
  while "follow" not in (_calls(stage) if (stage / "calls").exists() else ()):
    time.sleep(0.05)
  os.kill(process.pid, signal.SIGINT)
  subprocess.run(["pkill", "-P", str(process.pid)], check=False)
  process.communicate(timeout=60)
  assert process.returncode in (130, 143)
  assert _calls(stage)[-1] == "delete"


def test_outputs_are_copied_while_the_job_runs(stage):
  (stage / "hang").touch()
  process = _start(stage, FETCH="0.2")
  fetched = stage / "checkout" / "runs" / "eos-jax" / "fetched"
  for _ in range(200):
    if fetched.exists():
      break
    time.sleep(0.05)
  assert fetched.exists()
  os.kill(process.pid, signal.SIGTERM)
  subprocess.run(["pkill", "-P", str(process.pid)], check=False)
  process.communicate(timeout=60)
  assert _calls(stage)[-1] == "delete"


_SCENES = {
  "one_vm": ([], ["0"], []),
  "preempted_spot_vm": (["--spot"], ["255 PREEMPTED", "0"], []),
  "preempted_queued_slices": (
    ["--slices=2", "--spot"],
    ["255 SUSPENDED", "0"],
    # Waits for both; the second time it is there at the second look.
    ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"],
  ),
}


@pytest.mark.parametrize("scene", _SCENES)
def test_commands_are_those_on_record(stage, scene):
  """What gcloud is told from creation to deletion, word for word."""
  args, follows, queue = _SCENES[scene]
  (stage / "follow").write_text("".join(f"{line}\n" for line in follows))
  (stage / "queue").write_text("".join(f"{line}\n" for line in queue))
  code, _, error = _run(stage, *args, SHARE="10.0.0.2:/runs" if queue else "")
  assert code == 0, error
  found = "\n".join(_commands(stage)) + "\n"
  assert found == (GOLDENS / f"{scene}.txt").read_text(encoding="utf-8")


def test_what_becomes_of_a_place_in_the_queue_is_told(stage):
  (stage / "queue").write_text("WAITING_FOR_RESOURCES\nFAILED\n")
  code, _, error = _run(stage, "--queued", RETRIES="2")
  assert code == 0
  assert "eos-jax in the queue: WAITING_FOR_RESOURCES" in error
  assert "eos-jax in the queue: FAILED" in error
  assert _calls(stage) == ["create", "delete", *_SET_UP, *_END]
  last = (stage / "calls").read_text().splitlines()[-1]
  assert last.startswith("delete eos-jax --force ")


def test_slices_need_storage_that_all_of_them_see(stage):
  code, _, error = _run(stage, "--slices=2")
  assert code == 2
  assert "set SHARE=HOST:/DIR" in error
  code, _, error = _run(stage, "--slices=two")
  assert code == 2
  assert "--slices=two is no number of slices" in error
  assert not (stage / "calls").exists()


def test_wrong_use_is_told(stage):
  code, _, error = _run(stage, "--kep")
  assert code == 2
  assert "unknown option --kep" in error
  # A PATH with nothing but what the script's first lines need.
  tools = stage / "tools"
  tools.mkdir()
  for name in ("bash", "dirname"):
    (tools / name).symlink_to(shutil.which(name))
  code, _, error = _run(stage, path=str(tools))
  assert code == 2
  assert "gcloud is not on the PATH" in error
  (stage / "project").write_text("(unset)\n")
  code, _, error = _run(stage)
  assert code == 2
  assert "gcloud has no project; set PROJECT" in error
  assert not (stage / "calls").exists()


_HOSTILE = [
  b"$(touch hacked)",
  b"`touch hacked`",
  b"'; touch hacked; '",
  b'"; touch hacked; "',
  b"a\nb",
  b"\ntouch hacked\n",
  b"a\tb 'c' \"d\"",
  b"\\",
  b"\\\n",
  b"'",
  b"'\n'",
  b"",
  b" ",
  b"\n",
  b"--config.name=\xc3\xa9\xe6\x97\xa5\xf0\x9f\x98\x80",
  b"\xff\xfe\x81\x88\x80",
  b"\x01\x02\x7f\x1b[31m",
  b"@NODE@",
  b"$HOME ~ ~/x a=~ *.txt {a,b} [a-z] ? !! #x & | ; < > ( )",
  b"%s%n\\x41$'\\n'",
  b"a&b\n&",
  b"\r\n",
  b"-e",
  b"--",
]


def _arguments(stage, arguments, shell):
  """What the job gets of its arguments, by really starting it in a shell."""
  code, _, error = _run(stage, "--", *arguments)
  assert code == 0, error
  home = stage / "home"
  shutil.rmtree(home, ignore_errors=True)
  (home / "eos_jax").mkdir(parents=True)
  (home / "venv" / "bin").mkdir(parents=True)
  python = home / "venv" / "bin" / "python"
  python.write_text(
    "#!/bin/sh\n"
    'for word; do printf "%s\\0" "$word"; done > ../arguments\n'
    "echo done\n"
    "exit 7\n"
  )
  python.chmod(0o755)
  command = (stage / "started").read_bytes()
  subprocess.run([shell, "-c", command], cwd=home, check=True)
  status = home / "eos_jax" / "job.rc"
  for _ in range(600):
    if status.exists() and status.read_text():
      break
    time.sleep(0.05)
  assert status.read_text() == "7\n"
  assert (home / "eos_jax" / "job.log").read_text() == "done\n"
  made = {path.name for path in [*home.iterdir(), *stage.rglob("hacked")]}
  assert made == {"eos_jax", "venv", "arguments"}
  *got, end = (home / "arguments").read_bytes().split(b"\0")
  assert end == b"" and got[:2] == [b"-m", b"eos_jax.main"]
  return got[2:]


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_arguments_of_the_job_are_data(stage, shell):
  if not shutil.which(shell):
    pytest.skip(f"{shell} is not installed")
  assert _arguments(stage, _HOSTILE, shell) == _HOSTILE


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_random_arguments_of_the_job_are_data(stage, seed):
  """Fifty each, of all bytes and of those that shells know."""
  draw = random.Random(seed)
  known = b"'\"\\$`\n\t !#&|;<>(){}[]*?~=%^@,-\x81\x88\xc3\xa9ab0"
  for shell in ("dash", "bash"):
    arguments = [
      bytes(
        draw.choice(known) if draw.random() < 0.7 else draw.randint(1, 255)
        for _ in range(draw.randrange(40))
      )
      for _ in range(50)
    ]
    assert _arguments(stage, arguments, shell) == arguments


@pytest.mark.parametrize("name", ["RETRIES", "NAME"])
@pytest.mark.parametrize(
  "value",
  ["PATH[$(touch hacked)]", "$(touch hacked)", "1\ntouch hacked", "é", "-1"]
  + ["../../x", "1;touch hacked", "@NODE@", "0x1", "9" * 60],
)
def test_variables_are_no_code(stage, name, value):
  code, _, error = _run(stage, "--dry-run", **{name: value})
  assert code == 2
  assert error.startswith(f"error: {name} is ") and "; use " in error
  assert len(error.splitlines()) == 1
  assert not list(stage.rglob("hacked")) and not (stage / "calls").exists()


@pytest.mark.parametrize(
  "variables",
  [
    {"FETCH": "PATH[$(touch hacked)]"},
    {"WAIT": "1 d"},
    {"ZONE": "a/../b"},
    {"TYPE": "v5e; touch hacked"},
    {"IMAGE": "--zone=elsewhere"},
    {"PROJECT": "a b"},
    {"SHARE": "10.0.0.2:/runs; touch hacked"},
    {"SHARE": "10.0.0.2"},
    {"SHARE": "-o:/x"},
    {"RETRIES": "0"},
    {"RETRIES": "08"},
    {"NAME": "Eos"},
  ],
  ids=str,
)
def test_other_variables_are_checked_too(stage, variables):
  code, _, error = _run(stage, **variables)
  (name,) = variables
  assert code == 2
  assert error.startswith(f"error: {name} is ")
  assert not list(stage.rglob("hacked")) and not (stage / "calls").exists()


@pytest.mark.parametrize("slices", ["99999999", "0", "1e1", "a[$(ls)]", "257"])
def test_slices_are_a_number_that_can_be(stage, slices):
  code, _, error = _run(stage, f"--slices={slices}", SHARE="10.0.0.2:/runs")
  assert code == 2
  assert "is no number of slices; use 1 to 256" in error


def test_a_job_too_long_for_a_command_is_refused_before(stage):
  code, _, error = _run(stage, "--", *["'" * 1000] * 30)
  assert code == 2
  assert "put them into a config file" in error
  assert not (stage / "calls").exists()


def test_values_of_google_are_taken(stage):
  code, _, error = _run(
    stage,
    "--dry-run",
    "--slices=256",
    NAME="a" * 52,
    ZONE="northamerica-northeast1-b",
    TYPE="v6e-8",
    IMAGE="tpu-vm-tf-2.15.0",
    PROJECT="example.com:my-project-1",
    SHARE="[fd00::2]:/runs/of_us",
    RETRIES="1",
    WAIT="0.5",
  )
  assert code == 0, error
