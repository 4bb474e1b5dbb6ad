"""The command line. Heavy imports wait inside the commands, so that ``--help`` is quick."""

import dataclasses
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import precrop
from precrop import plugins
from precrop.cli.arguments import Args, ModelName, Trusted, arguments, plan_source, set_seed
from precrop.cli.arguments import input_shape as read_shape
from precrop.cli.bench import bench_command
from precrop.cli.count import count_command
from precrop.cli.export import export_command
from precrop.cli.judge import judge_command
from precrop.cli.profile import profile_command
from precrop.cli.recalibrate import recalibrate_command
from precrop.cli.report import report_command
from precrop.cli.study import study_app
from precrop.cli.train import INTERRUPTED, eval_command, train_command
from precrop.errors import PrecropError, one_line
from precrop.files import check_writable, read_json, terminated_as_interrupted, write_text

if TYPE_CHECKING:
    from torch import nn

    from precrop.plans.kinds import Init as PlanInit
    from precrop.plans.plan import Plan

app = typer.Typer(
    help="Crop any convolutional network to a budget of parameters and MACs, before training.",
    rich_markup_mode="rich",
)

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A file that `precrop plan` wrote.")]
Params = Annotated[
    str | None, typer.Option(help="Budget of parameters: a share (0.5, 50%) or a number (2.5M).")
]
Macs = Annotated[
    str | None, typer.Option(help="Budget of multiply-accumulates: a share or a number (1.2G).")
]
Latency = Annotated[
    str | None,
    typer.Option(help="Budget of time for one pass, as the profile predicts it: 0.5, 50%, 8ms."),
]
Memory = Annotated[
    str | None, typer.Option(help="Budget of activations alive at once: 0.5, 50%, 64MB.")
]
Cost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=BUDGET", help="Budget of a plugin's own cost; repeatable."),
]
BatchSize = Annotated[int, typer.Option(help="Inputs in one pass, for --latency and --memory.")]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="FILE.json",
        help="Whose time: what `precrop profile` wrote; or cpu, cuda: rooflines, not measured.",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate", help="Measure the planned network and correct the plan until it is in time."
    ),
]
Divisor = Annotated[
    str | None,
    typer.Option(
        help="Widths are multiples of this (8 suits hardware); auto: the profile's step, as with "
        "--latency."
    ),
]
MinWidth = Annotated[int, typer.Option(help="No layer gets narrower than this.")]
Expand = Annotated[bool, typer.Option("--expand", help="Layers may also widen (PreConfig).")]
Balance = Annotated[float, typer.Option(help="How evenly both ends of a layer are cropped.")]
Objective = Annotated[
    str,
    typer.Option(
        help="synexp, exact, exact-output, dense-layers, inner-layers: what the widths maximise."
    ),
]
Rule = Annotated[
    str,
    typer.Option(
        help="balanced; uniform: one share of every width; or densities first and then channels: "
        "sqrt-min, sqrt-max, geometric-mean."
    ),
]
Residual = Annotated[
    Literal["tie", "crop"],
    typer.Option(help="Layers at a residual sum share one width, or each has its own."),
]
DensitiesFile = Annotated[
    Path | None,
    typer.Option(
        "--densities",
        metavar="FILE.json",
        help="Densities to come close to, as `precrop densities --json` prints them.",
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Layers that keep their width (layer4.*); repeatable."),
]
Groups = Annotated[
    Literal["keep", "scale"],
    typer.Option(help="Grouped convolutions keep their number of groups, or their groups' width."),
]
DropUnused = Annotated[
    bool, typer.Option("--drop-unused", help="Leave out modules that no pass calls.")
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(metavar="SHAPE", help="3,224,224 or 3x224x224; repeat for several inputs."),
]
Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="MODULE:FACTORY",
        help="Example inputs instead of shapes, made by a function of yours: its module is run.",
    ),
]
Init = Annotated[
    Literal["slice", "reset", "l1", "l2", "bn"],
    typer.Option(
        help="Slice the original's weights, or initialise anew; of trained weights keep the "
        "channels with the largest filters (l1, l2) or batch norm scales (bn)."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of the initial weights.")]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE.safetensors", help="Trained weights of the original to slice."),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="A folder, or the first part of the files' names.")
]
Summary = Annotated[
    bool, typer.Option("--summary", help="A line for each stage instead of each layer.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 2 after an error of the user's.

    Args:
        argv: the words after ``precrop``; those of this process by default.
    """
    command = typer.main.get_command(app)
    words = None if argv is None else list(argv)
    try:
        with terminated_as_interrupted():
            plugins.load()
            status = command.main(args=words, prog_name="precrop", standalone_mode=False)
    except PrecropError as error:
        return _refuse(str(error))
    except typer.TyperException as error:
        return _refuse(error.format_message())
    except OSError as error:
        return _refuse(_os_reason(error))
    except RecursionError:
        return _refuse("what was given is nested too deeply")
    except MemoryError:
        return _refuse("there is not enough memory for what was asked")
    except (KeyboardInterrupt, typer.Abort):
        print("precrop: stopped", file=sys.stderr)
        return INTERRUPTED
    except RuntimeError as error:
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        return _refuse(f"there is not enough memory for what was asked: {error}")
    return status if isinstance(status, int) else 0


def _refuse(message: str) -> int:
    print(f"precrop: error: {one_line(message)}", file=sys.stderr)
    return 2


def _os_reason(error: OSError) -> str:
    """What the system says: no room, no right, a name that is too long."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"precrop {precrop.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command("plan")
def plan_command(
    model: ModelName,
    params: Params = None,
    macs: Macs = None,
    latency: Latency = None,
    memory: Memory = None,
    cost: Cost = None,
    batch_size: BatchSize = 1,
    profile: Profile = None,
    calibrate: Calibrate = False,
    divisor: Divisor = None,
    min_width: MinWidth = 1,
    expand: Expand = False,
    balance: Balance = 1.0,
    objective: Objective = "synexp",
    densities: DensitiesFile = None,
    rule: Rule = "balanced",
    residual: Residual = "tie",
    ignore: Ignore = None,
    groups: Groups = "keep",
    drop_unused: DropUnused = False,
    input_shape: InputShape = None,
    input: Input = None,
    arg: Args = None,
    seed: Seed = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the plan to this file.")
    ] = None,
    summary: Summary = False,
    as_json: AsJson = False,
) -> None:
    """Decide how wide every layer should be, and show or save it."""
    if output is not None:
        check_writable(output)
    set_seed(seed)
    _, plan = _plan(
        model,
        arg,
        input_shape,
        input,
        params=params,
        macs=macs,
        latency=latency,
        memory=memory,
        costs=_budgets(cost),
        batch_size=batch_size,
        device_profile=profile,
        calibrate=calibrate,
        divisor=_divisor(divisor),
        min_width=min_width,
        expand=expand,
        balance=balance,
        objective=objective,
        densities=None if densities is None else _read_densities(densities),
        rule=rule,
        residual=residual,
        ignore=tuple(ignore or ()),
        groups=groups,
        drop_unused=drop_unused,
    )
    _print_plan(plan, as_json, summary)
    if output is not None:
        plan.save(output)
        if not as_json:
            typer.echo(f"Written to {output}; `precrop build {output}` makes the network.")


@app.command("crop")
def crop_command(
    model: ModelName,
    params: Params = None,
    macs: Macs = None,
    latency: Latency = None,
    memory: Memory = None,
    cost: Cost = None,
    batch_size: BatchSize = 1,
    profile: Profile = None,
    calibrate: Calibrate = False,
    divisor: Divisor = None,
    min_width: MinWidth = 1,
    expand: Expand = False,
    balance: Balance = 1.0,
    objective: Objective = "synexp",
    densities: DensitiesFile = None,
    rule: Rule = "balanced",
    residual: Residual = "tie",
    ignore: Ignore = None,
    groups: Groups = "keep",
    drop_unused: DropUnused = False,
    input_shape: InputShape = None,
    input: Input = None,
    arg: Args = None,
    init: Init = "slice",
    seed: Seed = None,
    weights: Weights = None,
    output: Output = Path(),
    as_json: AsJson = False,
) -> None:
    """Plan and build in one go: writes the weights and the plan beside them."""
    stem = re.sub(r"[^\w.-]", "-", model)
    _check_init(init, weights)
    _check_output(output, stem)
    set_seed(seed)
    network, plan = _plan(
        model,
        arg,
        input_shape,
        input,
        params=params,
        macs=macs,
        latency=latency,
        memory=memory,
        costs=_budgets(cost),
        batch_size=batch_size,
        device_profile=profile,
        calibrate=calibrate,
        divisor=_divisor(divisor),
        min_width=min_width,
        expand=expand,
        balance=balance,
        objective=objective,
        densities=None if densities is None else _read_densities(densities),
        rule=rule,
        residual=residual,
        ignore=tuple(ignore or ()),
        groups=groups,
        drop_unused=drop_unused,
    )
    _write_built(network, plan, init, weights, output, stem, as_json)


@app.command("build")
def build_command(
    plan_file: PlanFile,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The original, if not the plan's own.")
    ] = None,
    arg: Args = None,
    trust: Trusted = False,
    init: Init = "slice",
    seed: Seed = None,
    weights: Weights = None,
    output: Output = Path(),
    as_json: AsJson = False,
) -> None:
    """Build the cropped network of a plan: writes its weights and the plan beside them."""
    _check_init(init, weights)
    from precrop.plans.plan import Plan
    from precrop.zoo import load_model

    plan = Plan.load(plan_file)
    name, args = plan_source(plan, model, arg, trust)
    set_seed(seed)
    network = load_model(name, args)
    _write_built(network, plan, init, weights, output, plan_file.stem, as_json)


@app.command("show")
def show_command(
    plan_files: Annotated[
        list[Path], typer.Argument(metavar="PLAN.json...", help="A plan, or several to compare.")
    ],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the widths over depth.")
    ] = None,
    summary: Summary = False,
    as_json: AsJson = False,
) -> None:
    """Show a plan as a table, and as a picture with --plot; several plans side by side."""
    from precrop.plans.plan import Plan

    plan, *others = map(Plan.load, plan_files)
    if others:
        if plot is not None or summary:
            raise PrecropError("--plot and --summary show one plan: drop them, or name one file")
        compared = precrop.compare(plan, *others, names=_short_names(plan_files))
        typer.echo(compared.to_json() if as_json else str(compared))
        return
    if plot is not None:
        from precrop.plans.plot import plot as draw

        draw(plan, plot)
    _print_plan(plan, as_json, summary)


