"""How bright a clip is."""

from harness.contracts import Clip, Metric, Value
from harness.contracts.registry import metrics


@metrics.register("lab/brightness")
class Brightness(Metric):
    values = (Value("brightness", "", "none", "mean of all pixels"),)

    def score(self, clip: Clip) -> dict[str, float]:
        return {"brightness": float(clip.read().mean())}
