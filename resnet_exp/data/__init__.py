"""The data sets: one file and one yaml (`conf/data/`) each, all fulfilling `interfaces.DataSource`."""
