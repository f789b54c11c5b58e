#!/usr/bin/env bash
# Runs a job on Cloud TPUs: create, install, run on all workers, follow the
# output, fetch what it wrote into runs/NAME, delete. After a preemption it
# creates them again, puts the fetched files back, and the job resumes.
#
#   launch/tpu_vm.sh [--dry-run] [--keep] [--spot] [--queued] [--slices=N]
#                    [-- JOB ARGUMENTS]
#
#   --dry-run   print the commands and run none
#   --keep      leave the TPUs running at the end
#   --spot      preemptible ones, at a lower price
#   --queued    wait for them in Google's queue (a queued resource)
#   --slices=N  several slices of TYPE, one job; they are queued. Needs SHARE
#
# Arguments behind -- go to eos_jax.main (default: --config=configs/search.py).
# Environment: NAME, ZONE, TYPE (accelerator type), IMAGE (runtime version),
# PROJECT (default: gcloud's own), RETRIES (times to create at most), FETCH
# (seconds between copies of runs/ while the job runs), WAIT (seconds before a
# retry, and between looks at the queue), SHARE (HOST:/DIR of NFS, such as
# Filestore's, where more than one host writes; the job gets --distributed).
set -euo pipefail

# Stops at a value that is not of a form; both are shown. What passes is safe in
# paths, in arithmetic, and in commands for the VMs.
expect() {
  local LC_ALL=C
  [[ "$2" =~ ^($3)$ ]] && return
  printf 'error: %s is %q; use %s\n' "$1" "$2" "$4" >&2
  exit 2
}

# Text as one word of any POSIX shell: printf's $'...' is bash's alone.
quoted() {
  local LC_ALL=C text="$1" word="'" at
  if [[ -n "$text" && "$text" != *[![:print:]]* ]]; then
    printf %q "$text"
    return
  fi
  for ((at = 0; at < ${#text}; at++)); do
    case "${text:at:1}" in
      "'") word+="'\\''" ;;
      *) word+="${text:at:1}" ;;
    esac
  done
  printf "%s'" "$word"
}

NAME="${NAME:-eos-jax}"
ZONE="${ZONE:-us-west4-a}"
TYPE="${TYPE:-v5litepod-8}"
IMAGE="${IMAGE:-v2-alpha-tpuv5-lite}"
RETRIES="${RETRIES:-5}"
FETCH="${FETCH:-300}"
WAIT="${WAIT:-30}"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
RUNS="$ROOT/runs/$NAME"
SHARE="${SHARE:-}"
expect NAME "$NAME" '[a-z]([-a-z0-9]{0,50}[a-z0-9])?' \
  "small letters, digits and -, from a letter, at most 52"
expect ZONE "$ZONE" '[a-z][-a-z0-9]{0,60}' "a zone such as us-west4-a"
expect TYPE "$TYPE" '[a-z][-a-z0-9]{0,60}' "a type such as v5litepod-8"
expect IMAGE "$IMAGE" '[a-z0-9][-a-z0-9._]{0,99}' \
  "a runtime version such as v2-alpha-tpuv5-lite"
expect RETRIES "$RETRIES" '[1-9][0-9]{0,3}' "a whole number in 1..9999"
expect FETCH "$FETCH" '[0-9]{1,6}(\.[0-9]{1,3})?' "seconds, such as 300"
expect WAIT "$WAIT" '[0-9]{1,6}(\.[0-9]{1,3})?' "seconds, such as 30"
expect SHARE "$SHARE" \
  '(([A-Za-z0-9][-A-Za-z0-9.]*|\[[0-9A-Fa-f:]+\]):/[-A-Za-z0-9._/]*)?' \
  "HOST:/DIR of an NFS export, such as 10.0.0.2:/runs"

dry=0
keep=0
queued=0
slices=1
options=()
while (($#)); do
  case "$1" in
    --dry-run) dry=1 ;;
    --keep) keep=1 ;;
    --spot) options+=(--spot) ;;
    --queued) queued=1 ;;
    --slices=*)
      slices="${1#*=}"
      queued=1
      if ! [[ "$slices" =~ ^([1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-6])$ ]]
      then
        printf 'error: --slices=%q is no number of slices; use 1 to 256\n' \
          "$slices" >&2
        exit 2
      fi
      ;;
    --) shift; break ;;
    *)
      printf 'error: unknown option %q; arguments of the job come after --\n' \
        "$1" >&2
      exit 2
      ;;
  esac
  shift
