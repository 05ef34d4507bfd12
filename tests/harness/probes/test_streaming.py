import math
import random
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import ProbeContext, Subject, Switch, Workload
from harness.errors import ModelFault, OptionError
from harness.probes.streaming import MEDIANS, Streaming, StreamingOptions
from harness.probes.timing import caching_audit, flops
from harness.probes.timing.clock import Clock, ClockFault
from harness.probes.timing.flops import PEAK_BYTES, PEAK_FLOPS
from harness.report import table
from harness.report.samples import doubts
from harness.runs.measured import judgement, record_notes, record_values
from harness.system import devices

PROMPTS = ("a red circle", "a blue square", "a green star")
# What the fake model puts into a chunk, in seconds, unless a test says otherwise.
DENOISE, CLEAN, DECODE, TO_HOST = 0.04, 0.01, 0.02, 0.005
CHUNK = DENOISE + CLEAN + DECODE + TO_HOST
HERE = ProbeContext("cpu", Path("unused"))


def run(fake, subject: Subject, *, frames=30, batch=1, switches=(), sleep=lambda s: None, **options):
    chosen = {"warmups": 1, "min_repeats": 6, "min_seconds": 0, "audit_repeats": 0, "count": False, **options}
    probe = Streaming(StreamingOptions(**chosen), Clock("cpu", now=fake.TIME.now), sleep)
    return probe.measure(subject, Workload(PROMPTS, (0, 1), frames, batch, tuple(switches)), HERE)


def marks(measurement):
    """The marks of a table over what a record holds of the measurement."""
    values = record_values("probe streaming", Streaming.values, measurement)
    return doubts([judgement(values, record_notes("probe streaming", Streaming, measurement))])


def close(value, expected):
    return value == pytest.approx(expected, rel=0.01)


def test_fixed_delays_come_out_as_they_were_put_in(fake, subject):
    found = run(fake, subject(text_s=0.1, prefix_s=0.2, load_s=3.0)).values
    assert close(found["denoise_fps"], 3 / (DENOISE + CLEAN))
    assert close(found["decode_fps"], 3 / (DENOISE + CLEAN + DECODE))
    assert close(found["end_to_end_fps"], 3 / CHUNK)
    assert close(found["clip_s"], 0.3 + 10 * CHUNK)
    assert close(found["clip_fps"], 30 / (0.3 + 10 * CHUNK))
    assert close(found["first_chunk_s"], 0.3 + CHUNK)
    assert close(found["chunk_s"], CHUNK)
    assert close(found["gap_p90_s"], CHUNK)
    assert close(found["gap_worst_s"], CHUNK)
    assert close(found["real_time_factor"], 3 / CHUNK / 16)
    assert close(found["load_s"], 3.0)
    assert found["clip_iqr_s"] == 0


def test_stages_add_up_to_the_end_to_end_time(fake, subject):
    found = run(fake, subject(text_s=0.1, prefix_s=0.2, jitter=0.3))
    assert found.values["stage_share"] == pytest.approx(1, abs=0.02)
    stages = [name for name in found.samples if name.startswith("stage:")]
    total = sum(found.samples[name][0] for name in stages)
    assert total == pytest.approx(found.samples["clip_s"][0], rel=0.02)
    assert close(found.samples["stage:decode_s"][0], 10 * DECODE)
    assert "stages_do_not_add_up" not in found.notes


def test_every_stage_of_every_chunk_is_kept(fake, subject):
    found = run(fake, subject(text_s=0.1, growth_s=0.01, window_frames=9, stall_chunk=5, stall_s=0.7), frames=30)
    # Chunks 0, 1 and 2 see 0, 3 and 6 cached frames, later ones 9; the eleventh place holds what belongs to no chunk.
    seen = [DENOISE + 0.01 * latents for latents in (0, 3, 6, *[9] * 7)]
    seen[5] += 0.7
    expected = {
        "text": [0.1, *[0.0] * 10],
        "chunk.denoise": [*seen, 0.0],
        "chunk.clean_pass": [*[CLEAN] * 10, 0.0],
        "decode": [*[DECODE] * 10, 0.0],
        "to_host": [*[TO_HOST] * 10, 0.0],
    }
    for stage, seconds in expected.items():
        assert found.samples[f"chunks:{stage}_s"] == pytest.approx(seconds * 6), stage
        assert found.samples[f"stage:{stage}_s"] == pytest.approx([sum(seconds)] * 6), stage


