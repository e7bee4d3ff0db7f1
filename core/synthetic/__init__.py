"""Synthetic 12-lead ECGs with exact intervals, and the recipe that names a shared set."""
