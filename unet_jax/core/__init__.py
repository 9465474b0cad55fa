"""What every part of the project may use: errors, files, faults, signals, config fields."""
