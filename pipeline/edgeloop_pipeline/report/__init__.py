"""Makes the report of a run as one page: tables, plots, costs."""
