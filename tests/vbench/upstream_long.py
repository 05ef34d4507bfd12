"""Calls VBench-Long by itself on folders of clips, an answer for each run; runs inside the vbench environment.

It gets at DreamSim and DINOv2 as it does on any machine without a network: from the folders of earlier downloads.
"""

import contextlib
import functools
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).parents[2]))


def settings(dev, root, folder):
    """What vbench2_beta_long/eval_long.py passes on, with --dev_flag and without."""
    unused = Path(folder) / "unused.yaml"
    unused.write_text("{0.01: 1.0, 1.0: 1.0}\n")
    fusing = Path(folder) / "slow_fast_params.yaml"
    fusing.write_text("{w_inclip_sb: 0.5, w_clip2clip_sb: 0.5, w_inclip_bg: 0.5, w_clip2clip_bg: 0.5}\n")
    tables = Path(root) / "long_tables"
    return {
        "sb_clip2clip_feat_extractor": "dinov2" if dev else "dino",
        "bg_clip2clip_feat_extractor": "dreamsim" if dev else "clip",
        "w_inclip": 1.0,
        "w_clip2clip": 0.0,
        "imaging_quality_preprocessing_mode": "longer",
        "use_semantic_splitting": False,
        "dev_flag": dev,
        "static_filter_flag": False,
        "num_of_samples_per_prompt": 5,
        "clip_length_config": str(unused),
        "slow_fast_eval_config": str(fusing),
        "sb_mapping_file_path": str(tables / "subject_mapping_table.yaml") if dev else str(unused),
        "bg_mapping_file_path": str(tables / "background_mapping_table.yaml") if dev else str(unused),
    }


@contextlib.contextmanager
def home(root):
    """A home folder whose `.cache` is DreamSim's folder: there the package keeps and finds its download."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ".cache").symlink_to(Path(root) / "dreamsim_model")
        os.environ["HOME"] = folder
        yield


def evaluate(long, root, run, folder):
    """The package's results for a folder of clips."""
    import vbench

    info = Path(vbench.__file__).parent / "VBench_full_info.json"
    chosen = {"dimension_list": run["dimensions"], **settings(run["dev"], root, folder)}
    runner = long.VBenchLong("cpu", str(info), folder)
    runner.evaluate(run["videos"], "run", local=True, mode="long_custom_input", **chosen)
    return json.loads((Path(folder) / "run_eval_results.json").read_text())


def fused(long, root, run, folder):
    """The package's comparison of one video's frames by its own networks, and its fusion with in-clip scores."""
    answers = {}
    for name, score in run["in_clip"].items():
        module = importlib.import_module(f"vbench2_beta_long.{name}")
        if name == "subject_consistency":
            network = torch.hub.load("facebookresearch/dinov2", "dinov2_vitb14")
            found = module.subject_consistency_dinov2(network, [run["firsts"]], "cpu", False)
        else:
            network, prepare = module.dreamsim(pretrained=True, cache_dir=os.path.expanduser("~/.cache"))
            found = module.background_consistency_dreamsim(network, prepare, [run["firsts"]], "cpu", False)
        inclip = [{"video_path": run["firsts"], "video_results": score}]
        chosen = settings(True, root, folder)
        _, (answers[name],) = long.utils.fuse_inclip_clip2clip(score, found[0], inclip, found[1], name, **chosen)
    return answers


def main() -> None:
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr), home(request["root"]):
        from harness.metrics.vbench_job.upstream_package import long_package

        long = long_package()
        background = importlib.import_module("vbench2_beta_long.background_consistency")
        background.dreamsim = functools.partial(background.dreamsim, device="cpu")  # it asks for CUDA otherwise
        for run in request["runs"]:
            with tempfile.TemporaryDirectory() as folder:
                answer = (fused if "firsts" in run else evaluate)(long, request["root"], run, folder)
            sys.__stdout__.write(json.dumps(answer) + "\n")
            sys.__stdout__.flush()


if __name__ == "__main__":
    main()