def _short_names(files: Sequence[Path]) -> list[str]:
    """The files' names without their ending where that tells them apart, else whole."""
    stems = [file.stem for file in files]
    return stems if len({*stems}) == len(stems) else list(map(str, files))


@app.command("densities")
def densities_command(
    model: ModelName,
    params: Params = None,
    macs: Macs = None,
    method: Annotated[
        str,
        typer.Option(
            help="synexp, erk, uniform, uniform_plus, igq, synflow, snip, grasp, magnitude, random."
        ),
    ] = "synexp",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Batches for snip and grasp: a .safetensors file with inputs and targets, or "
            "module:factory.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="An option of the method (rounds=100); repeatable."
        ),
    ] = None,
    input_shape: InputShape = None,
    input: Input = None,
    arg: Args = None,
    seed: Seed = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the densities to this JSON file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the density of every layer's weights by any method."""
    from precrop.pruning.methods import NEED_DATA, RULES, SCORES

    if data is not None and method in {*RULES, *SCORES} - {*NEED_DATA}:
        raise PrecropError(f"--data is for {' and '.join(NEED_DATA)}: {method} looks at none")
    if output is not None:
        check_writable(output)
    set_seed(seed)
    network, shape = _load(model, arguments(arg), input_shape, input)
    with _warnings_as_lines():
        densities = precrop.densities(
            network,
            shape,
            method=method,
            params=params,
            macs=macs,
            data=None if data is None else _batches(data),
            seed=seed or 0,
            progress=True,
            **arguments(option),
        )
    text = json.dumps(densities, indent=1)
    if as_json:
        typer.echo(text)
    else:
        column = max(map(len, densities), default=0)
        for name, density in densities.items():
            typer.echo(f"{name:<{column}}  {density:.6f}")
    if output is not None:
        write_text(output, text + "\n")


