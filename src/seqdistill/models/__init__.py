"""The models package: transformers checkpoints as (batch -> states + head). Knows no loss."""
