"""Build of ffrl: what depends on the tree. The metadata are in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).resolve().parent
packages = find_packages(str(root), include=["ffrl", "ffrl.*"])
package_dir: dict[str, str] = {}

# The top-level import name "kernels" belongs to another distribution, so the folder is installed as ffrl.kernels.
if (root / "kernels" / "__init__.py").is_file():
    package_dir["ffrl.kernels"] = "kernels"
    packages += ["ffrl.kernels", *(f"ffrl.kernels.{name}" for name in find_packages(str(root / "kernels")))]

setup(packages=packages, package_dir=package_dir, package_data={"ffrl": ["py.typed"]})