def _batches(data: str) -> Any:
    """Batches ``(inputs, targets)`` from a file of tensors, or from a user's own factory."""
    from precrop.zoo import call_factory, runs_user_code

    if runs_user_code(data):
        return call_factory(data)
    from precrop.plans.weights import load_tensors

    tensors = load_tensors(Path(data))
    missing = [name for name in ("inputs", "targets") if name not in tensors]
    if missing:
        raise PrecropError(
            f"{data} has no tensor {missing[0]!r}: save 'inputs' and 'targets' in it"
        )
    return [(tensors["inputs"], tensors["targets"])]


def _read_densities(path: Path) -> dict[str, float]:
    """A JSON file ``{layer name: density}``; the numbers are checked where they are used."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise PrecropError(f"{path} is not like {{layer name: density}}")
    return content


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """What the library warns of as one line each on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", precrop.LayerCollapseWarning)
        warnings.simplefilter("always", precrop.SlicedChannelsWarning)
        yield
    for warning in caught:
        print(f"precrop: warning: {one_line(str(warning.message))}", file=sys.stderr)


app.command("count")(count_command)
app.command("export")(export_command)
app.command("bench")(bench_command)
app.command("profile")(profile_command)
app.command("train")(train_command)
app.command("eval")(eval_command)
app.command("recalibrate")(recalibrate_command)
app.add_typer(study_app)
app.command("report")(report_command)
app.command("judge")(judge_command)


