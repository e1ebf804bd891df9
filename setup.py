"""What pyproject.toml cannot say: the wheel carries data/ as varmini/assets/, and results/.

Of the results, it carries what notebooks and commands read.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["varmini*"]), "varmini.assets", "varmini.results"],
    package_dir={"varmini.assets": "data", "varmini.results": "results"},
    package_data={
        "varmini": ["**/*"],
        "varmini.assets": ["*_subset/*.parquet", "models/**/*", "README.md", "SHA256SUMS"],
        "varmini.results": ["**/*.csv", "comparison/*.png", "motion/*.gif", "motion/*.safetensors"],
    },
    exclude_package_data={"varmini": ["**/__pycache__/*"]},
)
