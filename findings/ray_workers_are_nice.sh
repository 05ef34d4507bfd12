#!/usr/bin/env bash
# Ray 2.60.0: every worker process runs at niceness 15, whatever its driver runs at and however many CPUs its task asks
# for. A benchmark in a Ray task or actor therefore yields to any other process of the machine, which the same code
# outside of Ray does not. `ray.init` says nothing of it; RAY_worker_niceness=0 before the start undoes it.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ray==2.60.0

cat > "$folder/nice.py" <<'PYTHON'
import os
import sys

import ray

mine = os.nice(0)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)


@ray.remote(num_cpus=2)
def niceness():
    return os.nice(0)


theirs = ray.get(niceness.remote(), timeout=300)
print(f"ray {ray.__version__}: the driver runs at niceness {mine}, a task with both CPUs at {theirs}")
ray.shutdown()
sys.exit(0 if theirs == 15 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/nice.py"
if RAY_worker_niceness=0 "$folder/venv/bin/python" "$folder/nice.py"; then
    echo "RAY_worker_niceness=0 changes nothing any more" >&2
    exit 1
fi
