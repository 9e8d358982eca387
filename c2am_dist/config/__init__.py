"""What each job can be told: frozen dataclasses, presets, and overrides by dotted path.

The command lines are made from these trees (tyro reads the docstrings below each field),
and the resolved tree is stored as JSON in checkpoints and Parquet metadata. Values are
checked on construction; an error names the dotted path. Credentials never belong here.
"""

from c2am_dist.config.jobs import (
    EvaluateConfig,
    EvaluateMasksConfig,
    ExportConfig,
    ExportFormat,
    PrepareConfig,
    RefineConfig,
)
from c2am_dist.config.label import ClassifyConfig, LabelConfig, LabelMethod
from c2am_dist.config.parts import (
    BridgingConfig,
    DataConfig,
    EncoderName,
    HeadInit,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScalingConfig,
)
from c2am_dist.config.presets import PRESETS
from c2am_dist.config.train import Method, Preset, TrainConfig
from c2am_dist.config.tree import digest, flat, override, to_json

__all__ = [
    "PRESETS",
    "BridgingConfig",
    "ClassifyConfig",
    "DataConfig",
    "EncoderName",
    "EvaluateConfig",
    "EvaluateMasksConfig",
    "ExportConfig",
    "ExportFormat",
    "HeadInit",
    "LabelConfig",
    "LabelMethod",
    "LossConfig",
    "Method",
    "ModelConfig",
    "OptimConfig",
    "PrepareConfig",
    "Preset",
    "RefineConfig",
    "RunConfig",
    "ScalingConfig",
    "TrainConfig",
    "digest",
    "flat",
    "override",
    "to_json",
]
