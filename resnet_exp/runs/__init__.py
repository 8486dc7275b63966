"""The order of a run, and its words on the terminal."""
