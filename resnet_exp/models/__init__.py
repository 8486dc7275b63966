"""The models, one file and one yaml each; all return logits `[B, num_classes]`."""
