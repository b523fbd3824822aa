"""XMP packets that mark an image as generated, so that any machine can read it in the file: IPTC's source type, the model, a hash of the pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from medcodi.errors import DataError

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = _SOURCE_TYPES + "trainedAlgorithmicMedia"
EDITED = _SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"  # also sheets of real and generated films
MEDCODI = "MedCoDi"  # how the system of every mark of ours begins
PNG_KEYWORD = "XML:com.adobe.xmp"  # of the iTXt chunk that holds a packet (XMP specification, part 3)
_MAX_CHARACTERS = 1 << 20  # of a packet that is parsed; ours have about 1,000
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NAMESPACES = {"Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", "medcodi": "urn:medcodi:mark:1#"}
# Field of a mark -> its property. IPTC names the first three (Photo Metadata Standard 2025.1).
_PROPERTIES = {
    "source_type": ("Iptc4xmpExt", "DigitalSourceType"),
    "system": ("Iptc4xmpExt", "AISystemUsed"),
    "version": ("Iptc4xmpExt", "AISystemVersionUsed"),
    "direction": ("medcodi", "Direction"),
    "seed": ("medcodi", "Seed"),
    "pixels_sha256": ("medcodi", "PixelsSHA256"),
    "watermark": ("medcodi", "Watermark"),
    "notice": ("medcodi", "Notice"),
}
_FIELDS = {f"{{{_NAMESPACES[prefix]}}}{name}": field for field, (prefix, name) in _PROPERTIES.items()}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The content of a packet; "" for a property that it lacks. No prompt is among them: it may be a patient's."""

    source_type: str = ""  # GENERATED, EDITED, or what another system wrote
    system: str = ""  # "MedCoDi model demo"
    version: str = ""  # SHA-256 of the model
    direction: str = ""
    seed: str = ""
    pixels_sha256: str = ""  # of the grey levels: medcodi.data.images.pixels_sha256
    watermark: str = ""  # version of the invisible watermark
    notice: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether MedCoDi wrote it."""
        return bool(self.pixels_sha256) or self.system.startswith(MEDCODI)

    def packet(self) -> str:
        """The packet as text, the same for the same mark."""
        properties = [
            f"{prefix}:{name}={quoteattr(value)}"
            for (prefix, name), value in zip(_PROPERTIES.values(), asdict(self).values(), strict=True)
            if value
        ]
        spaces = [f"xmlns:{prefix}={quoteattr(uri)}" for prefix, uri in _NAMESPACES.items()]
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">\n'
            f'<rdf:Description rdf:about="" {" ".join(spaces)}\n {chr(10).join(properties)}/>\n'
            '</rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'
        )


def read_mark(packet: str | bytes, where: str) -> Mark:
    """Read a packet of any system: properties may be attributes or elements.

    Raises:
        DataError: If it is no XML in UTF-8, has more than a million characters, or declares entities.
    """
    try:
        text = packet if isinstance(packet, str) else packet.decode("utf-8")
        # Entities could grow without bound; no XMP packet needs a document type.
        if len(text) > _MAX_CHARACTERS or "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("it is too long, or declares a document type")
        root = ElementTree.fromstring(text.strip("\0 \r\n\t"))
    except (ValueError, ElementTree.ParseError) as error:
        raise DataError(
            f"the XMP packet of {where} is unreadable: {error}",
            expected="RDF in XML, as XMP has it",
            fix="take the file as it was generated",
        ) from None
    values: dict[str, str] = {}
    for element in root.iter():
        content = element.get(f"{{{_RDF}}}resource") or element.text or ""
        for name, value in (*element.attrib.items(), (element.tag, content)):
            if name in _FIELDS:
                values.setdefault(_FIELDS[name], value.strip())
    return Mark(**values)
