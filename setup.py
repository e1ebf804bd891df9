"""What pyproject.toml cannot say: the wheel carries data/ as varmini/assets/, and results/.

Of the results, it carries what notebooks and commands read. It also gets py.typed (PEP 561: the
type hints are for users, too), which would only be in a reader's way in the checkout.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class Build(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            (Path(self.build_lib) / "varmini" / "py.typed").touch()


setup(
    cmdclass={"build_py": Build},
    packages=[*find_packages(include=["varmini*"]), "varmini.assets", "varmini.results"],
    package_dir={"varmini.assets": "data", "varmini.results": "results"},
    package_data={
        "varmini": ["**/*"],
        "varmini.assets": ["*_subset/*.parquet", "models/**/*", "README.md", "SHA256SUMS"],
        "varmini.results": ["**/*.csv", "comparison/*.png", "words/*.png", "motion/*.safetensors"],
    },
    exclude_package_data={"varmini": ["**/__pycache__/*"]},
)
