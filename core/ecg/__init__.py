"""12-lead ECG records: leads, preprocessing, labels, and the on-disk set."""
