"""Whether a profile is of the machine that this is."""

from precrop.costs.machine import describe_machine, part
from precrop.costs.profiles import DeviceProfile
from precrop.deployment.runtimes import check_device
from precrop.errors import PrecropError


def check_here(profile: DeviceProfile) -> None:
    """Refuse a profile that was measured on another machine than this one.

    Raises:
        PrecropError: it was.
    """
    check_device(profile.device)
    there = profile.machine.get(part(profile.device))
    if there is None:  # a roofline
        return
    here = describe_machine(profile.device)[part(profile.device)]
    if here != there:
        raise PrecropError(
            f"this profile is of another device, {there}, and this is {here}: measure here with "
            "precrop profile, or plan without calibrating"
        )
