"""From conditions to latents: settings, samplers, guidance, and the autoregressive loop (`rollout.py`)."""
