"""Is a report in English? By its script and its function words; no model, and no guess at which other language it is."""

from __future__ import annotations

import re
import unicodedata


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that carry no content, so that any few sentences hold some.
_ENGLISH = _words(
    """the is are was were of and or with without there has have been not this that which from at by on to for be seen
    noted within evidence normal clear unchanged small large left right mild acute chest heart lungs lung size both"""
)
_OTHERS = _words(
    """el los las del una sin con por para se observa y al derecho izquierdo pulmonar normales tamaño derrame
    der die das und kein keine keinen nicht ist sind mit ohne ein eine im beidseits rechts links herz lunge erguss zeigt
    le les des du et est sont pas avec sans une au aux dans gauche droit poumon coeur épanchement
    il lo gli della delle e è sono non senza destro sinistro polmonare cuore versamento
    os da dos das um uma não sem são pulmão direito esquerdo coração
    het een geen niet met zonder zijn rechter linker hart long
    och inte är med utan av till höger vänster"""
)


def looks_english(text: str) -> bool:
    """Whether a text can pass for English.

    Not if more than a third of its letters are outside the Latin script, or if words that other European languages are
    held together by outnumber the English ones (and are at least two).

    Args:
        text: A report; one without letters passes: it says nothing in any language.
    """
    letters = [character for character in text if character.isalpha()]
    if letters:
        foreign = sum(not unicodedata.name(letter, "").startswith(("LATIN", "GREEK", "MICRO")) for letter in letters)
        if foreign > len(letters) / 3:
            return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    english = sum(word in _ENGLISH for word in words)
    others = sum(word in _OTHERS for word in words)
    return others < 2 or others <= english
