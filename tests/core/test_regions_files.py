"""Files of other programs: those at hand, and small ones written here by each format's rules."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_slidecorr.errors import RegionsError
from napari_slidecorr.io import open_slide, read_regions
from napari_slidecorr.io.regions_asap import SPLINE
from napari_slidecorr.io.regions_file import HOLE_CUT, LOST_HOLE, REPAIRED
from napari_slidecorr.io.regions_halo import NEGATIVE
from napari_slidecorr.io.regions_sniff import format_of
from napari_slidecorr.io.regions_xml import ELLIPSE

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "regions" / "annotations.json").read_text("utf-8"))


@pytest.mark.parametrize("name", GOLDEN)
def test_every_file_at_hand_is_read_or_refused_as_before(shared_data, name):
    expected = dict(GOLDEN[name])
    path = shared_data / "annotations" / name
    if "refused" in expected:
        with pytest.raises(RegionsError) as caught:
            read_regions(path)
        assert str(caught.value) == expected["refused"]
        return
    found = read_regions(path)
    assert sum(region.area_px for region in found.regions) == pytest.approx(expected.pop("area_px"), rel=1e-12)
    assert {
        "format": found.format,
        "regions": len(found.regions),
        "classes": dict(Counter(region.class_name for region in found.regions)),
        "holes": sum(len(region.polygon.interiors) for region in found.regions),
        "skipped": found.skipped,
        "repaired": found.repaired,
        "notes": found.notes,
    } == expected


def test_no_file_at_hand_is_forgotten(shared_data):
    assert {path.name for path in (shared_data / "annotations").iterdir()} == set(GOLDEN)


@pytest.fixture
def read(tmp_path):
    def read_what(text, name="some.xml", *, slide=None):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return read_regions(path, slide=slide)

    return read_what


def corners(found):
    return [[tuple(point) for point in region.polygon.exterior.coords[:-1]] for region in found.regions]


# -- ASAP --------------------------------------------------------------------------------------------------------------


def asap(*annotations, groups=""):
    return (
        '<?xml version="1.0"?><ASAP_Annotations><Annotations>'
        + "".join(annotations)
        + f"</Annotations><AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )


def asap_one(points, kind="Polygon", group="Tumor", name="Annotation 0"):
    inside = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points))
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{inside}</Coordinates></Annotation>"
    )


SQUARE = [(10, 20), (40, 20), (40, 60), (10, 60)]


def test_asap_groups_are_classes(read):
    groups = '<Group Name="Tumor" PartOfGroup="None" Color="#0A0B0C"><Attributes /></Group>'
    found = read(asap(asap_one(SQUARE), asap_one(SQUARE, group="None"), groups=groups))
    assert [region.class_name for region in found.regions] == ["Tumor", ""]
    assert corners(found)[0] == [(20, 10), (20, 40), (60, 40), (60, 10)]
    assert found.colors == {"Tumor": (10, 11, 12)}
    assert found.format == "ASAP XML"


def test_asap_splines_rectangles_and_what_has_no_area(read):
    found = read(
        asap(
            asap_one(SQUARE, "Spline"),
            asap_one([(10, 20), (40, 60)], "Rectangle"),
            asap_one([(1, 1)], "Dot"),
            asap_one(SQUARE, "PointSet"),
            asap_one(SQUARE, "Measurement"),
        )
    )
    assert [region.area_px for region in found.regions] == [1200, 1200]
    assert found.notes == {SPLINE: 1}
    assert sum(found.skipped.values()) == 3


def test_asap_sorts_by_the_order_that_is_written(read):
    jumbled = (
        '<Coordinate Order="2" X="4" Y="4" /><Coordinate Order="0" X="0" Y="0" /><Coordinate Order="1" X="4" Y="0" />'
    )
    one = f'<Annotation Name="a" Type="Polygon" PartOfGroup="A"><Coordinates>{jumbled}</Coordinates></Annotation>'
    assert corners(read(asap(one))) == [[(0, 0), (0, 4), (4, 4)]]


def test_a_hole_is_cut_only_from_its_class(read):
    hole = [(20, 30), (30, 30), (30, 40)]
    found = read(asap(asap_one(SQUARE, group="A"), asap_one(SQUARE, group="B"), asap_one(hole, group="A (holes)")))
    assert [len(region.polygon.interiors) for region in found.regions] == [1, 0]


# -- ImageScope and Halo -------------------------------------------------------------------------------------------------


def region(points, tag="Vertex", **attributes):
    told = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    inside = "".join(f'<{tag} X="{x}" Y="{y}" />' for x, y in points)
    return f"<Region {told}><Vertices>{inside}</Vertices></Region>"


def layer(*regions, name="", attribute="", color="255"):
    told = f'<Attributes><Attribute Name="{attribute}" Id="0" Value="" /></Attributes>' if attribute else ""
    return f'<Annotation Name="{name}" LineColor="{color}">{told}<Regions>{"".join(regions)}</Regions></Annotation>'


def layers(*parts):
    return f'<Annotations MicronsPerPixel="0.25">{"".join(parts)}</Annotations>'


def test_imagescope_types_by_number(read):
    two = [(10, 20), (40, 60)]
    parts = [region(SQUARE, Type=0), region(two, Type=1), region(SQUARE, Type=1), region(two, Type=2)]
    found = read(layers(layer(*parts, region(two, Type=3), region(two, Type=4), name="Tumor")))
    areas = [one.area_px for one in found.regions]
    assert areas[:3] == [1200, 1200, 1200]
    assert areas[3] == pytest.approx(np.pi * 15 * 20, rel=1e-3)
    assert found.notes == {ELLIPSE: 1}
    assert list(found.skipped.values()) == [1, 1]
    assert found.colors == {"Tumor": (255, 0, 0)}  # red is the lowest byte


def test_imagescope_classes_in_the_name_the_attribute_or_the_text(read):
    both = layers(layer(region(SQUARE), name="Named"), layer(region(SQUARE), attribute="CaP"))
    assert read(both).regions.classes == ("Named", "CaP")
    assert read(layers(layer(region(SQUARE, Text="x"), attribute="Description"))).regions.classes == ("x",)
    named_beside_text = read(layers(layer(region(SQUARE, Text="x"), name="A"), layer(region(SQUARE, Text="y"))))
    assert [one.class_name for one in named_beside_text.regions] == ["A", ""]


HOLE = [(20, 30), (30, 30), (30, 40)]


@pytest.mark.parametrize(("tag", "kind", "name"), [("Vertex", 0, "a.xml"), ("V", "Polygon", "a.annotations")])
def test_negative_regions_are_holes_of_their_layer(read, tag, kind, name):
    def one(points, negative=0):
        return region(points, tag, Type=kind, NegativeROA=negative)

    island = [(26, 32), (29, 32), (29, 35)]
    crossing = [(35, 50), (50, 50), (50, 55), (35, 55)]
    far = [(900, 900), (910, 900), (910, 910)]
    parts = [one(SQUARE), one(island), one(HOLE, 1), one(crossing, 1), one(far, 1)]
    found = read(layers(layer(*parts, name="A"), layer(one(SQUARE), name="B")), name)
    assert [r.area_px for r in found.regions] == [1200 - 50 - 25, 4.5, 1200]
    assert found.repaired == {HOLE_CUT: 1}
    assert found.skipped == {LOST_HOLE: 1}


def test_a_hole_may_name_its_region(read):
    hole = region(HOLE, Id=3, NegativeROA=1, InputRegionId=2)
    found = read(layers(layer(region(SQUARE, Id=1), region(SQUARE, Id=2), hole, name="A")))
    assert [len(one.polygon.interiors) for one in found.regions] == [0, 1]


def test_halo_shapes_of_two_corners_and_negative_places(read):
    two = [(-40, -60), (-10, -20)]
    parts = [region(two, "V", Type="Rectangle"), region(two, "V", Type="Ellipse"), region(two, "V", Type="Pin")]
    found = read(layers(layer(*parts, name="A")), "a.annotations")
    assert found.regions.regions[0].polygon.bounds == (-60, -40, -20, -10)
    assert found.regions.regions[1].area_px == pytest.approx(np.pi * 15 * 20, rel=1e-3)
    assert found.notes == {ELLIPSE: 1, NEGATIVE: 2}
    assert found.skipped == {"A Pin was left out: it has no area.": 1}
    assert found.format == "Halo annotations"


# -- HistomicsUI ---------------------------------------------------------------------------------------------------------


def histomics(*elements):
    return json.dumps({"name": "n", "description": "", "elements": list(elements)})


def test_histomics_shapes(read):
    turned = {
        "type": "rectangle",
        "center": [100, 50, 0],
        "width": 40,
        "height": 10,
        "rotation": np.pi / 2,
        "group": "A",
    }
    circle = {
        "type": "circle",
        "center": [10, 20, 0],
        "radius": 5,
        "label": {"value": "B"},
        "lineColor": "rgb(1, 2, 3)",
    }
    closed = {"type": "polyline", "points": [[0, 0, 0], [9, 0, 0], [9, 9, 0]], "closed": True, "id": "5d9f"}
    holed = {**closed, "points": [[x, y, 0] for x, y in SQUARE], "holes": [[[x, y, 0] for x, y in HOLE]], "id": "5d9e"}
    opened = {**closed, "closed": False}
    found = read(histomics(turned, circle, closed, holed, opened, {"type": "point", "center": [1, 2, 0]}), "a.json")
    assert [one.class_name for one in found.regions] == ["A", "B", "", ""]
    assert found.regions.regions[0].polygon.bounds == pytest.approx((30, 95, 70, 105))
    assert found.regions.regions[1].area_px == pytest.approx(np.pi * 25, rel=1e-3)
    assert found.regions.regions[3].area_px == 1150
    assert found.regions.regions[2].uid == "5d9f"
    assert found.colors == {"B": (1, 2, 3)}
    assert sum(found.skipped.values()) == 2


def test_histomics_turns_from_x_towards_y(read):
    element = {"type": "rectangle", "center": [0, 0, 0], "width": 10, "height": 0.1, "rotation": np.pi / 4}
    (found,) = read(histomics(element), "a.json").regions
    y, x = np.array(found.polygon.exterior.coords).T
    assert np.corrcoef(x, y)[0, 1] > 0.99


def test_histomics_documents_in_a_list_or_wrapped(read):
    rectangle = {"type": "rectangle", "center": [100, 50, 0], "width": 40, "height": 10}
    wrapped = {"_id": "1", "annotation": {"name": "n", "elements": [rectangle]}}
    assert len(read(json.dumps([wrapped, wrapped]), "a.json").regions) == 2
    assert len(read(json.dumps(wrapped), "a.json").regions) == 1


# -- NDPA ----------------------------------------------------------------------------------------------------------------


def ndpa(*views):
    return f'<?xml version="1.0" encoding="utf-8" standalone="yes"?><annotations>{"".join(views)}</annotations>'


def view(points, *, kind="freehand", closed=1, title="Tumor", more="", unit="nanometers"):
    listed = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in points)
    return (
        f'<ndpviewstate id="1"><title>{title}</title><details/><coordformat>{unit}</coordformat><lens>0.4</lens>'
        f'<annotation type="{kind}" displayname="AnnotateFreehand" color="#010203"><measuretype>0</measuretype>'
        f"<closed>{closed}</closed><pointlist>{listed}</pointlist>{more}</annotation></ndpviewstate>"
    )


def test_ndpa_counts_nanometres_from_the_centre_of_the_glass(shared_data, read):
    slide = open_slide(shared_data / "slides" / "hamamatsu-test3-DAPI-2-387.ndpi")
    assert slide.offset_from_center_nm == (-96063, 12538720)  # as openslide tells them
    wanted = np.array([(100, 200), (100, 900), (1500, 900), (1500, 200)], float)  # y, x
    nm = (wanted - np.array(slide.shape) / 2) * np.array(slide.mpp) * 1000 + np.array(slide.offset_from_center_nm)
    circle = view([], kind="circle", more=f"<x>{nm[0][1]}</x><y>{nm[0][0]}</y><radius>22817.5</radius>", title="C")
    text = ndpa(view(nm[:, ::-1]), circle, view(nm[:, ::-1], closed=0), view([], kind="pin"), view([], kind="pointer"))
    found = read(text, "a.ndpi.ndpa", slide=slide)
    assert np.allclose(corners(found)[0], wanted, atol=1e-6)
    assert found.regions.regions[1].area_px == pytest.approx(np.pi * 100**2, rel=1e-3)
    assert found.regions.classes == ("Tumor", "C")
    assert found.colors["Tumor"] == (1, 2, 3)
    assert sum(found.skipped.values()) == 3


def test_ndpa_without_its_slide_is_refused(shared_data, read):
    with pytest.raises(RegionsError, match=r"a\.ndpa: .*say which NDPI slide"):
        read(ndpa(view(SQUARE)), "a.ndpa")
    with pytest.raises(RegionsError, match="does not tell its place on the glass"):
        read(ndpa(view(SQUARE)), "a.ndpa", slide=open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs"))


# -- bad input -----------------------------------------------------------------------------------------------------------

BOMB = """<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<ASAP_Annotations><Annotations>&b;</Annotations></ASAP_Annotations>"""
OUTSIDE = """<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<ASAP_Annotations><Annotations>&a;</Annotations></ASAP_Annotations>"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(BOMB, "declares entities", id="bomb"),
        pytest.param(OUTSIDE, "declares entities", id="another file"),
        pytest.param(asap(asap_one(SQUARE))[:-40], "not XML, or cut short", id="cut short"),
        pytest.param(asap(asap_one(SQUARE), asap_one([("NaN", 1), (2, 3), (4, 9)])), "annotation 2 .*finite", id="nan"),
        pytest.param(asap(asap_one([("x", 1), (2, 3), (4, 9)])), "annotation 1 cannot be", id="letters"),
        pytest.param(asap(asap_one(SQUARE, "Blob")), "'Blob', which ASAP does not have", id="unknown type"),
        pytest.param(layers(layer(region([("inf", 1), (2, 3), (4, 9)]))), "region 1 .*finite", id="infinite"),
        pytest.param(layers(layer("<Region><Vertices><Vertex X='1'/></Vertices></Region>")), "has no Y", id="no y"),
        pytest.param("<svg></svg>", "a drawing", id="svg"),
        pytest.param("<Foo></Foo>", "begins with <Foo>", id="unknown xml"),
        pytest.param("<", "no element", id="no element"),
        pytest.param("hello", "not a file of regions", id="text"),
        pytest.param("", "empty", id="empty"),
        pytest.param(b"\0\0\0", "empty", id="zeros"),
        pytest.param(b"PK\x03\x04....", "zip archive", id="zip"),
        pytest.param(b"II*\0....", "a picture", id="tiff"),
        pytest.param(b"\xac\xed\x00\x05sr", "QuPath's own", id="qpdata"),
        pytest.param(histomics({"type": "circle", "center": [1, 2, 0]}), "element 1 .*radius", id="no radius"),
        pytest.param(histomics({"type": "blob"}), "element 1 .*'blob'", id="unknown element"),
        pytest.param(ndpa(view(SQUARE)), "say which NDPI slide", id="ndpa"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(read, content, words):
    with pytest.raises(RegionsError, match=words) as caught:
        read(content)
    assert str(caught.value).startswith("some.xml: ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_file_above_the_bound_is_refused(tmp_path):
    path = tmp_path / "big.geojson"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse: takes no room
    with pytest.raises(RegionsError, match=r"1,074 MB; .* in parts"):
        read_regions(path)


FEATURE = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [[*SQUARE, SQUARE[0]]]},
    "properties": {"classification": {"name": "Tumör"}},
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("kind", ["json", "xml"])
def test_other_encodings_are_understood(read, encoding, kind):
    text = json.dumps(FEATURE, ensure_ascii=False) if kind == "json" else asap(asap_one(SQUARE, group="Tumör"))
    if kind == "xml" and encoding != "utf-8-sig":
        text = text.replace('version="1.0"', f'version="1.0" encoding="{encoding}"')
    found = read(text.encode(encoding), f"a.{kind}")
    assert found.regions.classes == ("Tumör",)
    assert (found.repaired == {}) == (encoding == "utf-8-sig" or (kind == "xml" and encoding == "latin-1"))


@pytest.mark.parametrize("written", ["latin-1", "utf-8"])
@pytest.mark.parametrize("says", ["", "utf-8", "utf-16", "no-such-thing"])
def test_xml_that_lies_about_its_encoding(read, says, written):
    declaration = f' encoding="{says}"' if says else ""
    text = asap(asap_one(SQUARE, group="Tumör")).replace('version="1.0"', f'version="1.0"{declaration}')
    assert read(text.encode(written)).regions.classes == ("Tumör",)


def test_a_stroke_that_overshoots_its_beginning_has_no_hole(read):
    ring = [(0, 0), (10, 0), (10, 10), (0, 10), (0, -2), (5, -2), (5, 5), (-1, 5)]
    found = read(asap(asap_one(ring)))
    assert found.repaired == {REPAIRED: 1}
    assert sum(len(one.polygon.interiors) for one in found.regions) == 0


SAMPLES = [
    asap(asap_one(SQUARE), asap_one(HOLE, group="Tumor (holes)"), asap_one(SQUARE, "Spline")),
    layers(layer(region(SQUARE, Type=0), region(HOLE, Type=0, NegativeROA=1), region(SQUARE, Type=2), name="A")),
    layers(layer(region(SQUARE, "V", Type="Polygon"), region(HOLE, "V", Type="Polygon", NegativeROA=1), name="A")),
    histomics({"type": "rectangle", "center": [9, 5, 0], "width": 4, "height": 1, "rotation": 1.0, "group": "A"}),
    json.dumps([FEATURE, FEATURE]),
]
small = st.tuples(
    st.integers(0, 2000), st.integers(0, 12), st.binary(max_size=4) | st.sampled_from([b"null", b"[", b'"'])
)


@given(sample=st.sampled_from(SAMPLES), cuts=st.lists(small, min_size=1, max_size=4))
@settings(max_examples=400)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path_factory, sample, cuts):
    data = sample.encode("utf-8")
    for at, length, instead in cuts:
        data = data[: at % len(data)] + instead + data[at % len(data) + length :] or b" "
    path = tmp_path_factory.getbasetemp() / "damaged.xml"
    path.write_bytes(data)
    sentence, regions = "damaged.xml: ", ()
    try:
        regions = read_regions(path).regions
    except RegionsError as error:
        sentence = str(error)
    assert sentence.startswith("damaged.xml: ")
    assert all(one.polygon.is_valid and one.area_px > 0 for one in regions)


def test_what_is_in_a_file_decides_not_its_name(read, tmp_path):
    assert read(json.dumps(FEATURE), "a.txt").format == "GeoJSON"
    assert read(asap(asap_one(SQUARE)), "a.json").format == "ASAP XML"
    assert format_of(tmp_path / "a.json") == "regions_asap"