def test_a_median_has_its_samples_under_its_own_name(fake, subject):
    switch = Switch(15, ("a red square", "a blue star", "a green ring"))
    found = run(fake, subject(jitter=0.3, switch_s=0.3), switches=[switch], min_repeats=7, half_width=0.9)
    for name in MEDIANS:
        assert len(found.samples[name]) == 7, name
        assert len(set(found.samples[name])) == 7, name
        assert found.values[name] == sorted(found.samples[name])[3], name


def test_time_outside_every_stage_is_told(fake, subject):
    found = run(fake, subject(untimed_s=0.025))
    assert close(found.values["stage_share"], 0.75)
    assert "75.0%" in found.notes["stages_do_not_add_up"]


def test_the_headline_waits_until_the_window_is_full(fake, subject):
    found = run(fake, subject(growth_s=0.01, window_frames=9))
    # Chunks 0, 1 and 2 see 0, 3 and 6 cached frames; from chunk 3 on the cache holds its nine.
    assert found.notes["steady_chunks"] == [3, 4, 5, 6, 7, 8, 9]
    assert "window of 9 latent frames full" in found.notes["steady_rule"]
    assert close(found.values["chunk_s"], CHUNK + 0.09)
    assert close(found.values["end_to_end_fps"], 3 / (CHUNK + 0.09))
    assert found.values["clip_fps"] > 1.05 * found.values["end_to_end_fps"]
    by_index = found.samples["chunk_s_by_index"]
    assert by_index[:4] == pytest.approx([CHUNK, CHUNK + 0.03, CHUNK + 0.06, CHUNK + 0.09])


def test_a_window_that_never_fills_gives_the_last_half_and_says_so(fake, subject):
    found = run(fake, subject(growth_s=0.01, window_frames=60))
    assert found.notes["steady_chunks"] == [5, 6, 7, 8, 9]
    assert found.notes["steady_rule"].startswith("window never full before a whole chunk: last half")


@pytest.mark.parametrize(
    ("frames", "chosen", "chunks"),
    [
        # 14 chunks of 3, the last of 1: it takes as long as the others, and would cost 5 % of the rate.
        (40, {}, range(3, 13)),
        (40, {"window_frames": 60}, range(6, 13)),
        # Full before the last chunk alone, which is cut short: then the last half of the whole ones.
        (40, {"window_frames": 39}, range(6, 13)),
        (39, {}, range(3, 13)),
        (4, {}, [0]),
        (2, {}, [0]),
        # A first chunk of 9 and a last of 10, where whole ones hold 12.
        (19, {"frames_per_chunk": 12, "temporal_ratio": 4}, [0]),
    ],
)
def test_a_last_chunk_that_is_cut_short_stays_out_of_the_headline(fake, subject, frames, chosen, chunks):
    found = run(fake, subject(**chosen), frames=frames)
    sizes = found.notes["frames_per_chunk"]
    assert found.notes["steady_chunks"] == list(chunks)
    rate = sum(sizes[i] for i in chunks) / (len(chunks) * CHUNK)
    assert close(found.values["end_to_end_fps"], rate)
    assert close(found.values["real_time_factor"], rate / 16)
    cut = len(sizes) > 1 and sizes[-1] < chosen.get("frames_per_chunk", 3)
    assert ("cut short to" in found.notes["steady_rule"]) is cut


def test_latent_frames_count_the_first_one_once(fake, subject):
    # 1 + 2 x 4 pixel frames, then 12 a chunk: three latent frames each, as Wan's decoder gives them.
    found = run(fake, subject(frames_per_chunk=12, temporal_ratio=4, window_frames=6), frames=81)
    assert found.notes["frames_per_chunk"] == [9, 12, 12, 12, 12, 12, 12]
    assert found.notes["steady_chunks"] == [2, 3, 4, 5, 6]
    assert close(found.values["end_to_end_fps"], 12 / CHUNK)


def test_a_slow_first_chunk_stays_out_of_the_gaps(fake, subject):
    found = run(fake, subject(first_extra_s=0.5)).values
    assert close(found["first_chunk_s"], CHUNK + 0.5)
    assert close(found["gap_worst_s"], CHUNK)
    assert close(found["end_to_end_fps"], 3 / CHUNK)


def test_a_stall_is_the_worst_gap_and_not_the_median(fake, subject):
    found = run(fake, subject(stall_chunk=1, stall_s=0.7)).values
    assert close(found["gap_worst_s"], CHUNK + 0.7)
    assert close(found["chunk_s"], CHUNK)


