"""What each disease does to a beat: one function a pattern, one module a superclass.

Every function has the form ``pattern(hearts, severity, rng)``: it changes a batch of hearts in place, all of them affected,
with a severity of shape (n,) in (0, 1] from subtle to textbook. Patterns can follow one another on the same hearts.
They are simulations for training and demonstration, not clinical evidence.
"""