def _load(
    name: str, args: Mapping[str, Any], shapes: Sequence[str] | None, factory: str | None
) -> tuple["nn.Module", Any]:
    """The network and its inputs: the shape, or shapes, or what the user's factory makes."""
    from precrop.zoo import call_factory, default_input_shape, load_model

    if factory is not None and (shapes or ":" not in factory):
        raise PrecropError(
            "--input is like module:factory, and goes without --input-shape: the factory makes "
            "what the network takes"
        )
    parsed = [read_shape(text) for text in shapes or ()]
    model = load_model(name, args)
    if factory is not None:
        from precrop.read.inputs import given

        return model, given(model, None, call_factory(factory))
    if not parsed:
        return model, default_input_shape(name, model)
    return model, parsed[0] if len(parsed) == 1 else tuple(parsed)


def _plan(
    name: str,
    arg: Sequence[str] | None,
    shapes: Sequence[str] | None,
    factory: str | None,
    *,
    calibrate: bool,
    **options: Any,
) -> tuple["nn.Module", "Plan"]:
    """The network and its plan, which remembers how the network is named."""
    args = arguments(arg)
    model, shape = _load(name, args, shapes, factory)
    make = _calibrated if calibrate else precrop.plan
    plan = make(model, shape, **options)
    _say_if_slack(plan)
    return model, dataclasses.replace(plan, source={"name": name, "args": args})


