"""Maps of images of several classes, and what rows make of them, without the job around it."""

import json

import numpy as np
import torch
import torch.nn.functional as F

from c2am_dist.config import LabelConfig
from c2am_dist.labeling.batches import Batch
from c2am_dist.labeling.localizers import SaliencyLocalizer
from c2am_dist.labeling.merging import View
from c2am_dist.labeling.multilabel import Classes, MultiLabelLocalizer, SipeLocalizer
from c2am_dist.labeling.rows import Provenance, label_rows
from c2am_dist.method.activation import merge_scales
from c2am_dist.method.cam import class_activation
from c2am_dist.method.images import decode_png8, decode_png16
from c2am_dist.method.sipe_model import merged_maps
from tests.checkpoints import CROP_PX
from tests.labeling.methods import CLASSES, random_classifier, random_saliency, random_sipe

IMAGES = torch.rand(4, 3, CROP_PX, CROP_PX, generator=torch.Generator().manual_seed(0)) * 4 - 2
LISTS = [["bird"], [], ["dog", "bird"], ["bird", "cat", "dog"]]
PRESENT = torch.tensor([[name in names for name in CLASSES] for names in LISTS])
SIZE = (40, 56)


def known(lists: list[list[str]]) -> Batch:
    return {"labels": np.array([json.dumps(names) for names in lists], dtype=object)}


def views() -> list[View]:
    """Two scales, each mirrored as well."""
    scaled = {s: F.interpolate(IMAGES, scale_factor=s, mode="bilinear") for s in (0.5, 1.0)}
    plain = [View(images, scale, False) for scale, images in scaled.items()]
    return plain + [View(view.images.flip(3), view.scale, True) for view in plain]


def classes_of(*, of_labels: bool = True, keeps_views: bool = True) -> Classes:
    return Classes(CLASSES, of_labels=of_labels, keeps_views=keeps_views)


def rows_of(found: Batch, **changes: object) -> list[dict]:
    """The rows of what was found in four images of SIZE."""
    config = LabelConfig(write_maps="image", write_cues="image", **changes)  # type: ignore
    provenance = Provenance(
        method="cam",
        threshold=0.2,
        threshold_source="given",
        polarity=None,
        polarity_margin=None,
        checkpoint_sha256="",
        config_json="",
        config_sha256="",
    )
    block = {
        "image_id": np.array(list("abcd")),
        "shard": np.array(["s"] * 4),
        "height": np.full(4, SIZE[0]),
        "width": np.full(4, SIZE[1]),
        "error": np.array([""] * 4),
        **found,
    }
    return label_rows(block, config=config, provenance=provenance).to_pylist()


def assert_maps(row: dict, names: list[str], expected: np.ndarray) -> None:
    """Rows hold the maps of the classes in the model's order, and their maximum, at SIZE."""
    assert row["class_name"] is None
    assert [each["class_name"] for each in row["class_maps"]] == names
    for each, one in zip(row["class_maps"], expected, strict=True):
        np.testing.assert_allclose(decode_png16(each["map"]), one, atol=1e-4)
    brightest = expected.max(axis=0) if names else np.zeros(SIZE)
    np.testing.assert_allclose(decode_png16(row["activation_map"]), brightest, atol=1e-4)
    np.testing.assert_allclose(decode_png8(row["background_cue"]), 1 - brightest, atol=1 / 254)
    assert bool(row["pseudo_boxes"]) == bool(names)


def test_cam_gives_a_map_for_each_class_of_an_image_merged_at_the_images_size():
    model = random_classifier()
    with torch.inference_mode():
        found = MultiLabelLocalizer(model, classes_of()).locate(views(), known(LISTS))
        per_view = []
        for view in views():
            features = model.encoder.last_stage(model.encoder(view.images))
            maps = class_activation(features, model.fc.weight).relu().flatten(0, 1)[:, None]
            per_view.append(maps.flip(3) if view.is_mirrored else maps)
    expected = merge_scales(per_view, SIZE).unflatten(0, (4, 3))[:, :, 0]
    rows = rows_of(found, scales=(0.5, 1.0), flip=True, write_class_maps="image")
    for row, maps, is_present in zip(rows, expected, PRESENT, strict=True):
        names = [name for name, is_in in zip(CLASSES, is_present, strict=True) if is_in]
        assert_maps(row, names, maps[is_present].numpy())
    assert found["class_activation"].shape == (4, 3, 4, 4)


