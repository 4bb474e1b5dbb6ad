"""Draws a tutorial's picture: MobileNetV2 at half its parameters and half its MACs."""

from pathlib import Path

import precrop
from precrop.plans.plot import plot
from precrop.zoo import load_model

TARGET = Path(__file__).parent.parent / "docs" / "images" / "mobilenet_v2_widths.png"


def main() -> None:
    """Plan the network, and write the picture."""
    model = load_model("mobilenet_v2", {})
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    plot(precrop.plan(model, (3, 224, 224), params=0.5, macs=0.5), TARGET, "MobileNetV2")


if __name__ == "__main__":
    main()
