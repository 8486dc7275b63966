"""Networks: one file and one yaml each. All return logits `[B, num_classes]`."""
