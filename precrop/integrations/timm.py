"""Cropped networks in timm's registry, so that timm's scripts build them by name."""

import dataclasses
import inspect
import re
import sys
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from precrop.allowance import Allowance
from precrop.errors import PrecropError, check_known, errors_as, needs, suggestion
from precrop.plans.kinds import INITS, Init
from precrop.plans.plan import Plan
from precrop.zoo import refuse_trained

HOME = "precrop_networks"
"""The module of the registered networks: `timm.list_models(module=…)` lists them."""
_FEATURES = "timm.models._features"
"""The module of the classes that turn any network into a feature extractor."""
_SAID = ("_traits", "in_chans", "pretrained_cfg", "default_cfg")
"""Attributes that timm sets on a network it builds; its feature extractor gets them, too."""
_WEIGHTS = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag")
"""Fields of timm's that locate a network's trained weights, which do not fit the cropped one."""


def register(
    name: str, plan: Plan | str | Path, base: str | None = None, *, init: Init = "slice"
) -> None:
    """Have ``timm.create_model(name)`` build a cropped network; call it first in each process.

    Arguments of ``create_model`` go to the original's builder: ``num_classes=37`` or 0,
    ``in_chans=1``, ``features_only=True``, ``drop_rate=0.1``, and ``pretrained=True`` for the
    original's trained weights, of which ``init`` keeps a part. Input size, mean and standard
    deviation are the original's, too.

    Args:
        name: letters, digits and underscores; not the name of one of timm's own networks.
        plan: a plan for one of timm's networks, or its file.
        base: timm's name of the planned network (``resnet50``); by default the one in the plan.
        init: as in `precrop.Plan.build`.

    Raises:
        PrecropError: timm is not installed, does not know ``base``, or has a network of this name.
        PlanError: the file is broken.
    """
    with needs("timm's registry needs", "precrop[models]"):
        import timm
    if not re.fullmatch(r"\w+", name, re.ASCII):
        raise PrecropError(f"{name!r} is not a name for timm: take letters, digits and underscores")
    home = sys.modules.setdefault(HOME, ModuleType(HOME, "Networks cropped by precrop."))
    if timm.is_model(name) and not hasattr(home, name):
        raise PrecropError(f"timm has a network called {name} of its own: take another name")
    check_known(f"init={init!r}", init, INITS)
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    base, args = _base(timm, plan, base)

    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,  # unused: the cropped network has no weights of its own
        pretrained_cfg_overlay: Any = None,
        **options: Any,
    ) -> nn.Module:
        options = {**args, **options, "pretrained_cfg_overlay": pretrained_cfg_overlay}

        def make(**more: Any) -> Any:
            with errors_as(f"timm:{base} could not be built", MemoryError), Allowance(plan.shapes):
                return timm.create_model(base, **{**options, **more})

        # Crop the whole network, as its head shows which channels may be chosen from.
        crop = partial(plan.build, init=init)
        if options.get("features_only"):
            original = make()
            if type(original).__module__.startswith(_FEATURES):
                return _features(original, partial(make, pretrained=pretrained), crop)
        elif options.get("num_classes") == 0:
            pool = {"global_pool": options.pop("global_pool")} if "global_pool" in options else {}
            small: Any = crop(make(pretrained=pretrained, num_classes=args.get("num_classes")))
            small.reset_classifier(0, **pool)
            return small  # type: ignore[no-any-return]
        return crop(make(pretrained=pretrained))

    build.__name__ = build.__qualname__ = name
    build.__module__ = HOME
    build.__doc__ = f"{base}, cropped to {plan.params:,} parameters."
    setattr(home, name, build)
    vars(home).setdefault("default_cfgs", {})[name] = _input_only(timm, base)
    with warnings.catch_warnings():  # timm warns if the same name is registered again
        warnings.simplefilter("ignore")
        timm.models.register_model(build)


def _features(
    original: nn.Module, make: Callable[..., Any], crop: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Return the feature extractor of a cropped network, made as timm made the ``original`` one.

    ``make`` builds the original; it takes another class for the extractor.
    """
    kind: Any = type(original)
    given: dict[str, Any] = {}

    def kept(_: type, whole: nn.Module, **options: Any) -> nn.Module:
        given.update(options)
        return whole

    whole = make(feature_cls=type(kind.__name__, (kind,), {"__new__": kept}))
    taken = inspect.signature(kind.__init__).parameters
    given = {name: value for name, value in given.items() if name in taken}
    if "output_fmt" in given:  # older versions of timm set another for a class than for a name
        given["output_fmt"] = getattr(original, "output_fmt", given["output_fmt"])
    made: nn.Module = kind(crop(whole), **given)
    for name, value in vars(whole).items():
        if name in _SAID:
            setattr(made, name, value)
    return made


def _base(timm: Any, plan: Plan, base: str | None) -> tuple[str, dict[str, Any]]:
    """Return the original's name in timm and its arguments, from the user or from the plan."""
    args: dict[str, Any] = {}
    if base is None:
        source = plan.source
        if source is None or not source.name.startswith("timm:"):
            raise PrecropError("the plan does not name a network of timm's: give base='resnet50'")
        source.check(False, "")
        refuse_trained(source.args)
        base, args = source.name, dict(source.args)
    base = base.removeprefix("timm:")
    if not re.fullmatch(r"\w+(\.\w+)?", base, re.ASCII) or not timm.is_model(base):
        raise PrecropError(
            f"timm has no network called {base!r}; {suggestion(base, timm.list_models())}"
        )
    return base, args


def _input_only(timm: Any, base: str) -> Any:
    """Return timm's config of the original's input, for a network without trained weights."""
    known = timm.get_pretrained_cfg(base) or timm.models.PretrainedCfg()
    blank = dict.fromkeys(_WEIGHTS)
    return timm.models.DefaultCfg(deque([""]), {"": dataclasses.replace(known, **blank)})
