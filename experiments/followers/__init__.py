"""Where on-policy distillation pays: regimes in which it should, measured with its mechanism."""
