"""The optimizers, one file and one yaml each. None has an lr: the schedule sets it before every step."""
