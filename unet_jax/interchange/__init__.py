"""Export of networks to formats that other programs can load; one module for each format."""
