# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One package for pip and for colcon (ament_python): the core without ROS, and the ROS 2 adapters."""

from glob import glob

from setuptools import find_packages, setup

NAME = "copilot4d_ros"

setup(
    name=NAME,
    version="0.1.0",
    description="LiDAR tokenizer of CoPilot4D as a ROS 2 node",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["copilot4d_core", "copilot4d_core.*", "copilot4d_ros", "copilot4d_ros.*"]),
    package_data={"copilot4d_core": ["weights/*", "data/sensors/*.yaml"], "copilot4d_ros": ["resource/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"{NAME}/resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", glob("launch/*.launch.py")),
        (f"share/{NAME}/config", glob("config/*.*")),
        (f"share/{NAME}/config/sros2", glob("config/sros2/*")),
    ],
    install_requires=[
        "numpy>=1.24", "pyyaml>=6", "warp-lang>=1.14", "safetensors>=0.4", "rosbags>=0.11", "scipy>=1.11", "rich>=13",
        "matplotlib>=3.8", "pillow>=10", "onnx>=1.16", "onnxruntime>=1.17",
    ],
    extras_require={
        "train": ["torch>=2.4", "lightning>=2.4", "tensorboard>=2.14"],
        # ROS 2 Kilted from PyPI, for machines without a ROS installation.
        "ros": ["ros-rclpy==9.1.*", "ros-rmw-fastrtps-cpp==9.3.*", "ros-sensor-msgs==5.5.*", "ros-std-msgs==5.5.*",
                "ros-diagnostic-msgs==5.5.*", "ros-rosgraph-msgs==2.3.*",
                "ros-lifecycle-msgs==2.3.*"],
        # On a Jetson, JetPack brings TensorRT; pycuda compiles against the CUDA toolkit that is installed.
        "gpu": ["pycuda>=2025.1"],
        # CUDA 12: the driver of JetPack 6 is too old for the CUDA 13 that Warp 1.18 and later come with.
        "jetpack6": ["warp-lang>=1.14,<1.18", "pycuda>=2025.1"],
        "tensorrt": ["tensorrt>=10.3"],
        # For Argoverse 2; the same as in copilot4d_core/data/argoverse.py.
        "data": ["pyarrow>=15"],
        # For `copilot4d view`; the same as in copilot4d_core/cli_view.py.
        "view": ["rerun-sdk>=0.38,<0.42"],
        # For `copilot4d evaluate --rate-distortion`; the same as in copilot4d_core/evaluation/draco_codec.py.
        "rate": ["DracoPy>=2.2"],
        "test": ["pytest>=8", "pytest-cov>=5", "pytest-xdist>=3.7", "pytest-timeout>=2.3", "tensorrt-rtx-cu13>=1.7; platform_machine == 'x86_64'",
                 "bandit>=1.8", "hypothesis>=6", "websocket-client>=1.8", "ruff>=0.6", "mypy>=1.11", "types-PyYAML",
                 "colcon-core>=0.19", "colcon-ros>=0.5"],
    },
    entry_points={"console_scripts": [
        "copilot4d = copilot4d_core.cli:main",
        "tokenizer_node = copilot4d_ros.entry:tokenizer_node",
        "detokenizer_node = copilot4d_ros.entry:detokenizer_node",
        "token_recorder = copilot4d_ros.entry:token_recorder",
        "bag_player = copilot4d_ros.entry:bag_player",
        "demo_source = copilot4d_ros.entry:demo_source",
    ]},
    # Where `ros2 run` looks for executables; pip ignores it.
    options={"develop": {"script_dir": f"$base/lib/{NAME}"}, "install": {"install_scripts": f"$base/lib/{NAME}"}},
    zip_safe=False,
)
