"""What grew from on-policy distillation: each "is it better?" answered with an interval."""