def test_jitter_shows_in_the_percentiles(fake, subject):
    found = run(fake, subject(jitter=0.5), min_repeats=300, half_width=0.5)
    # Uniform on the denoising delay: its p-th percentile is known.
    assert close(found.values["gap_p50_s"], CHUNK)
    assert close(found.values["gap_p90_s"], CHUNK + DENOISE * 0.5 * 0.8)
    assert close(found.values["gap_p99_s"], CHUNK + DENOISE * 0.5 * 0.98)
    assert len(found.samples["gap_s"]) == 3000


def test_a_percentile_without_enough_samples_is_not_a_number(fake, subject):
    found = run(fake, subject(), frames=12, min_repeats=6)
    # One steady chunk in each of six clips: enough for a median, not for a tail.
    assert close(found.values["gap_p50_s"], CHUNK)
    assert math.isnan(found.values["gap_p90_s"])
    assert math.isnan(found.values["gap_p99_s"])
    assert found.notes["too_few_gaps_for"] == ["p90", "p99"]


def test_a_batch_counts_the_frames_of_all_its_clips(fake, subject):
    found = run(fake, subject(per_request_s=0.02), batch=3).values
    seconds = CHUNK + 2 * 0.02
    assert close(found["end_to_end_fps"], 9 / seconds)
    assert close(found["real_time_factor"], 3 / seconds / 16)


def test_a_prompt_switch_is_timed_from_the_chunk_before_it(fake, subject):
    switch = Switch(15, ("a red square", "a blue star", "a green ring"))
    found = run(fake, subject(switch_s=0.3), switches=[switch])
    assert close(found.values["switch_s"], CHUNK + 0.3)
    assert close(found.values["switch_extra_s"], 0.3)
    assert math.isnan(run(fake, subject()).values["switch_s"])


def test_results_cached_by_request_are_caught(fake, subject):
    with pytest.raises(ModelFault, match="results are cached"):
        run(fake, subject(cached="request"), audit_repeats=1)


def test_results_cached_whatever_the_request_are_caught(fake, subject):
    with pytest.raises(ModelFault, match="distinct requests gave 1 different clips"):
        run(fake, subject(cached="anything"), audit_repeats=1)


def test_an_honest_model_passes_the_audit(fake, subject):
    found = run(fake, subject(jitter=0.02), audit_repeats=2)
    assert found.audit.verdict == "passed"
    assert len(found.audit.same_s) == 4
    assert found.values["audit_ratio"] == pytest.approx(1, abs=0.02)


def test_the_agreement_with_the_reference_stands_in_the_record(fake, subject):
    found = run(fake, subject(error=2e-4, window_frames=9), frames=60)
    held = found.agreement
    assert (held.error, held.reference, held.limit, held.compared) == (2e-4, "slow sums", 1e-3, 1)
    # Nine frames fill the window, two chunks more push some out of it; the whole clip tells nothing new.
    assert [request.frames for request in subject.made[0].held] == [15]


def test_speed_without_a_reference_says_so(fake, subject):
    found = run(fake, subject())
    assert found.agreement == "no reference"
    assert table.UNHELD in marks(found)
    assert table.UNHELD not in marks(run(fake, subject(error=0.0)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"error": 1.1e-3}, "relative error 1.10e-03 against slow sums, above 1e-03"),
        ({"error": "nan"}, "relative error nan against slow sums"),
        ({"error": 0.0, "compared": 0}, "nothing was held against slow sums"),
    ],
)
def test_no_speed_is_taken_of_a_model_that_does_not_agree(fake, subject, options, said):
    with pytest.raises(ModelFault, match=said):
        run(fake, subject(**options))


def test_a_switch_is_timed_at_the_chunk_that_the_model_states(fake, subject):
    # Asked for in the chunk of frames 15 to 17, it waits for the one that starts at 18.
    switch = Switch(16, ("a red square", "a blue star", "a green ring"))
    found = run(fake, subject(switch_s=0.3, states="next"), switches=[switch])
    assert close(found.values["switch_s"], CHUNK + 0.3)
    assert found.notes["switches"] == [{"asked": 16, "frame": 18}]
    silent = run(fake, subject(switch_s=0.3), switches=[switch])
    assert silent.notes["switches"] == [{"asked": 16, "frame": None}]


def test_a_model_that_works_on_a_switch_elsewhere_than_it_states_is_refused(fake, subject):
    switch = Switch(16, ("a red square", "a blue star", "a green ring"))
    with pytest.raises(ModelFault, match="states a switch at frame 18, in chunk 6, and works on it for chunk 5"):
        run(fake, subject(switch_s=0.3, states="wrong"), switches=[switch])


