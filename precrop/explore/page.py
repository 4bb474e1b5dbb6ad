"""The page: controls on the left, the plan that they make on the right.

It is drawn with Gradio, so that it runs on one's own machine and as a Hugging Face Space alike. No
usage is reported, and everything that a browser loads comes from the same server.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from precrop.errors import PrecropError
from precrop.explore.controls import COSTS, DIVISORS, STRATEGIES, Controls, file_name
from precrop.explore.explorer import LONGEST, Explorer, budgets, uploaded
from precrop.explore.html import beside, layers, refusal, remarks, totals
from precrop.explore.picture import picture
from precrop.model_spec import ModelSpec
from precrop.plans.plan import Plan
from precrop.solve.program import BALANCE

_ON = {"params", "macs"}
"""Costs that have a budget when the page is opened."""
_SHARE, _LEAST, _WHOLE, _TWICE = 50, 2, 100, 200
"""Per cents of the original: at first, at least, at most, and at most where layers may widen."""
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
"""The browser writes the file, so that the server need not keep any."""
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

Values = Mapping[Any, Any]
"""What the components hold."""


@dataclass(frozen=True)
class Panel:
    """The controls as components."""

    network: gr.Dropdown
    on: Mapping[str, gr.Checkbox]
    share: Mapping[str, gr.Slider]
    profile: gr.Dropdown
    divisor: gr.Radio
    strategy: gr.Radio
    balance: gr.Slider
    expand: gr.Checkbox
    ignore: gr.Textbox
    file: gr.File
    told: gr.HTML
    other: gr.State

    @property
    def moved(self) -> list[Any]:
        """What is moved by hand and by itself makes another plan."""
        costs = [*self.on.values(), *self.share.values()]
        return [*costs, self.profile, self.divisor, self.strategy, self.balance, self.ignore]

    @property
    def inputs(self) -> set[Any]:
        """All that an answer depends on."""
        return {*self.moved, self.network, self.expand, self.other}

    def controls(self, values: Values) -> Controls:
        """What the components say."""
        asked = {name: (values[self.on[name]], values[self.share[name]]) for name in COSTS}
        return Controls(
            network=values[self.network],
            budgets=budgets(asked),
            divisor=values[self.divisor],
            strategy=values[self.strategy],
            balance=values[self.balance],
            expand=values[self.expand],
            ignore=tuple(values[self.ignore].replace(",", " ").split()),
            profile=values[self.profile],
        )


@dataclass(frozen=True)
class Results:
    """Where the answer is shown."""

    refused: gr.HTML
    totals: gr.HTML
    picture: gr.Plot
    remarks: gr.HTML
    beside: gr.HTML
    layers: gr.HTML
    command: gr.Code
    python: gr.Code
    save: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """All that a move changes."""
        return [shown for shown in vars(self).values() if shown is not self.save]

    def of(self, explorer: Explorer, controls: Controls, other: Plan | None) -> Values:
        """The plan of the controls; if there cannot be one, why, beside what was shown last."""
        try:
            plan = explorer.plan(controls)
        except PrecropError as error:
            said = refusal("No such plan.", str(error))
            return {self.refused: said, self.command: _NONE, self.python: _NONE}
        try:
            compared = beside(plan, other) if other is not None else ""
        except PrecropError as error:
            compared, other = refusal("Not set beside.", str(error)), None
        return {
            self.refused: "",
            self.totals: totals(plan),
            self.picture: picture(plan, other),
            self.remarks: remarks(plan),
            self.beside: compared,
            self.layers: layers(plan, other),
            self.command: explorer.command(controls),
            self.python: explorer.python(controls),
        }


def app(
    model: str = "resnet50",
    args: Mapping[str, Any] | None = None,
    input_shape: tuple[int, ...] | None = None,
    *,
    names: Iterable[str] | None = None,
    profiles: Iterable[str] = (),
) -> gr.Blocks:
    """The page as an app of Gradio's: ``app().launch()`` serves it on this machine.

    Args:
        model: the network that it begins with, as for ``precrop plan``.
        args: for its builder.
        input_shape: of its input, if not the usual one.
        names: of the networks that one can choose; all of ours, torchvision's and timm's if None.
        profiles: files of ``precrop profile`` whose latency can be planned for.

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
                results = _results()
        _wire(page, explorer, panel, results)
    return page


