"""The page: controls on the left, the resulting plan on the right.

It is built with Gradio, so that it runs on the user's machine and as a Hugging Face Space alike. No
usage is reported, and everything that a browser loads comes from the same server.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from precrop.errors import PrecropError
from precrop.explore.controls import COSTS, DIVISORS, STRATEGIES, Controls, file_name
from precrop.explore.explorer import LONGEST, Explorer, uploaded
from precrop.explore.html import beside, layers, refusal, remarks, totals
from precrop.explore.picture import picture
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan
from precrop.solve.program import BALANCE

_ON = {"params", "macs"}
"""Costs that have a budget when the page opens."""
_SHARE, _LEAST, _WHOLE, _TWICE = 50, 2, 100, 200
"""Percent of the original: at first, at least, at most, and at most if layers may widen."""
_MOST_BALANCE = 5
_HOUR = 3600
_SAVE = """(name, text) => {
    if (!text) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
}"""
"""Has the browser write the file, so that the server need not keep any."""
_STYLE = """<style>
.grid { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.grid th, .grid td { padding: 2px 16px 2px 0; text-align: right; white-space: nowrap; }
.grid th:first-child, .grid td:first-child, .layers td:last-child { text-align: left; }
.grid th { font-weight: 600; border-bottom: 1px solid var(--border-color-primary); }
.layers { max-height: 420px; overflow: auto; font-size: 90%; }
.layers th { position: sticky; top: 0; background: var(--body-background-fill); }
.notes { padding-left: 18px; list-style: disc; }
.refused { color: #b3261e; }
</style>"""
_NONE = "# no such plan: see above"
_AS_THEY_ARE = ("profile", "divisor", "strategy", "balance", "expand")
"""Controls whose values are those of their components, unchanged."""

Values = Mapping[Any, Any]
"""The values of components."""
Components = dict[str, Any]
"""Components by name; each cost has two, whose names begin with ``on-`` and ``share-``."""


def _controls(panel: Components, values: Values) -> Controls:
    """Return the controls from the components' values."""
    on = [name for name in COSTS if values[panel[f"on-{name}"]]]
    return Controls(
        budgets=tuple((name, values[panel[f"share-{name}"]] / 100) for name in on),
        ignore=tuple(values[panel["ignore"]].replace(",", " ").split()),
        **{name: values[panel[name]] for name in ("network", *_AS_THEY_ARE)},
    )


def _answer(explorer: Explorer, controls: Controls, other: Plan | None) -> dict[str, Any]:
    """Return what to show of the controls' plan; if there is none, why (the rest then stays)."""
    try:
        plan = explorer.plan(controls)
    except PrecropError as error:
        refused = refusal("No plan is possible.", str(error))
        return {"refused": refused, "command": _NONE, "python": _NONE}
    network = explorer.named(controls.network)
    try:
        compared = beside(plan, other) if other is not None else ""
    except PrecropError as error:
        compared, other = refusal("These cannot be compared.", str(error)), None
    return {
        "refused": "",
        "totals": totals(plan),
        "picture": picture(plan, other),
        "remarks": remarks(plan),
        "beside": compared,
        "layers": layers(plan, other),
        "command": controls.command(network),
        "python": controls.python(network, plan.input_shape),
    }


def app(
    model: str = "resnet50",
    args: Mapping[str, Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    *,
    names: Iterable[str] | None = None,
    profiles: Iterable[str] = (),
) -> gr.Blocks:
    """Build the page as a Gradio app: ``app().launch()`` serves it on this machine.

    Args:
        model: the network that the page starts with, as for ``precrop plan``.
        args: arguments for its builder.
        input_shape: the shape of its input, if not the default.
        names: the networks to choose from; None offers all of precrop, torchvision and timm.
        profiles: files of ``precrop profile``, for budgets of latency on these devices.

    Raises:
        PrecropError: the network is unknown, or cannot be read.
    """
    first = ModelSpec(model, args or {})
    explorer = Explorer(first, input_shape, names=names, profiles=profiles)
    explorer.reading(str(first))
    with gr.Blocks(
        title=f"precrop: {first}",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(_HOUR,) * 2,
    ) as page:
        gr.HTML(_STYLE, apply_default_css=False)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                panel = _panel(explorer, str(first))
            with gr.Column(scale=3):
                shown = _shown()
                save = gr.Button("Download the plan file", elem_id="save")
        _wire(page, explorer, panel, shown, save)
    return page


def _panel(explorer: Explorer, first: str) -> Components:
    """Make the controls, with the upload of a plan file and the message about it."""
    names, profiles = list(explorer.networks), list(explorer.profiles)
    made: Components = {
        "network": gr.Dropdown(names, value=first, label="Network", elem_id="network")
    }
    for cost, called in COSTS.items():
        on = cost in _ON
        label = f"{called[0].upper()}{called[1:]}, % of the original"
        with gr.Group():
            made[f"on-{cost}"] = gr.Checkbox(on, label=f"Budget of {called}", elem_id=f"on-{cost}")
            made[f"share-{cost}"] = gr.Slider(
                _LEAST, _WHOLE, _SHARE, step=1, label=label, visible=on, elem_id=f"share-{cost}"
            )
    divisors = [(str(divisor), divisor) for divisor in DIVISORS]
    return made | {
        "profile": gr.Dropdown(
            profiles, value=profiles[0], label="Device, for latency and divisor auto"
        ),
        "divisor": gr.Radio(divisors, value="auto", label="Divisor", elem_id="divisor"),
        "strategy": gr.Radio(
            list(STRATEGIES), value="SynExp", label="Strategy", elem_id="strategy"
        ),
        "balance": gr.Slider(
            0.1, _MOST_BALANCE, value=BALANCE, step=0.1, label="Balance", elem_id="balance"
        ),
        "expand": gr.Checkbox(False, label="Layers may widen (expand)", elem_id="expand"),
        "ignore": gr.Textbox(
            "",
            label="Ignored layers",
            placeholder="layer4.*, conv1",
            max_length=LONGEST,
            elem_id="ignore",
        ),
        "file": gr.File(
            label="A plan file to compare with", file_types=[".json"], height=150, elem_id="file"
        ),
        "told": _html("told"),
        "other": gr.State(None, time_to_live=_HOUR),
    }


def _html(name: str) -> gr.HTML:
    return gr.HTML(elem_id=name, apply_default_css=False)


def _shown() -> Components:
    """Make the components that show the answer."""
    made: Components = {name: _html(name) for name in ("refused", "totals")}
    made["picture"] = gr.Plot(show_label=False, elem_id="picture")
    made |= {name: _html(name) for name in ("remarks", "beside", "layers")}
    with gr.Row():
        made["command"] = gr.Code(label="In a shell", language="shell", elem_id="command", lines=5)
        made["python"] = gr.Code(label="In Python", language="python", elem_id="python", lines=5)
    return made


def _wire(
    page: gr.Blocks, explorer: Explorer, panel: Components, shown: Components, save: gr.Button
) -> None:
    """Connect the components, so that moving, choosing or pressing one has its effect."""
    network, other, told = (panel[name] for name in ("network", "other", "told"))
    switches, shares = ([panel[f"{kind}-{cost}"] for cost in COSTS] for kind in ("on", "share"))
    named = [panel[name] for name in _AS_THEY_ARE if name != "expand"]
    inputs = {*switches, *shares, *named, panel["ignore"], panel["expand"], network, other}

    def answer(values: Values) -> Values:
        found = _answer(explorer, _controls(panel, values), values[other])
        return {shown[name]: value for name, value in found.items()}

    def widest(expand: bool, *shares: float) -> list[Any]:
        most = _TWICE if expand else _WHOLE
        return [gr.update(maximum=most, value=min(share, most)) for share in shares]

    def set_beside(path: str | None) -> Values:
        found: dict[Any, Any] = {other: None, told: ""}
        try:
            if path is not None:
                found[other] = plan = uploaded(Path(path))
                if plan.source is not None and str(plan.source) in explorer.networks:
                    found[network] = str(plan.source)
        except PrecropError as error:
            found[told] = refusal("No such file.", str(error))
        return found

    def written(values: Values) -> Values:
        controls = _controls(panel, values)
        try:
            plan = explorer.plan(controls)
        except PrecropError:  # which the page shows already
            return {name: "", text: ""}
        return {name: file_name(explorer.named(controls.network)), text: plan.to_json()}

    quietly: Any = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    answered = {"inputs": inputs, "outputs": list(shown.values()), **quietly}
    page.load(answer, **answered)
    network.input(answer, **{**answered, "show_progress": "minimal"})
    moves = [part.input for part in (*switches, *shares, *named)]
    gr.on([*moves, panel["ignore"].change], answer, trigger_mode="always_last", **answered)
    for switch, share in zip(switches, shares, strict=True):
        switch.input(None, switch, share, js="(on) => ({visible: on, __type__: 'update'})")
    expand = panel["expand"]
    expand.input(widest, [expand, *shares], shares, **quietly).then(answer, **answered)
    for event in (panel["file"].upload, panel["file"].clear):
        event(set_beside, panel["file"], [other, network, told], **quietly).then(answer, **answered)
    name, text = gr.Textbox(visible=False), gr.Textbox(visible=False)
    save.click(written, inputs, [name, text], **quietly).success(None, [name, text], None, js=_SAVE)
