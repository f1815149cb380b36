"""Each of our packages must come from this distribution alone: their names are generic, others on PyPI use some too.

Two distributions that install the same package overwrite each other's modules, silently, in whatever order pip ran.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from dicom_node.errors import SettingsError
from dicom_node.settings import SettingsProblem

DISTRIBUTION = "boneage-node"
PACKAGES = ("dicom_node", "inference", "reports", "training", "conformance")
REMEDY = "Install boneage-node in a virtual environment of its own."


def check_ownership() -> None:
    """Raise SettingsError where one of our packages has no owner, another owner, or is found in another place."""
    problems = [*find_owners(packages_distributions()), *find_strays()]
    if problems:
        raise SettingsError(*problems)


def find_owners(distributions: Mapping[str, Sequence[str]]) -> list[SettingsProblem]:
    """Return a problem for each package that ``distributions`` (package to owners) does not give to us alone."""
    problems = []
    for package in PACKAGES:
        owners = sorted(set(distributions.get(package, ())))
        if owners != [DISTRIBUTION]:
            what = f"The package {package} belongs to {' and '.join(owners) or 'no installed distribution'}."
            problems.append(SettingsProblem("installation", package, what, REMEDY))
    return problems


def find_strays() -> list[SettingsProblem]:
    """Return a problem for each package that Python would import from elsewhere than this one."""
    home = Path(__file__).parents[1]
    problems = []
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None or Path(spec.origin).parents[1] != home:
            what = f"The package {package} is not found beside dicom_node."
            problems.append(SettingsProblem("installation", package, what, REMEDY))
    return problems
