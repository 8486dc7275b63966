"""Learning-rate schedules: one file and one yaml each; pure functions of the step, none imports torch."""