def test_the_reference_is_asked_for_the_switches_that_its_clip_reaches(fake, subject):
    switches = [Switch(frame, ("a", "b", "c")) for frame in (10, 40)]
    run(fake, subject(error=0.0, window_frames=9), frames=60, switches=switches)
    assert [[s.frame for s in request.switches] for request in subject.made[0].held] == [[10]]
    run(fake, subject(error=0.0, window_frames=None), frames=60, switches=switches)
    assert [request.frames for request in subject.made[1].held] == [60]


class Bouncing:
    """A sound model on a noisy machine: every request takes 1 s, give or take 30 %; a repeat takes `share` of it."""

    def __init__(self, time, seed, share=1.0, stalled=-1):
        self.time, self.random, self.share, self.stalled = time, random.Random(seed), share, stalled
        self.seen, self.repeats = set(), 0

    def stream(self, request):
        again = request in self.seen
        self.seen.add(request)
        seconds = self.random.uniform(0.7, 1.3) * (self.share if again else 1.0)
        self.repeats += again
        self.time.advance(seconds + 3.0 * (again and self.repeats == self.stalled))
        yield np.full((1, 1, 1, 1, 3), request.seeds[0] % 251, dtype=np.uint8)
        self.time.advance(0.0)


@pytest.fixture
def audited(fake, monkeypatch):
    """Audits a model with one block; thousands of them, so nothing collects garbage in between."""
    monkeypatch.setattr(caching_audit, "no_garbage_collection", nullcontext)
    workload = Workload(PROMPTS[:1], (0,), 1)
    clock = Clock("cpu", now=fake.TIME.now)
    return lambda *model, **cap: caching_audit.take(clock, Bouncing(fake.TIME, *model), workload, 0, 1, 0.10, **cap)


def test_a_noisy_machine_gets_no_sound_model_accused(audited):
    found = [audited(seed) for seed in range(400)]
    verdicts = [each.verdict for each in found]
    assert "failed" not in verdicts
    assert verdicts.count("unclear") < 20
    # After one block alone many look suspicious: it is the repetition that clears them.
    assert sum(each.used > 3 for each in found) > 80


def test_a_ceiling_ends_the_follow_up_of_noise_but_not_of_a_plain_cache(audited):
    long, short = ([audited(seed, **cap) for seed in range(400)] for cap in ({}, {"ceiling_s": 0.0}))
    assert {len(found.audit.same_s) for found in short} == {2} < {len(found.audit.same_s) for found in long}
    assert [found.verdict for found in short].count("unclear") > [found.verdict for found in long].count("unclear")
    assert [audited(seed, 0.01, False, ceiling_s=0.0).verdict for seed in range(20)].count("failed") == 20


@pytest.mark.parametrize(("share", "stalled"), [(0.01, -1), (0.01, 2), (0.4, -1)])
def test_a_cache_is_caught_on_a_noisy_machine(audited, share, stalled):
    assert [audited(seed, share, stalled).verdict for seed in range(20)].count("failed") == 20


def test_no_request_is_ever_repeated_by_accident(fake, subject):
    run(fake, subject(), min_repeats=20, audit_repeats=0)
    requests = [(r.prompts, r.seeds) for r in subject.made[0].requests]
    assert len(requests) == len(set(requests)) == 21


def test_a_model_that_ignores_the_batch_is_a_fault(fake, subject):
    with pytest.raises(ModelFault, match="ignores the batch: chunk 0 holds 1 clips, 2 were asked for"):
        run(fake, subject(ignore_batch=True), batch=2)


@pytest.mark.parametrize("batch", [2, 5])
def test_a_model_that_repeats_one_clip_is_a_fault(fake, subject, batch):
    run(fake, subject(), batch=batch)
    with pytest.raises(ModelFault, match="ignores the batch: clips 0 and 1, of different prompts or seeds, are alike"):
        run(fake, subject(repeat_clip=True), batch=batch)


