"""HTML pages of reports and comparisons."""
