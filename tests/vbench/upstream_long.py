"""Calls VBench-Long by itself on a folder of clips; runs inside the vbench environment."""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).parents[2]))


def main() -> None:
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        from harness.metrics.vbench_inside.upstream_long import package

        long = package()
        import vbench

        unused = Path(folder) / "unused.yaml"
        unused.write_text("{0.01: 1.0, 1.0: 1.0}\n")
        # The defaults of vbench2_beta_long/eval_long.py without --dev_flag.
        settings = {
            "sb_clip2clip_feat_extractor": "dino",
            "bg_clip2clip_feat_extractor": "clip",
            "w_inclip": 1.0,
            "w_clip2clip": 0.0,
            "imaging_quality_preprocessing_mode": "longer",
            "use_semantic_splitting": False,
            "dev_flag": False,
            "static_filter_flag": False,
            "num_of_samples_per_prompt": 5,
            "clip_length_config": str(unused),
            "slow_fast_eval_config": str(unused),
            "sb_mapping_file_path": str(unused),
            "bg_mapping_file_path": str(unused),
        }
        info = Path(vbench.__file__).parent / "VBench_full_info.json"
        runner = long("cpu", str(info), folder)
        runner.evaluate(
            request["videos"],
            "run",
            dimension_list=request["dimensions"],
            local=True,
            mode="long_custom_input",
            **settings,
        )
        results = json.loads((Path(folder) / "run_eval_results.json").read_text())
    print(json.dumps(results))


if __name__ == "__main__":
    main()
