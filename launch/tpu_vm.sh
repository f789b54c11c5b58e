#!/usr/bin/env bash
# Runs a job on a Cloud TPU VM: create, install, run on all workers, follow the
# output, fetch what it wrote into runs/NAME, delete. After a preemption it
# creates the VM again, puts the fetched files back, and the job resumes.
#
#   launch/tpu_vm.sh [--dry-run] [--keep] [--spot] [-- JOB ARGUMENTS]
#
#   --dry-run   print the commands and run none
#   --keep      leave the VM running at the end
#   --spot      a preemptible VM, at a lower price
#
# Arguments behind -- go to eos_jax.main (default: --config=configs/search.py).
# Environment: NAME, ZONE, TYPE (accelerator type), IMAGE (runtime version),
# PROJECT (default: gcloud's own), RETRIES (VMs to create at most), FETCH
# (seconds between copies of runs/ while the job runs), WAIT (seconds before a
# retry).
set -euo pipefail

NAME="${NAME:-eos-jax}"
ZONE="${ZONE:-us-west4-a}"
TYPE="${TYPE:-v5litepod-8}"
IMAGE="${IMAGE:-v2-alpha-tpuv5-lite}"
RETRIES="${RETRIES:-5}"
FETCH="${FETCH:-300}"
WAIT="${WAIT:-30}"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
RUNS="$ROOT/runs/$NAME"

dry=0
keep=0
options=()
while (($#)); do
  case "$1" in
    --dry-run) dry=1 ;;
    --keep) keep=1 ;;
    --spot) options+=(--spot) ;;
    --) shift; break ;;
    *) echo "error: unknown option $1; arguments of the job come after --" >&2
       exit 2 ;;
  esac
  shift
done
job=("$@")
((${#job[@]})) || job=(--config=configs/search.py)
# Before anything is created: what no retry can mend.
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

place=("--zone=$ZONE")
[[ -z "${PROJECT:-}" ]] || place+=("--project=$PROJECT")

run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  ((dry)) || "$@"
}
tpu() { run gcloud compute tpus tpu-vm "$@" "${place[@]}" --quiet; }
on() { tpu ssh "$NAME" --worker="$1" --command="$2"; }

# What is copied during a save may be half a checkpoint: a run that resumes
# falls back to the one before.
fetch() {
  ((dry)) || mkdir -p "$ROOT/runs"
  tpu scp --recurse "$NAME:eos_jax/runs/." "$RUNS" --worker=0
}

state() {
  ((dry)) && return
  gcloud compute tpus tpu-vm describe "$NAME" "${place[@]}" \
    --format='value(state)' 2> /dev/null || echo GONE
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
    ((created)) && echo "the VM $NAME is still running" >&2
  elif ((created)); then
    tpu delete "$NAME" || echo "warning: the VM $NAME may still exist" >&2
  fi
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

set_up() {
  created=1
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$IMAGE" \
    ${options[@]+"${options[@]}"} || return
  tpu scp "$archive" "$NAME:eos_jax.tar.gz" --worker=all || return
  # The images' own Python is older than 3.11; uv brings one of its own.
  on all "mkdir -p eos_jax/runs && tar -xzf eos_jax.tar.gz -C eos_jax \
&& python3 -m pip install --quiet --user uv \
&& python3 -m uv venv --quiet --python 3.12 venv \
&& python3 -m uv pip install --quiet --python venv/bin/python -e 'eos_jax[tpu]'" \
    || return
  if [[ -d "$RUNS" ]]; then
    tpu scp --recurse "$RUNS/." "$NAME:eos_jax/runs" --worker=all || return
  fi
  # Every worker runs the same command; on TPU jax finds its peers by itself.
  # The job outlives the connection that starts it.
  printf -v line ' %q' "${job[@]}"
  printf -v line '%q' "../venv/bin/python -m eos_jax.main$line > job.log 2>&1; \
echo \$? > job.rc"
  on all "cd eos_jax && rm -f job.rc && { nohup sh -c $line > /dev/null 2>&1 & \
echo \$! > job.pid; }"
}

# Shows the job's output until it ends; its exit status, or that of a broken
# connection.
follow() {
  on 0 "cd eos_jax && tail -n ${1:-+1} --pid=\$(cat job.pid) -F job.log; \
exit \$(cat job.rc)"
}

run git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD
status=1
for ((attempt = 1; attempt <= RETRIES; attempt++)); do
  if ((attempt > 1)); then
    echo "the VM $NAME is gone; attempt $attempt of $RETRIES" >&2
    tpu delete "$NAME" || true
    run sleep "$WAIT"
  fi
  set_up || continue
  if ! ((dry)); then
    (while sleep "$FETCH"; do fetch || true; done) > /dev/null 2>&1 &
    fetcher=$!
  fi
  status=0
  follow || status=$?
  # A connection may break while the VM is well and the job goes on.
  for ((again = 0; status == 255 && again < RETRIES; again++)); do
    [[ "$(state)" == READY ]] || break
    run sleep "$WAIT"
    status=0
    follow 20 || status=$?
  done
  [[ -z "$fetcher" ]] || kill "$fetcher" 2> /dev/null || true
  fetcher=""
  if ((dry)) || [[ "$(state)" == READY ]]; then
    fetch || status=$?
    exit "$status"
  fi
done
echo "error: gave up after $RETRIES VMs; what was fetched lies in $RUNS" >&2
exit 1