done
job=("$@")
((${#job[@]})) || job=(--config=configs/search.py)
# Before anything is created: what no retry can mend.
if ((slices > 1)) && [[ -z "$SHARE" ]]; then
  echo "error: $slices slices write checkpoints together; set SHARE=HOST:/DIR to\
 an NFS export that all of them reach" >&2
  exit 2
fi
[[ -z "$SHARE" ]] || job+=(--distributed)
# Every worker runs the same command; on TPU jax finds its peers by itself.
line="../venv/bin/python -m eos_jax.main"
for argument in "${job[@]}"; do line+=" $(quoted "$argument")"; done
line="$(quoted "$line > job.log 2>&1; echo \$? > job.rc")"
if ((${#line} > 100000)); then
  echo "error: the job's arguments are too long for one command; put them into\
 a config file" >&2
  exit 2
fi
if ! ((dry)); then
  if ! command -v gcloud > /dev/null; then
    echo "error: gcloud is not on the PATH; install the Google Cloud CLI, or use\
 --dry-run to see the commands" >&2
    exit 2
  fi
  PROJECT="${PROJECT:-$(gcloud config get-value project 2> /dev/null || true)}"
  if [[ -z "$PROJECT" || "$PROJECT" == "(unset)" ]]; then
    echo "error: gcloud has no project; set PROJECT, or run gcloud config set\
 project ID" >&2
    exit 2
  fi
fi
[[ -z "${PROJECT:-}" ]] || expect PROJECT "$PROJECT" \
  '([a-z0-9][-a-z0-9.]{0,60}:)?[a-z0-9][-a-z0-9]{0,60}' "a project's ID"

# One slice is a node; of several each has a name of its own.
nodes=("$NAME")
if ((slices > 1)); then
  nodes=()
  for ((node = 0; node < slices; node++)); do nodes+=("$NAME-$node"); done
fi

place=("--zone=$ZONE")
[[ -z "${PROJECT:-}" ]] || place+=("--project=$PROJECT")

run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  ((dry)) || "$@"
}
tpu() { run gcloud compute tpus tpu-vm "$@" "${place[@]}" --quiet; }
queue() { run gcloud compute tpus queued-resources "$@" "${place[@]}" --quiet; }

# Where a command runs: "first", the first host of all, or "all".
on() {
  if [[ "$1" == first ]]; then
    ssh_to "${nodes[0]}" 0 "$2"
  else
    each ssh_to all "$2"
  fi
}

# A node, which of its hosts, and a command.
ssh_to() { tpu ssh "$1" --worker="$2" --command="$3"; }

# A node, a place there, and what to copy, with options before it.
# shellcheck disable=SC2329  # `each` calls it
copy_to() { tpu scp "${@:3}" "$1:$2" --worker=all; }

# A function on all nodes at once: each is its first argument.
each() {
  local node pid pids=() failed=0
  for node in "${nodes[@]}"; do
    "$1" "$node" "${@:2}" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=$?; done
  return "$failed"
}

create() {
  if ! ((queued)); then
    tpu create "$NAME" --accelerator-type="$TYPE" --version="$IMAGE" \
      ${options[@]+"${options[@]}"}
    return
  fi
  local which=("--node-id=$NAME")
  ((slices == 1)) || which=("--node-count=$slices" "--node-prefix=$NAME")
  queue create "$NAME" "${which[@]}" --accelerator-type="$TYPE" \
    --runtime-version="$IMAGE" ${options[@]+"${options[@]}"} || return
  ((dry)) && return
  local now before=""
  while now="$(state)"; do
    [[ "$now" == "$before" ]] || echo "$NAME in the queue: $now" >&2
    case "$now" in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | GONE) return 1 ;;
    esac
    before="$now"
    sleep "$WAIT"
  done
}

delete() {
  if ((queued)); then
    queue delete "$NAME" --force
  else
    tpu delete "$NAME"
  fi
}

# What is copied during a save may be half a checkpoint: a run that resumes
# falls back to the one before.
fetch() {
  ((dry)) || mkdir -p "$ROOT/runs"
  tpu scp --recurse "${nodes[0]}:eos_jax/runs/." "$RUNS" --worker=0
}

state() {
  local kind=tpu-vm field=state
  ((queued)) && kind="queued-resources" && field="state.state"
  gcloud compute tpus "$kind" describe "$NAME" "${place[@]}" \
    --format="value($field)" 2> /dev/null || echo GONE
}

# Whether the TPUs are there and well.
alive() {
  ((dry)) || [[ "$(state)" == READY || "$(state)" == ACTIVE ]]
}

created=0
archive="$(mktemp -t eos_jax.XXXXXX)"
fetcher=""
# shellcheck disable=SC2329  # the trap calls it
cleanup() {
  status=$?
  trap - EXIT INT TERM
  [[ -z "$fetcher" ]] || kill "$fetcher" 2> /dev/null || true
  rm -f "$archive"
  if ((keep)); then
    ((created)) && echo "$NAME is still running" >&2
  elif ((created)); then
    delete || echo "warning: $NAME may still exist" >&2
  fi
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

set_up() {
  created=1
  create || return
  each copy_to eos_jax.tar.gz "$archive" || return
  local mount=true
  if [[ -n "$SHARE" ]]; then
    mount="sudo apt-get install --yes --quiet nfs-common"
    mount+=" && sudo mount -t nfs $(quoted "$SHARE") eos_jax/runs"
  fi
  # The images' own Python is older than 3.11; uv brings one of its own.
  on all "mkdir -p eos_jax/runs && tar -xzf eos_jax.tar.gz -C eos_jax \
&& $mount \
&& python3 -m pip install --quiet --user uv \
&& python3 -m uv venv --quiet --python 3.12 venv \
&& python3 -m uv pip install --quiet --python venv/bin/python -e 'eos_jax[tpu]'" \
    || return
  if [[ -d "$RUNS" && -z "$SHARE" ]]; then
    each copy_to eos_jax/runs --recurse "$RUNS/." || return
  fi
  # The job outlives the connection that starts it.
  on all "cd eos_jax && rm -f job.rc && { nohup sh -c $line > /dev/null 2>&1 & \
echo \$! > job.pid; }"
}

# Shows the job's output until it ends; its exit status, or that of a broken
# connection.
follow() {
  on first "cd eos_jax && tail -n ${1:-+1} --pid=\$(cat job.pid) -F job.log; \
exit \$(cat job.rc)"
}

run git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD
status=1
for ((attempt = 1; attempt <= RETRIES; attempt++)); do
  if ((attempt > 1)); then
    echo "$NAME is gone; attempt $attempt of $RETRIES" >&2
    delete || true
    run sleep "$WAIT"
  fi
  set_up || continue
  if ! ((dry)); then
    (while sleep "$FETCH"; do fetch || true; done) > /dev/null 2>&1 &
    fetcher=$!
  fi
  status=0
  follow || status=$?
  # A connection may break while the TPUs are well and the job goes on.
  for ((again = 0; status == 255 && again < RETRIES; again++)); do
    alive || break
    run sleep "$WAIT"
    status=0
    follow 20 || status=$?
  done
  [[ -z "$fetcher" ]] || kill "$fetcher" 2> /dev/null || true
  fetcher=""
  if alive; then
    fetch || status=$?
    exit "$status"
  fi
done
echo "error: gave up after $RETRIES attempts; what was fetched lies in $RUNS" >&2
exit 1
