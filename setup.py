"""What pyproject.toml cannot say: the wheel carries data/ of the repository as varmini/assets/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["varmini*"]), "varmini.assets"],
    package_dir={"varmini.assets": "data"},
    package_data={
        "varmini": ["**/*"],
        "varmini.assets": ["*_subset/*.parquet", "models/**/*", "README.md", "SHA256SUMS"],
    },
    exclude_package_data={"varmini": ["**/__pycache__/*"]},
)
