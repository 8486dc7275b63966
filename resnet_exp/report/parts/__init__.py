"""The parts of a run's report, one in each file; large figures have a file of their own."""
