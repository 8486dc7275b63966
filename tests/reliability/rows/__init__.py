"""The rows, one file an area; each file has `ROWS`."""
