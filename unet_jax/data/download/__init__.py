"""Published data sets, fetched and unpacked."""
