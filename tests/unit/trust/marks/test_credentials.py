"""C2PA manifests: signed with one's own key, offline; a change is seen; what is no key is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.data.images import save_png8
from medcodi.errors import DataError
from medcodi.trust.marks import credentials
from medcodi.trust.marks.verify import check_file, films_to_sign
from tests.unit.trust.marks.certificates import write_key


@pytest.fixture
def key(tmp_path: Path) -> credentials.SigningKey:
    return credentials.read_key(*write_key(tmp_path / "key"))


def test_a_film_is_signed_and_a_change_is_seen(generated, key) -> None:
    folder = generated("png16", num_samples=2)
    before = (folder / "0/frontal.png").read_bytes()
    written = credentials.sign(films_to_sign(folder), key)
    assert written == [folder / "0/frontal.c2pa", folder / "1/frontal.c2pa"]
    assert (folder / "0/frontal.png").read_bytes() == before
    check = check_file(folder / "0/frontal.png")
    assert check.outcome == "marked" and check.facts[-1] == "C2PA: signed by Test Hospital, not on a trust list"

    # Another film under the same name, or a manifest that was changed.
    (folder / "0/frontal.png").write_bytes((folder / "1/frontal.png").read_bytes())
    check = check_file(folder / "0/frontal.png")
    assert check.outcome == "changed" and "the film or the manifest was changed" in check.facts[-1]
    (folder / "1/frontal.c2pa").write_bytes(b"none")
    assert check_file(folder / "1/frontal.png").outcome == "changed"


def test_only_marked_films_are_signed_and_no_manifest_is_replaced(generated, key, film, tmp_path: Path) -> None:
    folder = generated()
    credentials.sign(films_to_sign(folder), key)
    with pytest.raises(DataError, match=r"frontal\.c2pa exists"):
        credentials.sign(films_to_sign(folder), key)
    (folder / "frontal.c2pa").unlink()
    save_png8(film, folder / "frontal.png")
    with pytest.raises(DataError, match="is not signed: changed: provenance"):
        films_to_sign(folder)
    with pytest.raises(DataError, match="no PNG"):
        films_to_sign(generated("dicom"))


def test_what_is_no_key_is_refused_with_the_fix(tmp_path: Path) -> None:
    key, chain = write_key(tmp_path / "a")
    locked, _ = write_key(tmp_path / "b", password=b"secret")
    _, other = write_key(tmp_path / "c")
    for pair, said in (
        ((tmp_path / "none.pem", chain), "cannot be read"),
        ((chain, chain), "is no key that C2PA signs with"),
        ((locked, chain), "is no key that C2PA signs with: Password"),
        ((key, key), "holds no certificates"),
        ((key, other), "is not that of"),
    ):
        with pytest.raises(DataError, match=said) as refusal:
            credentials.read_key(*pair)
        assert refusal.value.expected and refusal.value.fix
