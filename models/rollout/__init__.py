"""From a prompt to pixels: sampler, rollout, codecs and text encoder; replay of reference traces."""
