"""What pyproject.toml cannot say: the app's files lie at the top level, and go into mloss_app."""

from setuptools import find_packages, setup

setup(
    script_name="setup.py",  # so that this file is not taken for one of the app's
    packages=[*find_packages(include=["mloss_core", "mloss_core.*"]), "mloss_app"],
    package_dir={"mloss_app": "."},
    package_data={
        "mloss_app": [
            "pages/*.py",
            "views/**/*.py",
            "views/explore/browser/*",
            "views/lab/browser/*",
            "assets/**/*",
            ".streamlit/config.toml",
        ]
    },
)
