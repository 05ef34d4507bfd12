"""The published sliding-window models as data. Torch-free.

An entry of `PUBLISHED` is a model: its class, its name in suites and the trace that it replays are made from it.

Sources by preset: VideoMLA, arXiv 2605.30351; Self-Forcing, 2506.08009 (`pipeline/causal_inference.py`); CausVid,
2412.07772; LongLive, 2509.22622 (branch v1.0: `configs/longlive_inference.yaml` and, rotating at each read in
`wan/modules/causal_model_infinity.py`, `configs/longlive_inference_infinity.yaml`); Infinity-RoPE, 2511.20649; Reward
Forcing, 2512.04678; Rolling Forcing, 2509.25161 (`pipeline/rolling_forcing_inference.py`); Causal Forcing, 2602.02214.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from videomla_models.spec.config import SamplerConfig, TransformerConfig, evenly_spaced
from videomla_models.spec.window import WindowPolicy

FULL_WINDOW = 21
"""Latent frames of a 5 s clip: the window of a dense model that forgets nothing of it."""


FETCHED = {"Hidir/VideoMLA": "videomla"}
"""Repositories on the Hub whose files `harness fetch NAME` brings, by that name; parts of them by `--with FOLDER`."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One published model, or a control.

    Attributes:
        family: the method. title: for tables. about: one line for lists.
        window: what attention sees; other readings of the same paper under their own names in `readings`.
        network: sizes and attention of the transformer.
        chunk: latent frames per chunk. sampler: denoising steps and shift.
        checkpoint: what the authors publish, how to name it, and the command that brings it where there is one; empty
            where nothing is published.
        licence: of that checkpoint.
        source: what was read of the method, where the head of this module does not say it. lacks: what of the method is
            not here, as it was not public.
        trace: what recorded rollouts call it in their `family`; empty where none is recorded.
        version: of its class, where it is not that of all presets.
    """

    family: str
    title: str
    about: str
    window: WindowPolicy
    network: TransformerConfig = TransformerConfig()  # noqa: RUF009 (frozen)
    chunk: int = 3
    sampler: SamplerConfig = SamplerConfig()  # noqa: RUF009 (frozen)
    readings: dict[str, WindowPolicy] = field(default_factory=dict)
    checkpoint: str = ""
    licence: str = ""
    trace: str = ""
    version: str = ""
    source: str = ""
    lacks: str = ""


def _at_read(frames: int, sink: int) -> WindowPolicy:
    return WindowPolicy(frames=frames, sink=sink, rotation="read", positions="relative")


def _longlive() -> WindowPolicy:
    """As `local_attn_size: 12`, `sink_size: 3` and `global_sink: true` of its configurations say."""
    return WindowPolicy(frames=12, sink=3, switch="rebuild", keep_sink_on_rebuild=True)


def _longlive_rag() -> WindowPolicy:
    """As `local_attn_size: 12`, `sink_size: 1`, `memory_size: 6` and `recent_exclude: 5` of its configurations say.

    Of the twelve frames six make room for the memory. The eleven behind the sink are no candidates, nor are the five
    that left last.
    """
    chosen: Any = {"bank": 6, "bank_every": 1, "bank_by": "latents", "bank_of": "all", "bank_at": "zero"}
    return replace(_at_read(6, 1), span=12, bank_pool=120, bank_recent=16, **chosen)


def _dummy_forcing(head_from: int) -> WindowPolicy:
    """As its configurations for Self-Forcing and LongLive say (`ar_start` 1 and 2)."""
    return WindowPolicy(frames=7, sink=1, head_current=0.5, head_from=head_from)


SELF_FORCING_HEADS = (
    "wwwwwwwwwwww twwtttttwttw tttwwttwwttw wtttwttwwttt wttwtwtttttt twwtwwwwtwtw ttwttttwtwtw wtwwwttwwttt "
    "wwwwwwttttww wtttwtttwwtt tttwtttttwtw ttwwwttttwtt wtwwttwwwtww tttttttttttw wttwwwttwtwt ttttttttwttt "
    "ttwtttwttwtt twwwwwtwwtwt wttttttttttt ttwtwttwttwt twwwtwtwwwtw wttwttttwwww tttttttttttw twtttttwttwt "
    "ttwttttttttt tttttttwtwtt twttwwtwttwt tttwttwwtwww twtttwwtwtww wtwtwttwtwtw"
)
LONGLIVE_HEADS = (
    "wwwwwwwwwwww wwwwwtwtwwtw twtwwttwwtww wwttwtwwwwtw wttwwwttwttw twwtwtwwtwtw ttwwtttwtttw wtwwwttwwttt "
    "wwwwwwttttww wwttwtttwwwt tttttttttwtw tttwwttttwtt wtwwttwwwtww tttttttttttw wttwwwttwtwt ttttttttwttt "
    "ttwtttwttwtt twwwwwtwwtwt wttttttttttt twwtwwtwttww twwwtwtwwwtw wtwwttttwwww tttttttttttw twtttttwttwt "
    "ttwttttttttt tttttttwtwtw twttwwtwttwt tttwttwwtwww twtttwwtwwww wtwtwttttwww"
)
"""Static (`w`) and dynamic (`t`) heads by layer, as the JSON files in Forcing-KV's `configs_head` have them for
Self-Forcing and LongLive; its code gives the first layer no classes."""


def _forcing_kv(heads: str, head_from: int) -> WindowPolicy:
    """As its configurations for Self-Forcing and LongLive say (`ar_start` 1 and 2): six of the 18 patches that leave
    with a chunk stay for dynamic heads until the next one.
    """
    chosen: Any = {"select": 1, "select_by": "patch", "select_score": "change", "select_patches": 6}
    return WindowPolicy(frames=5, sink=1, head_classes=tuple(heads.split()), head_from=head_from, **chosen)


FOUR_STEPS = SamplerConfig().steps


def _few_steps(steps: int) -> Preset:
    word = {1: "one step", 2: "two steps"}[steps]
    return Preset(
        family="causal_forcing",
        title=f"Causal Forcing++, {word}",
        about=f"Causal Forcing++, one latent frame per chunk: {word}, four for the first chunk.",
        trace="causal_forcing_framewise" if steps == 2 else "",
        window=WindowPolicy(frames=FULL_WINDOW),
        chunk=1,
        sampler=SamplerConfig(steps=evenly_spaced(steps), first_steps=FOUR_STEPS),
        checkpoint=f"zhuhz22/Causal-Forcing: causal-forcing++/framewise-{steps}step.pt",
        licence="Apache-2.0",
        source="arXiv 2605.15141; thu-ml/Causal-Forcing 1fc7bbc, "
        f"`configs/causal_forcing_dmd_framewise_{steps}step.yaml` and `pipeline/causal_inference.py`",
    )


PUBLISHED: dict[str, Preset] = {
    "videomla-1.3b": Preset(
        family="videomla",
        title="VideoMLA",
        about="VideoMLA: one content latent and one head-shared rope key per token.",
        trace="videomla",
        network=TransformerConfig(attention="latent"),
        window=_at_read(6, 1),
        readings={"la6_sink1": _at_read(6, 1), "la7_sink1": _at_read(7, 1)},
        checkpoint="Hidir/VideoMLA: stage3_la6_sink1/model.pt (also stage1, stage2, stage3; 21 GB in all; key names "
        "not published); harness fetch videomla --with stage3_la6_sink1",
        licence="none stated",
    ),
    "dense-window-1.3b": Preset(
        family="dense",
        title="dense, VideoMLA's window",
        about="The fair control: dense attention under VideoMLA's window and positions.",
        window=_at_read(6, 1),
        readings={"la6_sink1": _at_read(6, 1), "la7_sink1": _at_read(7, 1)},
        checkpoint="any checkpoint of the Self-Forcing family",
    ),
    "dense-21-1.3b": Preset(
        family="dense",
        title="dense, 21 frames",
        about="Dense attention over 21 latent frames.",
        window=WindowPolicy(frames=FULL_WINDOW),
        checkpoint="any checkpoint of the Self-Forcing family",
    ),
    "self-forcing": Preset(
        family="self_forcing",
        title="Self-Forcing",
        about="Self-Forcing, chunk-wise.",
        trace="self_forcing",
        window=WindowPolicy(frames=FULL_WINDOW),
        checkpoint="gdhe17/Self-Forcing: checkpoints/self_forcing_dmd.pt (generator_ema)",
        licence="Apache-2.0",
    ),
    "self-forcing-framewise": Preset(
        family="self_forcing",
        title="Self-Forcing, frame-wise",
        about="Self-Forcing, one latent frame per chunk.",
        window=WindowPolicy(frames=FULL_WINDOW),
        chunk=1,
        checkpoint="the frame-wise checkpoint of Self-Forcing's authors",
        licence="Apache-2.0",
    ),
    "causvid": Preset(
        family="causvid",
        title="CausVid",
        about="CausVid: three steps at shift 8; a clip longer than the window goes on from its last chunk, encoded "
        "again.",
        version="3",
        window=WindowPolicy(frames=FULL_WINDOW, schedule="restart"),
        sampler=SamplerConfig(steps=(1000, 757, 522), shift=8.0, warp=False),
        checkpoint="tianweiy/CausVid: autoregressive_checkpoint/model.pt",
        licence="CC BY-NC-SA 4.0",
    ),
    "longlive": Preset(
        family="longlive",
        title="LongLive",
        about="LongLive: 12 frames, 3 of them sink; a prompt switch rebuilds the cache; `window` has two readings.",
        trace="longlive",
        window=_longlive(),
        readings={
            "la12_sink3": _longlive(),
            "la12_sink3_relative": replace(_longlive(), rotation="read", positions="relative"),
        },
        checkpoint="Efficient-Large-Model/LongLive-1.3B: longlive_base.pt with lora.pt (lora_alpha 256)",
        licence="Apache-2.0",
    ),
    "infinity-rope": Preset(
        family="infinity_rope",
        title="Infinity-RoPE",
        about="Infinity-RoPE: unrotated keys at window-relative positions, cache flushed at a prompt switch.",
        trace="infinity_rope",
        window=WindowPolicy(frames=6, sink=1, rotation="read", positions="relative", switch="flush"),
        checkpoint="Self-Forcing's checkpoint; the method trains nothing",
        licence="Apache-2.0",
    ),
    "reward-forcing": Preset(
        family="reward_forcing",
        title="Reward Forcing",
        about="Reward Forcing: the sink is a running average of what leaves.",
        trace="reward_forcing",
        window=WindowPolicy(frames=9, sink=3, sink_kind="average", rotation="read", positions="relative"),
        checkpoint="JaydenLu666/Reward-Forcing-T2V-1.3B: rewardforcing.pt",
        licence="Apache-2.0",
    ),
    "rolling-forcing": Preset(
        family="rolling_forcing",
        title="Rolling Forcing",
        about="Rolling Forcing: five noise levels in flight.",
        trace="rolling_forcing",
        window=WindowPolicy(frames=24, sink=3, schedule="rolling"),
        sampler=SamplerConfig(steps=(1000, 800, 600, 400, 200)),
        checkpoint="TencentARC/RollingForcing: checkpoints/rolling_forcing_dmd.pt",
        licence="Tencent's own; read the repository's LICENSE",
    ),
    "causal-forcing": Preset(
        family="causal_forcing",
        title="Causal Forcing",
        about="Causal Forcing: Self-Forcing's window with other weights.",
        window=WindowPolicy(frames=FULL_WINDOW),
        checkpoint="zhuhz22/Causal-Forcing: the chunk-wise checkpoint",
        licence="Apache-2.0",
    ),
    "causal-forcing-framewise": Preset(
        family="causal_forcing",
        title="Causal Forcing, frame-wise",
        about="Causal Forcing, one latent frame per chunk.",
        window=WindowPolicy(frames=FULL_WINDOW),
        chunk=1,
        checkpoint="zhuhz22/Causal-Forcing: framewise/causal_forcing.pt",
        licence="Apache-2.0",
        source="thu-ml/Causal-Forcing 1fc7bbc, `configs/causal_forcing_dmd_framewise.yaml`",
    ),
    "causal-forcing-long": Preset(
        family="causal_forcing",
        title="Causal Forcing, long video",
        about="Causal Forcing's long video model: Rolling Forcing's schedule with four noise levels in flight.",
        window=WindowPolicy(frames=24, sink=3, schedule="rolling"),
        checkpoint="zhuhz22/Causal-Forcing: chunkwise/longvideo.pt",
        licence="Apache-2.0",
        source="thu-ml/Causal-Forcing 1fc7bbc, `long_video/configs/rolling_forcing_dmd.yaml`",
    ),
    "causal-linear-1.3b": Preset(
        family="linear",
        title="causal linear",
        about="Causal linear attention: a state of constant size in place of a cache. No weights are published.",
        network=TransformerConfig(attention="linear"),
        window=WindowPolicy(frames=3),
        source="arXiv 2006.16236, equations 5 and 7; the row Causal Linear of VideoMLA's Table 1",
    ),
    "causal-forcing-2-step": _few_steps(2),
    "causal-forcing-1-step": _few_steps(1),
    "one-forcing": Preset(
        family="one_forcing",
        title="One-Forcing",
        about="One-Forcing, one latent frame per chunk: one step, four for the first chunk.",
        window=WindowPolicy(frames=FULL_WINDOW),
        chunk=1,
        sampler=SamplerConfig(steps=(1000,), first_steps=FOUR_STEPS),
        checkpoint="JiaqiFeng/OneForcing: checkpoints/one_forcing.pt",
        licence="Apache-2.0",
        source="arXiv 2605.23458; Aurora-edu/One-Forcing ca345b3, `scripts/infer.sh`",
    ),
    "raven": Preset(
        family="raven",
        title="RAVEN",
        about="RAVEN: Self-Forcing's window with other weights.",
        window=WindowPolicy(frames=FULL_WINDOW),
        checkpoint="the checkpoint of RAVEN's authors (mvp-ai-lab/RAVEN), whose tensors have names of their own",
        licence="CC BY-NC 4.0",
        source="mvp-ai-lab/RAVEN 5a71a3c; zju-jiyicheng/Forcing-KV 50ac1f4, `configs/raven/raven_inference.yaml`",
    ),
    "memrope": Preset(
        family="memrope",
        title="MemRoPE",
        about="MemRoPE on Self-Forcing: a sink, a slow and a fast average of what leaves, and recent frames.",
        trace="memrope",
        window=WindowPolicy(frames=12, sink=3, average_rates=(0.01, 0.1), rotation="read", positions="relative"),
        checkpoint="Self-Forcing's or LongLive's checkpoint; the method trains nothing",
        licence="Apache-2.0",
        source="arXiv 2603.12513; YoungRaeKimm/MemRoPE b89bf5b, `wan/modules/causal_model.py`",
    ),
    "memflow": Preset(
        family="memflow",
        title="MemFlow",
        about="MemFlow: LongLive's window, and a bank of three older frames that the prompt chooses.",
        trace="memflow",
        window=replace(_longlive(), bank=3),
        checkpoint="KlingTeam/MemFlow: base.pt with lora.pt (lora_alpha 256)",
        licence="Apache-2.0",
        source="arXiv 2512.14699; KlingTeam/MemFlow 7ed5147, `configs/inference.yaml`, `wan/modules/causal_model.py`",
        lacks="sparse activation of the bank (`SMA`), which its configuration leaves off",
    ),
    "dummy-forcing": Preset(
        family="dummy_forcing",
        title="Dummy Forcing",
        about="Dummy Forcing on Self-Forcing: half of the heads see one frame back, others sink or last chunk.",
        trace="dummy_forcing",
        window=_dummy_forcing(2),
        readings={"self_forcing": _dummy_forcing(2), "longlive": _dummy_forcing(3)},
        checkpoint="Self-Forcing's checkpoint; the method trains nothing",
        licence="Apache-2.0",
        source="arXiv 2601.20499; csguoh/DummyForcing 28128ed, `configs/self_forcing_inference.yaml`, "
        "`wan/modules/causal_model.py` and `dummyforcing.py`",
        lacks="skipped passes (`teacache`), which its configuration leaves off; classes are told from evenly spread "
        "queries and not from random ones",
    ),
    "forcing-kv": Preset(
        family="forcing_kv",
        title="Forcing-KV",
        about="Forcing-KV on Self-Forcing: sink, one frame and the chunk; 219 of 360 heads see changed patches too.",
        window=_forcing_kv(SELF_FORCING_HEADS, 2),
        readings={
            "self_forcing": _forcing_kv(SELF_FORCING_HEADS, 2),
            "longlive": _forcing_kv(LONGLIVE_HEADS, 3),
        },
        checkpoint="Self-Forcing's or LongLive's checkpoint; the method trains nothing",
        licence="Apache-2.0",
        source="arXiv 2605.09681; zju-jiyicheng/Forcing-KV 50ac1f4, `configs/forcing-kv`, `configs_head` and "
        "`wan/modules/causal_model_forcingkv.py`",
        lacks="skipped passes and 8-bit attention, which its configurations leave off; each clip of a batch chooses "
        "for itself, where the public code takes the first one's choice for all",
    ),
    "anchor-forcing": Preset(
        family="anchor_forcing",
        title="Anchor Forcing",
        about="Anchor Forcing: LongLive's window; the first chunk after a prompt switch stays until the next switch.",
        window=replace(_longlive(), switch="anchor"),
        checkpoint="young98/AnchorForcing: base.pt with final.pt (lora_alpha 256)",
        licence="CC BY-NC-SA 4.0 by its README",
        source="arXiv 2603.13405; vivoCameraResearch/Anchor-Forcing 25bdfba, `wan/modules/causal_model.py`",
        lacks="positions by region (`rope_enhance`): frames keep their own",
    ),
    "longlive-rag": Preset(
        family="longlive_rag",
        title="LongLive-RAG",
        about="LongLive-RAG on LongLive: a sink, five frames with the chunk, and the six older ones that are likest "
        "the last.",
        trace="longlive_rag",
        version="3",
        window=_longlive_rag(),
        checkpoint="LongLive's, Self-Forcing's or Causal Forcing's checkpoint; the method trains a retrieval network "
        "(qixinhu11/LongLive-RAG: checkpoints/ae_latent_mem.pt)",
        licence="Apache-2.0",
        source="arXiv 2606.02553; qixinhu11/LongLive-RAG 973884a, `configs/longlive_latentmem.yaml`, "
        "`pipeline/causal_inference.py` and `wan/modules/causal_model_latentmem.py`",
        lacks="its retrieval network: means of latents stand in, as in its code where that file is missing; it keeps "
        "every frame in the processor's memory, and here the cache holds the latest 120, as many as its clips have",
    ),
    "deep-forcing": Preset(
        family="deep_forcing",
        title="Deep Forcing",
        about="Deep Forcing on Self-Forcing: a sink of ten frames, two frames of chosen tokens, four recent ones.",
        window=WindowPolicy(frames=17, sink=10, select=2),
        checkpoint="Self-Forcing's checkpoint; the method trains nothing",
        licence="Apache-2.0",
        source="arXiv 2512.05081",
        lacks="its code, which is not public: sizes and score are the paper's; it lets the window grow to 21 frames "
        "before it chooses, and moves the sink's positions",
    ),
    "triattention": Preset(
        family="triattention",
        title="TriAttention on LongLive",
        about="TriAttention on LongLive: each head keeps two frames of tokens between its sink and the last chunk.",
        window=replace(_longlive(), frames=7, sink=1, select=2, select_by="head", select_at="clean"),
        checkpoint="LongLive's checkpoint; the method trains nothing",
        licence="Apache-2.0",
        source="WeianMao/triattention c3744ee, `longlive/configs/triattention_interactive.yaml` and "
        "`longlive/kv_compression.py`",
        lacks="its trigonometric score from shipped statistics of queries; the clean pass's own queries stand in",
    ),
    "rolling-sink": Preset(
        family="rolling_sink",
        title="Rolling Sink",
        about="Rolling Sink on Self-Forcing: first frames come back before the last chunk, forwards and backwards.",
        trace="rolling_sink",
        window=WindowPolicy(frames=FULL_WINDOW, sink_kind="ping_pong", rotation="read"),
        checkpoint="Self-Forcing's checkpoint; the method trains nothing",
        licence="Apache-2.0",
        source="arXiv 2602.07775; haodong2000/Rolling-Sink 6eaed1e, `wan/modules/causal_model.py`",
    ),
}
