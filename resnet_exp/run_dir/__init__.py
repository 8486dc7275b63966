"""The files of a run: journal, checkpoints, the trained network, and which directory they lie in."""
