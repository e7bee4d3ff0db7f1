"""What cardiofed is made of: ECGs, models, learning, privacy, evaluation, reports. Knows nothing of Flower."""
