"""Crops random networks and compares each with what PyTorch says: ``make fuzz-networks``.

    python -m tests.fuzz_networks --count 10000 --results fuzz-networks.jsonl

Every seed gives a line of JSON in the results file; seeds that are there already are not run again.
"""

import argparse
import copy
import dataclasses
import json
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import precrop
from precrop.modules.copying import meta_copy
from precrop.plans.plan import Plan
from tests.planning import counted_params
from tests.random_networks import SIZE, Net

SHAPE = (3, SIZE, SIZE)


def tensors(outputs: Any) -> list[Tensor]:
    """All tensors of a result, those in objects too."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if dataclasses.is_dataclass(outputs):
        outputs = list(vars(outputs).values())
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    found = outputs if isinstance(outputs, (list, tuple)) else []
    return [tensor for entry in found for tensor in tensors(entry)]


def deformed_flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **options: Any) -> int:
    """Twice the MACs of a convolution of these shapes; PyTorch's counter has no formula for it."""
    outputs, inputs, height, width = weight
    return int(2 * outputs * inputs * height * width * out_shape[0] * out_shape[2] * out_shape[3])


FORMULAS = {torch.ops.torchvision.deform_conv2d: deformed_flops}


def counted(model: nn.Module) -> int:
    """MACs of an eval pass at batch 1 by PyTorch's counter, on meta tensors."""
    empty = meta_copy(model).eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation that the counter doesn't know
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
            empty(torch.empty(1, *SHAPE, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops()) // 2


def forward_shapes(model: nn.Module, batch: int) -> list[tuple[int, ...]]:
    """Shapes of the outputs in eval mode."""
    with torch.no_grad():
        outputs = copy.deepcopy(model).eval()(torch.ones(batch, *SHAPE))
    return [tuple(tensor.shape) for tensor in tensors(outputs)]


def trained(model: nn.Module) -> tuple[list[tuple[int, ...]], set[str]]:
    """Shapes of the outputs in train mode, and the parameters that a gradient reaches."""
    model = copy.deepcopy(model).train()
    outputs = tensors(model(torch.ones(3, *SHAPE)))
    torch.stack([tensor.float().mean() for tensor in outputs]).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    return [tuple(tensor.shape) for tensor in outputs], reached


def options(seed: int) -> dict[str, Any]:
    """Budgets and other options, drawn from the seed."""
    draw = Random(f"options of {seed}")
    chosen: dict[str, Any] = {"params": draw.choice((0.2, 0.35, 0.5, 0.7, 0.9))}
    if draw.random() < 0.6:
        chosen["macs"] = draw.choice((0.35, 0.5, 0.7, 0.9))
    chosen["divisor"] = draw.choice((2, 4, 8, "auto")) if draw.random() < 0.4 else 1
    if draw.random() < 0.15:
        chosen["expand"] = True
    return chosen


def faults(model: nn.Module, plan: Plan) -> Iterator[str]:
    """What is wrong with a plan and with the network that it builds."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    built = plan.build(model)
    if (counted_params(model), counted_params(built)) != (plan.base_params, plan.params):
        yield f"{counted_params(built)} parameters, planned {plan.params}"
    macs = counted(model), counted(built)
    if macs != (plan.base_macs, plan.macs):
        yield f"MACs {macs}, planned {(plan.base_macs, plan.macs)}"
    for cost, budget in plan.budgets.items():
        if budget.used > budget.limit:
            yield f"{cost} over budget: {budget.used} > {budget.limit}"
    for batch in (1, 3):
        shapes = forward_shapes(model, batch), forward_shapes(built, batch)
        if shapes[0] != shapes[1]:
            yield f"outputs at batch {batch}: {shapes}"
    if model.state_dict().keys() != built.state_dict().keys():
        yield "other keys in the state_dict"
    ours, theirs = trained(built), trained(model)
    if ours[0] != theirs[0]:
        yield f"outputs in train mode: {theirs[0]} became {ours[0]}"
    if ours[1] != theirs[1]:
        yield f"gradients: {sorted(ours[1] ^ theirs[1])[:4]}"
    if any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()):
        yield "the model was changed"


def crop(model: nn.Module, asked: dict[str, Any]) -> tuple[Plan, bool]:
    """A plan within the budgets; where they are refused, within the least ones that are named."""
    try:
        return precrop.plan(model, SHAPE, **asked), False
    except precrop.BudgetError as error:
        least = re.search(r"(params|macs)=\d+ cannot be met: .*? is (\d+)", str(error))
        if least is None:
            raise
        rest: dict[str, Any] = {n: v for n, v in asked.items() if n not in ("params", "macs")}
        rest[least[1]] = int(least[2])
        return precrop.plan(model, SHAPE, **rest), True


def check(seed: int) -> dict[str, Any]:
    """The line for one seed: what was asked, whether its budget was refused, what is wrong."""
    found: dict[str, Any] = {"seed": seed, "options": options(seed)}
    start = time.perf_counter()
    try:
        model = Net(seed)
        plan, found["refused"] = crop(model, found["options"])
        uses = [budget.used / budget.limit for budget in plan.budgets.values()]
        found |= {"used": round(max(uses), 4), "frozen": len(plan.frozen)}
        found["faults"] = list(faults(model, plan))
    except Exception as error:  # whatever it is, it is a fault
        found["faults"] = [f"{type(error).__name__}: {str(error)[:300]}"]
    return found | {"seconds": round(time.perf_counter() - start, 3)}


def main() -> int:
    """Run the seeds that the results file lacks; 1 if any network is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--count", type=int, default=10_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--results", type=Path, default=Path("fuzz-networks.jsonl"))
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = asked.results.read_text().splitlines() if asked.results.exists() else []
    known = {line["seed"]: line for line in map(json.loads, lines)}
    seeds = range(asked.first, asked.first + asked.count)
    left = [seed for seed in seeds if seed not in known]
    start = time.monotonic()
    with asked.results.open("a") as results:
        for done, seed in enumerate(left):
            spent = time.monotonic() - start
            if spent > 60 * asked.minutes:
                break
            known[seed] = check(seed)
            results.write(json.dumps(known[seed]) + "\n")
            results.flush()
            if known[seed]["faults"]:
                print(f"seed {seed}: {known[seed]['faults']}", flush=True)
            if done % 100 == 99:
                rate = (time.monotonic() - start) / (done + 1)
                minutes = rate * (len(left) - done - 1) / 60
                print(f"{done + 1} of {len(left)}, about {minutes:.0f} min left", flush=True)
    ran = [known[seed] for seed in seeds if seed in known]
    wrong = [line["seed"] for line in ran if line["faults"]]
    refused = sum(bool(line.get("refused")) for line in ran)
    kinds = Counter(fault[:60] for line in ran for fault in line["faults"])
    print(f"{len(ran)} networks, {len(wrong)} wrong, {refused} budgets refused below the least")
    for kind, number in kinds.most_common(20):
        print(f"{number:5d}  {kind}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