def test_sipes_maps_are_those_of_its_inference_on_the_same_views():
    model = random_sipe()
    scaled = [view.images for view in views() if not view.is_mirrored]
    for maps in ("specific", "general"):
        localizer = SipeLocalizer(model, classes_of(), maps=maps)
        with torch.inference_mode():
            found = localizer.locate(views(), known(LISTS))
            both = merged_maps(model, scaled, PRESENT.long(), size=(4, 4))
        expected = (both.specific if maps == "specific" else both.activation)[:, 1:].numpy()
        for i, is_present in enumerate(PRESENT.numpy()):
            there = found["class_activation"][i, : is_present.sum()]
            np.testing.assert_allclose(there, expected[i, is_present], atol=1e-5)
        np.testing.assert_allclose(found["activation"], expected.max(axis=1), atol=1e-5)
    assert found["activation"][3].max() == 1 and not found["activation"][1].any()


def test_an_image_that_is_not_finite_is_an_error_of_its_own():
    images = IMAGES.clone()
    images[2] = torch.nan
    for localizer in (
        SipeLocalizer(random_sipe(), classes_of(), maps="specific"),
        MultiLabelLocalizer(random_classifier(), classes_of()),
    ):
        with torch.inference_mode():
            found = localizer.locate([View(images, 1.0, False)], known(LISTS))
        errors = [row["error"] for row in rows_of(found)]
        assert errors == [None, None, "the activation map is not finite", None]


def test_predicted_classes_are_those_more_likely_than_not_and_the_likeliest():
    model = random_classifier()
    with torch.inference_mode():
        logits = model(IMAGES)
        model.fc.bias -= logits.mean(dim=0)  # so that some are likely and some are not
        logits = model(IMAGES)
        found = MultiLabelLocalizer(model, classes_of(of_labels=False)).locate(views(), {})
    for names, one in zip(found["class_names"], logits, strict=True):
        likely = {k for k in range(3) if one[k] > 0} | {int(one.argmax())}
        assert json.loads(names) == [CLASSES[k] for k in sorted(likely)]
    assert len({len(json.loads(names)) for names in found["class_names"]}) > 1


def test_sipe_predicts_by_the_logits_of_the_view_at_full_scale():
    model = random_sipe()
    with torch.inference_mode():
        logits = model(IMAGES, PRESENT.long()).logits
        torch.testing.assert_close(model.logits(IMAGES), logits)
        localizer = SipeLocalizer(model, classes_of(of_labels=False), maps="general")
        found = localizer.locate(views(), {})
    for names, one in zip(found["class_names"], logits, strict=True):
        assert CLASSES[int(one.argmax())] in json.loads(names)


def test_no_image_has_a_class():
    localizer = MultiLabelLocalizer(random_classifier(), classes_of())
    with torch.inference_mode():
        found = localizer.locate(views(), known([[]] * 4))
    rows = rows_of(found, scales=(0.5, 1.0), flip=True, write_class_maps="map")
    for row in rows:
        assert_maps(row, [], np.zeros((0, *SIZE)))


def test_saliencys_maps_are_probabilities_at_a_quarter_of_the_image():
    model = random_saliency()
    with torch.inference_mode():
        found = SaliencyLocalizer(model).locate(views()[1:2], {})
        expected = model(IMAGES).sigmoid()[:, 0]
        merged = SaliencyLocalizer(model, keeps_views=True).locate(views(), {})
        per_view = [model(v.images).sigmoid() for v in views()]
    np.testing.assert_array_equal(found["activation"], expected)
    assert found.keys() == {"activation"} and expected.shape == (4, CROP_PX // 4, CROP_PX // 4)
    per_view[2:] = [maps.flip(3) for maps in per_view[2:]]
    at_image = merge_scales(per_view, SIZE)[:, 0]
    rows = rows_of(merged, scales=(0.5, 1.0), flip=True)
    for row, one in zip(rows, at_image, strict=True):
        np.testing.assert_allclose(decode_png16(row["activation_map"]), one, atol=1e-4)
        np.testing.assert_allclose(decode_png8(row["background_cue"]), 1 - one, atol=1 / 254)
        assert row["class_maps"] is None
