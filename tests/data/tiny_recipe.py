"""A recipe of small trainings, for tests."""

TINY = """\
recipe: tiny
seeds: [0, 1]
base:
  chunk: 2
  network: {dim: 24, heads: 2, layers: 2, ffn: 32, latent: {d_c: 6, d_q: 12, d_nope: 6, d_rope: 6, pairs: [1, 1, 1]}}
  window: {frames: 5, sink: 1}
  data: {clips: 2, chunks: 2}
  stages:
    - {stage: teacher_forcing, steps: 3, optimiser: muon, rate: 0.002}
    - {stage: consistency, steps: 2, rate: 0.001}
    - {stage: distribution_matching, steps: 2, rate: 0.0001, critic_rate: 0.0001}
arms:
  - {label: dense}
  - label: latent
    set: {network: {attention: latent}, start: {kind: svd, origin: {arm: dense, stage: teacher_forcing}}}
    grid: {network.latent.d_c: [4, 8]}
"""