def _panel(explorer: Explorer, first: str) -> Panel:
    network = gr.Dropdown(
        list(explorer.networks), value=first, label="Network", filterable=True, elem_id="network"
    )
    on, share = {}, {}
    for cost, called in COSTS.items():
        label = f"{called[0].upper()}{called[1:]}"
        with gr.Group():
            on[cost] = gr.Checkbox(cost in _ON, label=f"Budget of {called}", elem_id=f"on-{cost}")
            share[cost] = gr.Slider(
                _LEAST,
                _WHOLE,
                value=_SHARE,
                step=1,
                label=f"{label}, % of the original",
                visible=cost in _ON,
                elem_id=f"share-{cost}",
            )
    return Panel(
        network,
        on,
        share,
        profile=gr.Dropdown(
            list(explorer.profiles),
            value=explorer.profiles[0],
            label="Device, for latency and divisor auto",
        ),
        divisor=gr.Radio(
            [(str(n), n) for n in DIVISORS], value="auto", label="Divisor", elem_id="divisor"
        ),
        strategy=gr.Radio(list(STRATEGIES), value="SynExp", label="Strategy", elem_id="strategy"),
        balance=gr.Slider(
            0.1, _MOST_BALANCE, value=BALANCE, step=0.1, label="Balance", elem_id="balance"
        ),
        expand=gr.Checkbox(False, label="Layers may widen (expand)", elem_id="expand"),
        ignore=gr.Textbox(
            "",
            label="Ignored layers",
            placeholder="layer4.*, conv1",
            max_length=LONGEST,
            elem_id="ignore",
        ),
        file=gr.File(
            label="A plan file to set beside", file_types=[".json"], height=150, elem_id="file"
        ),
        told=gr.HTML(elem_id="told", apply_default_css=False),
        other=gr.State(None, time_to_live=_HOUR),
    )


def _results() -> Results:
    refused = gr.HTML(elem_id="refused", apply_default_css=False)
    numbers = gr.HTML(elem_id="totals", apply_default_css=False)
    drawn = gr.Plot(show_label=False, elem_id="picture")
    told = gr.HTML(elem_id="remarks", apply_default_css=False)
    compared = gr.HTML(elem_id="beside", apply_default_css=False)
    rows = gr.HTML(elem_id="layers", apply_default_css=False)
    with gr.Row():
        command = gr.Code(label="In a shell", language="shell", elem_id="command", lines=5)
        python = gr.Code(label="In Python", language="python", elem_id="python", lines=5)
    save = gr.Button("Download the plan file", elem_id="save")
    return Results(refused, numbers, drawn, told, compared, rows, command, python, save)


def _wire(page: gr.Blocks, explorer: Explorer, panel: Panel, results: Results) -> None:
    """What happens when something is moved, chosen or pressed."""

    def answer(values: Values) -> Values:
        return results.of(explorer, panel.controls(values), values[panel.other])

    def widest(expand: bool, *shares: float) -> list[Any]:
        most = _TWICE if expand else _WHOLE
        return [gr.update(maximum=most, value=min(share, most)) for share in shares]

    def set_beside(path: str | None) -> Values:
        found: dict[Any, Any] = {panel.other: None, panel.told: ""}
        try:
            if path is not None:
                found[panel.other] = plan = uploaded(Path(path))
                if plan.source is not None and str(plan.source) in explorer.networks:
                    found[panel.network] = str(plan.source)
        except PrecropError as error:
            found[panel.told] = refusal("No such file.", str(error))
        return found

    def written(values: Values) -> Values:
        controls = panel.controls(values)
        try:
            plan = explorer.plan(controls)
        except PrecropError:  # which the page says already
            return {name: "", text: ""}
        return {name: file_name(explorer.named(controls.network)), text: plan.to_json()}

    quietly = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    shown = {"inputs": panel.inputs, "outputs": results.outputs, **quietly}
    page.load(answer, **shown)
    panel.network.input(answer, **{**shown, "show_progress": "minimal"})
    moves = [part.input for part in panel.moved if part is not panel.ignore]
    gr.on([*moves, panel.ignore.change], answer, trigger_mode="always_last", **shown)
    for cost, switch in panel.on.items():
        switch.input(
            None, switch, panel.share[cost], js="(on) => ({visible: on, __type__: 'update'})"
        )
    shares = list(panel.share.values())
    panel.expand.input(widest, [panel.expand, *shares], shares, **quietly).then(answer, **shown)
    outputs = [panel.other, panel.network, panel.told]
    for event in (panel.file.upload, panel.file.clear):
        event(set_beside, panel.file, outputs, **quietly).then(answer, **shown)
    name, text = gr.Textbox(visible=False), gr.Textbox(visible=False)
    results.save.click(written, panel.inputs, [name, text], **quietly).success(
        None, [name, text], None, js=_SAVE
    )
