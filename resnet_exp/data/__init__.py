"""The data sets (`interfaces.DataSource`, one file and one yaml each), and how their images become batches."""