def _say_if_slack(plan: "Plan") -> None:
    """Warn where budgets above the original were given and layers may not widen."""
    above = [name for name, budget in plan.budgets.items() if budget.limit > budget.base]
    if above and plan.params == plan.base_params and not plan.options["expand"]:
        asked = plan.budgets[above[0]].asked
        print(
            f"precrop: warning: nothing is cropped: {above[0]}={asked} is more than the network "
            "has; --expand lets layers widen",
            file=sys.stderr,
        )


def _calibrated(model: "nn.Module", shape: Any, *, latency: str | None, **options: Any) -> "Plan":
    """A plan whose network was measured; a warning if it is slower than asked."""
    from precrop.deployment.calibrating import calibrate
    from precrop.solve.budgets import UNITS, parse_budget

    if latency is None:
        raise PrecropError("--calibrate needs a time to meet: give --latency")
    parse_budget("latency", latency, UNITS["latency"].suffixes["s"])  # before anything is measured
    found = calibrate(model, shape, latency, progress=_say, **options)
    for number, attempt in enumerate(found.attempts, 1):
        _say(
            f"plan {number}: {attempt.seconds * 1e3:.3f} ms, {attempt.used:.1%} of the asked "
            f"{attempt.limit * 1e3:.3f} ms (the original {attempt.dense * 1e3:.3f} ms)"
        )
    if not found.met:
        tried = f"the fastest of {len(found.attempts)} that were measured"
        print(f"precrop: warning: no plan was in time; this is {tried}", file=sys.stderr)
    return found.plan


def _say(doing: str) -> None:
    print(f"calibrating: {doing}", file=sys.stderr)


_DIGITS = 12
"""Of the longest number of channels that is looked at."""


def _budgets(pairs: Sequence[str] | None) -> dict[str, str]:
    """Budgets by the names of their costs."""
    found = {}
    for pair in pairs or ():
        name, equals, budget = pair.partition("=")
        if not equals or not name or not budget:
            raise PrecropError(f"--cost {pair} is not like energy=0.5")
        found[name] = budget
    return found


def _divisor(text: str | None) -> int | Literal["auto"] | None:
    """``auto``, or a number of channels; None leaves it to `precrop.plan`."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    if not text.isdecimal() or len(text) > _DIGITS:
        shown = text if len(text) <= _DIGITS else text[:_DIGITS] + "…"
        raise PrecropError(f"--divisor {shown} is no number of channels: write 8, or auto")
    return int(text)


def _print_plan(plan: "Plan", as_json: bool, summary: bool = False) -> None:
    if as_json:
        typer.echo(plan.to_json(), nl=False)
        return
    if summary:
        typer.echo(plan.summary())
        return
    from precrop.plans.table import show

    show(plan)


def _check_init(init: "PlanInit", weights: Path | None) -> None:
    """Refuse weights that would be drawn anew."""
    if init == "reset" and weights is not None:
        raise PrecropError("--init reset draws all weights anew: drop it, or drop --weights")


def _check_output(output: Path, stem: str) -> None:
    """Refuse at once an ``output`` that `save_built` could not write to after all the planning."""
    prefix = output / stem if output.is_dir() else output
    for suffix in (".safetensors", ".json"):
        check_writable(prefix.with_name(prefix.name + suffix))


def _write_built(
    network: "nn.Module",
    plan: "Plan",
    init: "PlanInit",
    weights: Path | None,
    output: Path,
    stem: str,
    as_json: bool,
) -> None:
    """Build and write ``output``'s safetensors and JSON, both or neither."""
    from precrop.plans.weights import load_weights, save_built

    if weights is not None:
        load_weights(network, weights)
    with _warnings_as_lines():
        small = plan.build(network, init)
    weights_path, plan_path = save_built(small, plan, output, stem)
    if as_json:
        files = {"weights": str(weights_path), "plan": str(plan_path)}
        typer.echo(json.dumps({**files, "params": plan.params, "macs": plan.macs}, indent=1))
        return
    typer.echo(f"{plan.params:,} parameters, {plan.macs:,} MACs: {weights_path}, {plan_path}")
