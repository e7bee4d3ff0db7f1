"""A whole federation on one machine, and the ``cardiofed`` command."""
