#!/usr/bin/env bash
# statsmodels 0.15.0: multipletests(method="holm") counts a NaN p-value as one more test, so that a comparison which
# could not be made makes the others weaker, and returns no warning. Adjusted for the tests that exist, 0.02 of (0.02,
# 0.5) is 0.04; beside one NaN it is 0.06.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet statsmodels==0.15.0

cat > "$folder/holm.py" <<'PYTHON'
import sys
import numpy as np, statsmodels
from statsmodels.stats.multitest import multipletests

two = multipletests([0.02, 0.5], method="holm")[1]
beside = multipletests([0.02, 0.5, np.nan], method="holm")[1]
print(f"statsmodels {statsmodels.__version__}: 0.02 adjusted beside 0.5 is {two[0]:.2f}, beside 0.5 and NaN {beside[0]:.2f}")
sys.exit(0 if np.isclose(two[0], 0.04) and np.isclose(beside[0], 0.06) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/holm.py"
