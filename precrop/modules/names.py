"""Names of layers: the module whose weight a parameter is, or is made into."""

import re

# What modules call their weight, and what it is made of where hooks compute it.
_LEAF = re.compile(r".*weight(_orig|_v|_bar)?$")
_PARAMETRISED = re.compile(r"((?P<owner>.*)\.)?parametrizations\.weight\.original1?$")


def is_weight(parameter: str) -> bool:
    """Whether a parameter is named as a module's weight is."""
    return bool(_LEAF.match(parameter.rpartition(".")[2]) or _PARAMETRISED.match(parameter))


def layer_of(parameter: str) -> str:
    """The module whose weight a parameter is; else the parameter, as a layer of its own."""
    parametrised = _PARAMETRISED.match(parameter)
    if parametrised:
        return parametrised["owner"] or ""
    return parameter.rpartition(".")[0] if is_weight(parameter) else parameter
