"""The models room: transformers checkpoints as (batch -> hidden states + head). Knows no loss."""
