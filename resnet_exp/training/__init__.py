"""The loop, and what is measured with it: range test, training, evaluation."""
