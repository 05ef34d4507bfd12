"""What the commands do, in Python: `python examples/notebook_api.py`, or cell by cell in a notebook."""

# %%
from pathlib import Path

import harness

examples = Path(__file__).parent
plugins = [examples / "own_model.py", examples / "own_metric.py"]

# %% harness run: does what has no record yet
outcome = harness.run(examples / "own.yaml", plugins=plugins)
runs = harness.read_runs(outcome.folder)

# %% every score of every clip
scores = runs.to_frame().query("value == 'brightness' and status == 'ok'")
print(scores.groupby("arm")["number"].describe().round(2))

# %% harness table
for table in harness.tables(runs):
    print(table)

# %% harness compare
comparison = harness.compare(runs, "videomla", "bar", ["short:frame_accuracy", "short:brightness"])
print(comparison.to_frame()[["value", "first", "second", "change", "low", "high", "verdict"]])
