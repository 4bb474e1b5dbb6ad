"""The command ``doctor``."""

from collections.abc import Container
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from precrop.cli.options import AsJson, with_options
from precrop.files import json_text
from precrop.plans.text import plain, wide_console
from precrop.progress import step

if TYPE_CHECKING:
    from precrop.deployment.installed import Extra
    from precrop.deployment.quiet import Quiet


@with_options
def doctor_command(as_json: AsJson = False) -> None:
    """Show what is installed, what is missing and how to add it, and what this machine can do."""
    from precrop.costs.machine import describe_machine
    from precrop.deployment.installed import extras
    from precrop.deployment.quiet import listen

    with step("looking around"):
        machine, arithmetic = describe_machine(), _arithmetic()
        found = extras()
    with step("finding out whether the machine is quiet"):
        quiet = listen()
    if as_json:
        content = {
            "machine": machine,
            "arithmetic": arithmetic,
            "quiet": {**asdict(quiet), "enough": quiet.enough},
            "extras": {
                extra.name or "core": {**asdict(extra), "install": extra.command} for extra in found
            },
        }
        typer.echo(json_text(content, indent=1))
        return
    _print(machine, arithmetic, quiet, found)


def _arithmetic() -> dict[str, Any]:
    """Return what PyTorch computes with: threads, libraries, bf16 and GPUs."""
    import torch

    from precrop.training.devices import uses_bf16

    libraries = ("mkl", "openmp", "mkldnn")
    return {
        "threads": torch.get_num_threads(),
        "blas": [name for name in libraries if getattr(torch.backends, name).is_available()],
        "bf16": uses_bf16("auto", torch.device("cpu")),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _print(
    machine: dict[str, Any], arithmetic: dict[str, Any], quiet: "Quiet", extras: "list[Extra]"
) -> None:
    from rich.table import Table

    versions = machine["versions"]
    bf16 = "built in: `train` uses it" if arithmetic["bf16"] else "not built in: `train` uses fp32"
    lines = {
        "precrop": f"{versions.get('precrop', 'not installed')}, Python {machine['python']}, "
        f"{machine['system']}",
        "CPU": f"{machine['cpu']}, {machine['cores']} cores, {machine['instructions']}",
        "PyTorch": f"{versions['torch']} on {arithmetic['threads']} threads, with "
        f"{', '.join(arithmetic['blas']) or 'no fast BLAS'}",
        "bf16": bf16,
        "GPU": ", ".join(arithmetic["gpus"]) or "none that PyTorch can use",
        "quiet": _heard(quiet, machine["cores"]),
    }
    facts = Table(box=None, pad_edge=False, show_header=False)
    for name, text in lines.items():
        facts.add_row(name, plain(text))
    table = Table("extra", "for", "installed", box=None, pad_edge=False, header_style="bold")
    shown: set[str] = set()
    for extra in extras:
        table.add_row(extra.name or "(core)", extra.adds, plain(_state(extra, shown)))
        shown |= extra.versions.keys()
    console = wide_console(160)
    console.print(facts)
    console.print()
    console.print(table)


def _heard(quiet: "Quiet", cores: int) -> str:
    heard = str(quiet) if quiet.load is None else f"{quiet} on {cores} cores"
    if quiet.enough:
        return f"yes: {heard}"
    return f"no: {heard}; what is measured now (bench, profile) can mislead"


def _state(extra: "Extra", shown: Container[str]) -> str:
    """Return what is missing and the command that adds it, or else the versions not yet shown."""
    if extra.command is not None:
        return f"missing {', '.join(extra.missing)}: {extra.command}"
    versions = [f"{name} {extra.versions[name]}" for name in extra.versions if name not in shown]
    return ", ".join(versions) or "yes"
