"""Scoring over HTTP: `tickwatch serve`."""
