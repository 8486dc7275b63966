"""Where a run's journal is mirrored: MLflow, CSV files, or nowhere; each tracker is a plug-in."""
