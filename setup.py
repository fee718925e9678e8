"""Builds the extension module with CMake. Everything else about the package stands in pyproject.toml.

Environment: WSSS_CUDA=AUTO|ON|OFF, WSSS_CUDA_ARCHS="80-real;90", WSSS_BUILD_JOBS, WSSS_BUILD_DIR (a folder to keep, so that a
second build only compiles what changed), WSSS_VERSION_LABEL=cu13 (version 0.1.0+cu13), and CMAKE_ARGS for anything more.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.egg_info import egg_info

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(os.environ.get("WSSS_BUILD_DIR") or Path(self.build_temp) / ext.name).resolve()
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output.parent,
            "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "WSSS_VERSION": self.distribution.get_version().partition("+")[0],
            "WSSS_CUDA": os.environ.get("WSSS_CUDA", "AUTO"),
        }
        if archs := os.environ.get("WSSS_CUDA_ARCHS"):
            options["WSSS_CUDA_ARCHS"] = archs
        jobs = os.environ.get("WSSS_BUILD_JOBS", str(os.cpu_count() or 1))
        # A folder that is kept remembers ninja and Python of the build before, which may be gone or another version.
        forget = ["-U", "*Python*", "-U", "*PYTHON*"]
        subprocess.run(
            ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *forget]
            + [f"-D{key}={value}" for key, value in options.items()]
            + shlex.split(os.environ.get("CMAKE_ARGS", "")),
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build), "--target", "_kernels", "--parallel", jobs], check=True)


class LabelledVersion(egg_info):
    def finalize_options(self):
        if label := os.environ.get("WSSS_VERSION_LABEL"):
            self.tag_build = f"+{label}"  # here, because the setup.cfg of an sdist sets an empty one
        super().finalize_options()


setup(
    ext_modules=[Extension("wsss_fast._kernels", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "egg_info": LabelledVersion},
)
