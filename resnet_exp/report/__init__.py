"""The report of a run: its figures and tables, and the page that shows them."""
