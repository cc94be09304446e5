#!/usr/bin/env python3
"""Ask a cluster that has the chart's CRDs and policies about every case of admission.yaml, changing
nothing but a RoleBinding, which is taken away again. Usage: admission.py NAMESPACE"""

import json
import pathlib
import subprocess
import sys

import yaml

LIMITED = "system:serviceaccount:{}:sluice-limited-author"


def kubectl(*args, manifest=None):
    return subprocess.run(
        ["kubectl", *args],
        input=json.dumps(manifest) if manifest else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check(namespace, number, case):
    manifest = {
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": f"case-{number}", "namespace": namespace},
        "spec": {"model": {"format": "InImage"}, "runtime": case["runtime"]},
    }
    limited = [f"--as={LIMITED.format(namespace)}"] if case.get("author") == "limited" else []
    answer = kubectl("create", "--dry-run=server", "-f", "-", *limited, manifest=manifest)
    if not case["refused"]:
        return None if answer.returncode == 0 else f"refused: {answer.stderr.strip()}"
    if answer.returncode == 0:
        return "accepted"
    # Only a validation's own message says "denied request"; an expression that fails says so.
    if "resulted in error" in answer.stderr or case["refused"] not in answer.stderr:
        return f"wanted {case['refused']!r}: {answer.stderr.strip()}"
    return None


def main():
    namespace = sys.argv[1]
    cases = yaml.safe_load(pathlib.Path(__file__).with_name("admission.yaml").read_text())
    binding = ["rolebinding", "sluice-limited-author", "--namespace", namespace]
    author = f"--serviceaccount={namespace}:sluice-limited-author"
    made = kubectl("create", *binding, "--clusterrole=sluice-edit", author)
    if made.returncode:
        sys.exit(made.stderr)
    try:
        wrong = 0
        for number, case in enumerate(cases):
            problem = check(namespace, number, case)
            wrong += problem is not None
            print(f"{'FAIL' if problem else 'ok'}  {case['name']}{': ' + problem if problem else ''}")
    finally:
        kubectl("delete", *binding)
    sys.exit(f"{wrong} of {len(cases)} cases are wrong" if wrong else 0)


if __name__ == "__main__":
    main()
