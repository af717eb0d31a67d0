"""The models package: transformers checkpoints as (batch -> hidden states + head). Knows no loss."""
