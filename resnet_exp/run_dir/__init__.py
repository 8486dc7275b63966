"""The files of a run: journal, checkpoints, the trained network, and the directory they are in."""
