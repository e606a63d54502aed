"""Models of other programs: their data sets, predictions and calibration."""
