"""What `medcodi evaluate` is told, as the values of an evaluation config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcodi.checkpoints import demo_checkpoint
from medcodi.config import read_yaml
from medcodi.model_files import read_index

NUM_STUDIES = 200  # of the phantom, where nobody says otherwise


def evaluation_values(
    config: Path | None, *, model: str | None, data: str | None, out_dir: Path | None
) -> dict[str, Any]:
    """Plain values: those of the file, and what the options replace.

    Args:
        config: YAML file; None: held-out phantoms of the model's own image size.
        model: Model folder or hub repository; None: as the file says, else the shipped demo.
        data: Prepared dataset, whose test split is judged; None: as the file says, else phantoms.
        out_dir: Folder of the results; None: as the file says.

    Raises:
        ConfigError: If there is no such file, or it cannot be read.
        CheckpointError: If the model is needed for its image size, and cannot be found.
    """
    values = read_yaml(config) if config else {}
    if model is not None:
        values["model"] = model
    if out_dir is not None:
        values["out"] = str(out_dir)
    if data is not None or "data" not in values:
        chosen = {"source": "phantom", "num_studies": NUM_STUDIES} if data is None else {"path": data}
        _, index = read_index(values.get("model") or demo_checkpoint())
        values["data"] = {"split": "test", "image_size": index["config"]["image_size"], **chosen}
    return values
