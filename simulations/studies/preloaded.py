"""What every run needs, imported before the processes of the runs are forked; see :mod:`simulations.studies.forked`."""

import torch

import simulations.engine
import simulations.simulate  # noqa: F401

# The first optimizer of a process loads torch's compiler, which takes as long as all the rest.
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
