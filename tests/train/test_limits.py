"""Values of options that cannot work are refused by name, before anything is read or written."""

from dataclasses import replace
from pathlib import Path

import pytest

from spd_weights.errors import SpdError
from train.config import DataConfig
from train.recipes import Adapt, Linear, MoCo, MoCoV1, SimCLR, SimSiam, Supervised

RECIPES = (SimSiam, MoCo, MoCoV1, SimCLR, Supervised, Linear, Adapt)


def config(recipe=SimSiam, **options):
    """A recipe with options named group__field, or field."""
    made = recipe(data=DataConfig(train="photos"), out=Path("run"))
    for name, value in options.items():
        group, _, field = name.rpartition("__")
        made = replace(made, **({group: replace(getattr(made, group), **{field: value})} if group else {field: value}))
    return made


@pytest.mark.parametrize("recipe", RECIPES)
def test_defaults_lie_within_the_limits(recipe) -> None:
    config(recipe)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (SimSiam, {"optim__lr": -1.0}, r"--optim\.lr -1\.0: it must be at least 0$"),
        (SimSiam, {"optim__lr": float("nan")}, r"--optim\.lr nan: it must be at least 0$"),
        (SimSiam, {"optim__lr": float("inf")}, r"--optim\.lr inf"),
        (SimSiam, {"optim__max_steps": 0}, r"--optim\.max-steps 0: it must be at least 1$"),
        (SimSiam, {"optim__momentum": 5.0}, r"--optim\.momentum 5\.0: it must be at least 0 and at most 1$"),
        (SimSiam, {"optim__warmup_epochs": -2.0}, r"--optim\.warmup-epochs"),
        (SimSiam, {"optim__weight_decay": -1.0}, r"--optim\.weight-decay"),
        (SimSiam, {"spd__weight": float("nan")}, r"--spd\.weight nan"),
        (SimSiam, {"spd__patch_area": (0.5, 0.1)}, r"--spd\.patch-area 0\.5 0\.1: a range is given as its lower and"),
        (SimSiam, {"spd__weak_crop_area": (0.0, 0.5)}, r"--spd\.weak-crop-area 0\.0 0\.5: it must be above 0 and at"),
        (SimSiam, {"augment__crop_area": (0.1, 2.0)}, r"--augment\.crop-area 0\.1 2\.0: it must be above 0 and at"),
        (SimSiam, {"augment__jitter_probability": 3.0}, r"--augment\.jitter-probability 3\.0: .* at most 1$"),
        (SimSiam, {"augment__blur_sigma": (2.0, 1.0)}, r"--augment\.blur-sigma"),
        (SimSiam, {"checkpoint__every": 0}, r"--checkpoint\.every 0: it must be at least 1$"),
        (SimSiam, {"data__max_bad_fraction": 7.0}, r"--data\.max-bad-fraction"),
        (SimSiam, {"seed": -1}, r"--seed -1: it must be at least 0$"),
        (SimSiam, {"max_hours": -1.0}, r"--max-hours -1\.0: it must be above 0$"),
        (MoCo, {"moco__momentum": 2.0}, r"--moco\.momentum 2\.0: it must be at least 0 and at most 1$"),
        (MoCo, {"moco__temperature": -1.0}, r"--moco\.temperature -1\.0: it must be above 0$"),
        (MoCo, {"moco__queue_size": 0}, r"--moco\.queue-size 0"),
        (SimCLR, {"simclr__temperature": 0.0}, r"--simclr\.temperature 0\.0: it must be above 0$"),
        (Adapt, {"adapt__keep_weight": -1.0}, r"--adapt\.keep-weight"),
    ],
)
def test_value_that_cannot_work_is_refused(recipe, options, message: str) -> None:
    with pytest.raises(SpdError, match=message):
        config(recipe, **options)


@pytest.mark.parametrize(
    "options",
    [{"optim__lr": 0.0}, {"spd__weight": 0.0}, {"optim__momentum": 0.0}, {"spd__weak_crop_area": (1.0, 1.0)}],
)  # fmt: skip
def test_the_end_of_a_range_is_allowed(options) -> None:
    config(**options)
