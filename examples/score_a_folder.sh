#!/usr/bin/env bash
# Score clips that exist, named <prompt>-0.mp4, on their first FRAMES frames. No model is needed.
#   examples/score_a_folder.sh CLIPS FRAMES RUN
# The metric is the one of examples/own_metric.py. CLIP, HPSv3 and VBench stand in suites/score.yaml.
set -euo pipefail

examples=$(cd "$(dirname "$0")" && pwd)
clips=$(cd "$1" && pwd)
frames=$2
run=$3

python -m harness run "$examples/../suites/score.yaml" --plugin "$examples/own_metric.py" --out "$run" \
    --set "models.0.options.path=$clips" --set "prompts.clips.folder=$clips" \
    --set "generate.0.frames=$frames" --set 'generate.0.metrics=[lab/brightness]'
