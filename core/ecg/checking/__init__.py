"""The preflight: what is wrong with an imported set, found before anything is trained on it."""
