"""Plan, table and list where torch is not installed: python tests/check_minimal.py, from the repository's root."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "triton")


def harness(*arguments: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([sys.executable, "-m", "harness", *arguments], capture_output=True, text=True, check=False)
    print(f"harness {' '.join(arguments)}: exit {done.returncode}")
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def main() -> None:
    for name in HEAVY:
        if importlib.util.find_spec(name):
            sys.exit(f"{name} is installed here, so this shows nothing")
    for kind in ("models", "metrics", "probes", "suites"):
        listed = harness("list", kind)
        if "cannot be imported" in listed:
            sys.exit(listed)
    if " units on cpu" not in harness("plan", str(ROOT / "suites" / "quickstart.yaml"), "--set", "device=cpu"):
        sys.exit("the plan has no units")
    with tempfile.TemporaryDirectory() as name:
        sys.path.insert(0, str(ROOT / "tests" / "data"))
        import run_folders

        run_folders.write_run(Path(name), [run_folders.Arm("dense", [0.5] * 4), run_folders.Arm("latent", [0.6] * 4)])
        printed = harness("table", name, "--plugin", str(ROOT / "tests" / "data" / "run_folders.py"))
        if "0.600" not in printed:
            sys.exit(printed)
        harness("page", name, "--plugin", str(ROOT / "tests" / "data" / "run_folders.py"))
    if any((ROOT / "results").rglob("plan.json")):
        harness("table", "--all", "results", "--check")


if __name__ == "__main__":
    main()
