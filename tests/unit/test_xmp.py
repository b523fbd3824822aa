"""XMP packets: read back as written, read as others write them, and refused where they are none."""

from __future__ import annotations

import pytest

from medcodi.errors import DataError
from medcodi.xmp import EDITED, GENERATED, Mark, read_mark

MARK = Mark(
    source_type=GENERATED,
    system='MedCoDi model "a" & <b>',
    version="0" * 64,
    direction="report->frontal",
    seed="7",
    pixels_sha256="1" * 64,
    notice="Synthetic. Über 'alles'.",
)


def test_a_packet_is_read_back_and_is_the_same_each_time() -> None:
    packet = MARK.packet()
    assert read_mark(packet, "x") == MARK == read_mark(packet.encode(), "x") and packet == MARK.packet()
    assert MARK.is_ours and not read_mark(Mark(source_type=EDITED, system="Another").packet(), "x").is_ours
    assert packet.startswith("<?xpacket begin=") and 'DigitalSourceType="http://cv.iptc.org/newscodes/' in packet


def test_properties_may_be_elements_and_resources() -> None:
    packet = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
     <rdf:Description xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">
      <e:AISystemUsed> Another system </e:AISystemUsed>
      <e:DigitalSourceType rdf:resource="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
     </rdf:Description></rdf:RDF></x:xmpmeta>"""
    assert read_mark(packet, "x") == Mark(source_type=GENERATED, system="Another system")


@pytest.mark.parametrize(
    ("packet", "said"),
    [
        ("<x:xmpmeta", "unbound prefix|unclosed token|no element"),
        (b"\xff\xfe", "utf-8"),
        ('<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>', "declares a document type"),
        ("<a>" + " " * 2**20 + "</a>", "too long"),
    ],
    ids=["torn", "no text", "entities", "long"],
)
def test_what_is_no_packet_is_refused(packet: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=rf"XMP packet of film\.png is unreadable: .*({said})"):
        read_mark(packet, "film.png")