def test_a_rate_above_the_peak_of_the_device_is_refused(fake, subject, monkeypatch):
    name = str(devices.describe("cpu")["name"])
    made = {"forwards": 4, "frames_per_chunk": 3}
    count, seconds = 4 * 2 * (2 * 8 * 16), DENOISE + CLEAN + DECODE
    weight_bytes = 4 * (2 * 8 * 16 + 8 + 16)
    monkeypatch.setitem(PEAK_FLOPS, name, 2 * count / seconds)
    monkeypatch.setitem(PEAK_BYTES, name, 4 * weight_bytes * 4 / seconds)
    found = run(fake, subject(**made), count=True).values
    assert close(found["flop_share"], 0.5)
    assert close(found["byte_share"], 0.25)
    monkeypatch.setitem(PEAK_FLOPS, name, 0.5 * count / seconds)
    with pytest.raises(ModelFault, match=r"200% of the peak FLOP/s of .*: the time or the count is wrong"):
        run(fake, subject(**made), count=True)
    monkeypatch.delitem(PEAK_FLOPS, name)
    monkeypatch.setitem(PEAK_BYTES, name, 0.25 * weight_bytes * 4 / seconds)
    with pytest.raises(ModelFault, match=r"400% of the peak bytes/s"):
        run(fake, subject(**made), count=True)


def test_a_span_left_open_is_a_fault(fake, subject):
    with pytest.raises(ModelFault, match="still open"):
        run(fake, subject(leave_span_open=True))


def test_a_clock_that_goes_backwards_is_refused(fake, subject):
    def crooked():
        fake.TIME.ns += 1 if fake.TIME.ns < 10_000_000 else -5
        return fake.TIME.ns

    probe = Streaming(StreamingOptions(count=False), Clock("cpu", now=crooked))
    with pytest.raises(ClockFault, match="backwards"):
        probe.measure(subject(), Workload(PROMPTS, (0,), 30), HERE)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (Workload((), (0,), 9), "needs prompts"),
        (Workload(PROMPTS, (0,), 9, switches=(Switch(9, ("x",)),)), "outside 9 frames"),
        (Workload(PROMPTS, (0,), 9, batch=0), "at least 1"),
    ],
)
def test_a_workload_that_cannot_be_run_is_refused(subject, workload, message):
    with pytest.raises(OptionError, match=message):
        Streaming(StreamingOptions()).measure(subject(), workload, HERE)


def test_rounds_of_a_measurement_count_once(fake, subject, monkeypatch):
    requests = []
    take = flops.take
    monkeypatch.setattr(
        flops, "take", lambda model, request, card: requests.append(request) or take(model, request, card)
    )
    same = subject(forwards=4, text_s=0.125)
    first, second = (run(fake, same, frames=36, count=True).values for _ in range(2))
    assert len(requests) == 1
    assert first["flops_per_chunk"] == second["flops_per_chunk"] > 0
    run(fake, same, frames=39, count=True)
    assert [request.frames for request in requests] == [36, 39]


@pytest.mark.parametrize(("guided", "batch", "forwards"), [(False, 1, 4), (False, 3, 4), (True, 2, 8)])
def test_network_calls_are_counted_and_a_wrong_card_is_told(fake, subject, guided, batch, forwards):
    found = run(fake, subject(forwards=4, guided=guided), count=True, batch=batch)
    assert found.values["forwards_per_chunk"] == forwards
    # Two linear layers on rows of 8: 2 x 8 x 16 a row each, `forwards` rows a clip and chunk.
    assert found.values["flops_per_chunk"] == batch * forwards * 2 * (2 * 8 * 16)
    assert found.notes["forwards_disagree"] == f"the card says 5, {forwards} were counted"


def test_without_modules_the_card_is_believed(fake, subject):
    found = run(fake, subject(), count=True)
    assert found.values["forwards_per_chunk"] == 5
    assert found.notes["forwards_counted"] is False
    assert math.isnan(found.values["flops_per_chunk"])


def test_real_sleeps_come_out_of_the_real_clock(subject):
    options = StreamingOptions(warmups=1, min_repeats=3, min_seconds=0, ceiling_s=0.5, audit_repeats=0, count=False)
    made = subject(time="real", denoise_s=0.03, clean_pass_s=0.01, decode_s=0.02, to_host_s=0.0, window_frames=3)
    outside = time.perf_counter()
    found = Streaming(options).measure(made, Workload(PROMPTS, (0,), 12), HERE)
    outside = time.perf_counter() - outside
    # A sleep never ends early; on a busy machine it may end late, but not after the measurement.
    assert found.values["chunk_s"] >= 0.060
    assert 0 < found.values["end_to_end_fps"] <= 50
    assert 0 < found.values["denoise_fps"] <= 75
    assert 0 < found.values["stage_share"] <= 1
    assert sum(found.samples["clip_s"]) <= outside


def test_every_value_is_declared_and_every_declared_value_given(fake, subject):
    found = run(fake, subject())
    values = record_values("probe streaming", Streaming.values, found)
    assert set(values) == {value.name for value in Streaming.values}
