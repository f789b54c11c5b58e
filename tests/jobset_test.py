"""The manifest for GKE says what JobSet and the job need, and no more."""

import math
import pathlib
import re
import runpy

import pytest
import yaml

from eos_jax import main, models, tasks
from eos_jax.training import settings

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
# What JobSet's API requires below each object, and what it allows of it here.
FIELDS = {
  "": ({"apiVersion", "kind", "metadata", "spec"}, set()),
  "metadata": ({"name"}, {"annotations", "labels"}),
  "spec": ({"replicatedJobs"}, {"failurePolicy", "network", "successPolicy"}),
  "spec.failurePolicy": ({"maxRestarts"}, {"rules"}),
  "spec.replicatedJobs": ({"name", "template"}, {"replicas"}),
  "spec.replicatedJobs.template": ({"spec"}, {"metadata"}),
  "spec.replicatedJobs.template.spec": (
    {"template", "parallelism", "completions", "backoffLimit"},
    set(),
  ),
  "spec.replicatedJobs.template.spec.template": ({"spec"}, {"metadata"}),
  "spec.replicatedJobs.template.spec.template.spec": (
    {"containers", "restartPolicy", "nodeSelector"},
    {"hostNetwork", "dnsPolicy", "volumes", "terminationGracePeriodSeconds"},
  ),
  "spec.replicatedJobs.template.spec.template.spec.containers": (
    {"name", "image", "args", "resources"},
    {"volumeMounts"},
  ),
}


def _manifest():
  return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text("utf-8"))


def _faults(manifest):
  """Fields that are missing or that the API does not know, by their place."""
  found = []
  for place, (needed, allowed) in FIELDS.items():
    levels = [manifest]
    for name in filter(None, place.split(".")):
      under = [level[name] for level in levels if name in level]
      levels = [
        entry
        for value in under
        for entry in (value if isinstance(value, list) else [value])
      ]
    for level in levels:
      found += [f"{place}: no {name}" for name in sorted(needed - set(level))]
      more = sorted(set(level) - needed - allowed)
      found += [f"{place}: unknown {name}" for name in more]
  return found


def _pod(manifest):
  (job,) = manifest["spec"]["replicatedJobs"]
  return job, job["template"]["spec"]["template"]["spec"]


def test_the_fields_are_those_of_jobset():
  manifest = _manifest()
  assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert manifest["kind"] == "JobSet"
  assert not _faults(manifest)
  assert re.fullmatch(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"]
  )
  _, pod = _pod(manifest)
  assert pod["restartPolicy"] in ("Never", "OnFailure")


@pytest.mark.parametrize(
  "name", ["containers", "restartPolicy", "nodeSelector"]
)
def test_a_missing_field_is_seen(name):
  manifest = _manifest()
  _, pod = _pod(manifest)
  value = pod.pop(name)
  assert any(fault.endswith(f"no {name}") for fault in _faults(manifest))
  pod[f"{name}s"] = value
  assert any("unknown" in fault for fault in _faults(manifest))


def test_the_numbers_belong_together():
  job, pod = _pod(_manifest())
  (container,) = pod["containers"]
  selector = pod["nodeSelector"]
  topology = selector["cloud.google.com/gke-tpu-topology"]
  chips = math.prod(map(int, topology.split("x")))
  hosts = chips // container["resources"]["limits"]["google.com/tpu"]
  spec = job["template"]["spec"]
  assert spec["parallelism"] == spec["completions"] == hosts
  args = dict(
    arg.removeprefix("--").partition("=")[::2] for arg in container["args"]
  )
  assert int(args["process_count"]) == hosts * job["replicas"]
  assert int(args["device_count"]) == chips * job["replicas"]
  assert "distributed" in args
  mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
  assert any(args["workdir"].startswith(f"{path}/") for path in mounts)
  volumes = {volume["name"] for volume in pod["volumes"]}
  assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_the_job_would_start():
  """Its flags exist, and its batches can be cut over its chips."""
  job, pod = _pod(_manifest())
  args = pod["containers"][0]["args"]
  file = LAUNCH.parent / "configs" / "search.py"
  config = runpy.run_path(str(file))["get_config"]("")
  devices = 0
  for arg in args:
    name, _, value = arg.removeprefix("--").partition("=")
    if name.startswith("config."):
      with config.unlocked():
        config.update_from_flattened_dict(
          {name.removeprefix("config."): int(value)}
        )
    elif name != "config":
      assert name in main.flags.FLAGS, name
    if name == "device_count":
      devices = int(value)
  values = config.to_dict()
  task = tasks.TASKS[values.pop("task")]
  assert not task.alone
  made = settings.build(task.settings, values)
  made = made.for_model(models.tiny_config())
  for size in (made.batch, made.check_batch, made.evaluation.batch):
    assert size % devices == 0
  assert job["replicas"] == 1


def test_the_image_holds_what_the_job_reads():
  text = (LAUNCH / "Dockerfile").read_text(encoding="utf-8")
  copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
  files = [name for line in copied for name in line.split()]
  assert {"setup.py", "README.md", "eos_jax", "configs"} <= set(files)
  assert all((LAUNCH.parent / name).exists() for name in files)
  assert '["python", "-m", "eos_jax.main"]' in text
