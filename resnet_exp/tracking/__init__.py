"""Where a run's journal is mirrored: MLflow, or nowhere."""
