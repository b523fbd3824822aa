"""The stages: autoencode, align, diffuse, join, distil. Each says what one step optimises; the loop knows none."""

from medcodi.stages.stage import STAGES, Stage, StepOutput, build_stage, stage_class

__all__ = ["STAGES", "Stage", "StepOutput", "build_stage", "stage_class"]
