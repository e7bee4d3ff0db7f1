"""What the tests of private training share: small plans, records, draws and models, and the slow way to the same sum."""

import numpy as np
import torch
from torch import nn

from core.learning.classification import OptimizerSettings, bce_loss
from core.learning.private_step import PrivateStepper
from core.learning.transfer import set_trainable
from core.models.registry import create_model
from core.privacy.noise import SeededNoise
from core.privacy.plan import Neighbouring, PrivacyPlan, PrivacyUnit
from core.privacy.sampling import Draw

SGD = OptimizerSettings("sgd", weight_decay=0.0, momentum=0.0)
SILENT = 1e-9
"""A noise multiplier that a plan allows and that does not show in float32."""
PIXELS = 12 * 32


def plan(**changes) -> PrivacyPlan:
    values = {
        "unit": PrivacyUnit.PATIENT,
        "neighbouring": Neighbouring.ADD_REMOVE,
        "epsilon": 8.0,
        "delta": 1e-5,
        "clip": 1.0,
        "units": 40,
        "sampling_rate": 0.5,
        "steps": 1,
        "noise_multiplier": SILENT,
        "expected_batch": 20.0,
    }
    return PrivacyPlan(**values | changes)


def records(count: int, seed: int = 0, samples: int = 32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 12, samples), np.float32), rng.integers(0, 2, (count, 5)).astype(np.float32)


def fetching(signals: np.ndarray, truth: np.ndarray):
    return lambda rows: (signals[rows], truth[rows])


def draw_of(*patients: list[int], canaries: tuple[int, ...] = ()) -> Draw:
    """The draw of these patients, each with these rows."""
    return Draw(
        np.array([row for rows in patients for row in rows], np.int64),
        np.repeat(np.arange(len(patients)), [len(rows) for rows in patients]),
        len(patients),
        np.array(canaries, np.int64),
    )


def singly(count: int) -> Draw:
    return draw_of(*([row] for row in range(count)))


NOBODY = draw_of()
PATIENTS = draw_of([3, 0, 5], [1], [2, 4], [6, 8, 7])


class Flat(nn.Sequential):
    """Logistic regression on the flattened record, all of whose weights are 0."""

    def __init__(self, inputs: int = PIXELS) -> None:
        super().__init__(nn.Flatten(), nn.Linear(inputs, 5))
        torch.nn.init.zeros_(self[1].weight)
        torch.nn.init.zeros_(self[1].bias)


def backbone(name: str = "resnet1d", mode: str = "all") -> nn.Module:
    model = create_model(name, outputs=5, seed=1)
    set_trainable(model, mode)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # It would differ from one computation to the next.
    return model.train()


def stepper_of(model: nn.Module, how: PrivacyPlan, physical_batch: int = 64, noise=None, **more) -> PrivateStepper:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    noise = SeededNoise(0) if noise is None else noise
    return PrivateStepper(model, SGD.build(trainable, 1.0), bce_loss, how, physical_batch, noise, **more)


def change(model: nn.Module, how: PrivacyPlan, draw: Draw, fetch, **more) -> np.ndarray:
    """What a step of size 1 adds to the parameters, flat."""
    before = flat(model)
    stepper_of(model, how, **more).step(draw, fetch, 1.0)
    return flat(model) - before


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters() if p.requires_grad])


def slow_sum(model: nn.Module, draw: Draw, fetch, clip: float) -> np.ndarray:
    """The same sum, record after record by plain autograd, in double precision."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = np.zeros(sum(parameter.numel() for parameter in trainable))
    for unit in range(draw.units):
        gradients = []
        for row in draw.rows[draw.unit_of_row == unit]:
            signals, truth = (torch.from_numpy(array) for array in fetch(np.array([row])))
            outputs = model(signals)
            loss = nn.functional.binary_cross_entropy_with_logits(outputs, truth)  # The mean over the five classes.
            found = torch.autograd.grad(loss, trainable)
            gradients.append(np.concatenate([g.numpy().ravel().astype(np.float64) for g in found]))
        gradient = np.mean(gradients, axis=0)
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total
