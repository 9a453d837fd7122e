"""Offline training of tickwatch's detectors: history, fit, calibrate, export. Needs torch; `service` never does."""
