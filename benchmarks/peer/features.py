"""Inception-v3 features of PNG files, first pass, beside torch-fidelity's own pipeline (more: ``benchmarks/extraction.py``)."""

from __future__ import annotations

import shutil
from pathlib import Path

from extraction import film, random_inception
from PIL import Image

from medcodi.evaluation.annotators.features import FeatureExtractor, load_extractor
from medcodi.evaluation.annotators.weights import LoadRequest
from medcodi.storage.atomic import sha256_file
from peer import Comparison, Sizes


def comparison(sizes: Sizes, folder: Path) -> Comparison:
    """The same network with the same weights and files; ours into a cache that is empty at every turn."""
    from torch_fidelity import utils

    number, batch = sizes.of((64, 16), (2, 2))
    weights, cache = folder / "inception.pth", folder / "cache"
    random_inception(weights)
    paths = [folder / f"{index:04}.png" for index in range(number)]
    for index, path in enumerate(paths):
        Image.fromarray(film(index, 256)).save(path)
    peer = utils.create_feature_extractor(
        "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(weights), verbose=False
    )
    extractor = load_extractor("inception", weights=weights, sha256=sha256_file(weights))

    def ours() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        request = LoadRequest(cache=cache, batch_size=batch)
        FeatureExtractor(extractor.row, extractor.network, request).annotate(paths, "frontal")

    def theirs() -> None:
        dataset = utils.ImagesPathDataset([str(path) for path in paths])
        utils.get_featuresdict_from_dataset(dataset, peer, batch, False, False, False)

    what = f"Inception-v3 features of {number} PNG files of 256 x 256, first pass"
    return Comparison(what=what, calls={"ours": ours, "torch-fidelity": theirs}, goal=1 / 1.2, facts={"films": number})
