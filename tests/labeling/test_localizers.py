"""What a method finds in a batch of images, without the job around it."""

import numpy as np
import torch

from c2am_dist.labeling.batches import Batch
from c2am_dist.labeling.localizers import ClassLocalizer, DDTLocalizer, View
from c2am_dist.labeling.transforms import Transforms, from_bytes, to_bytes
from c2am_dist.method.ddt import DescriptorTransform
from tests.checkpoints import CROP_PX
from tests.labeling.methods import CLASSES, random_classifier

IMAGES = torch.rand(4, 3, CROP_PX, CROP_PX, generator=torch.Generator().manual_seed(0)) * 4 - 2


def known(labels: list[str]) -> Batch:
    return {"error": np.array([""] * len(labels)), "label": np.array(labels, dtype=object)}


def transform(seed: int) -> DescriptorTransform:
    mean, component = torch.randn(2, 512, generator=torch.Generator().manual_seed(seed)).double()
    return DescriptorTransform(mean, component / component.norm(), 0.5)


def test_a_class_without_a_transform_is_an_error_of_its_images_alone():
    reason = "class 'dog': DDT needs at least 2 images to find what they have in common, got 1"
    localizer = DDTLocalizer(
        random_classifier().encoder, {"cat": transform(0), "bird": transform(1)}, {"dog": reason}
    )
    labels = ["cat", "dog", "bird", "cat"]
    batch = known(labels) | {"error": np.array(["", "", "", "unreadable"])}
    found = localizer.locate([View(IMAGES, 1.0, False)], batch)
    assert found["error"].tolist() == ["", reason, "", "unreadable"]
    assert found["class_name"].tolist() == labels
    alone = localizer.locate([View(IMAGES[2:3], 1.0, False)], known(["bird"]))
    np.testing.assert_allclose(found["activation"][2], alone["activation"][0], atol=1e-4)


def test_every_view_shows_the_class_predicted_in_the_one_at_full_scale():
    model = random_classifier()
    small = torch.nn.functional.interpolate(IMAGES, scale_factor=0.5)
    views = [View(small, 0.5, False), View(IMAGES.flip(3), 1.0, True), View(IMAGES, 1.0, False)]
    localizer = ClassLocalizer(model, CLASSES, of_label=False, with_factors=False)
    with torch.no_grad():
        found = localizer.locate(views, known(["?"] * 4))
        predicted = model(IMAGES).argmax(dim=1)
        told = ClassLocalizer(model, CLASSES, of_label=True, with_factors=False).locate(
            views, known([CLASSES[i] for i in predicted])
        )
    assert found["class_name"].tolist() == [CLASSES[i] for i in predicted]
    np.testing.assert_array_equal(found["activation"], told["activation"])


def test_transforms_come_back_from_their_file_which_is_the_same_bytes_again():
    found = Transforms({"b": transform(0), "a": transform(1)}, {"c": "one image"})
    data = to_bytes(found)
    back = from_bytes(data)
    assert data == to_bytes(back) and back.reasons == found.reasons
    for name, each in found.by_class.items():
        assert torch.equal(back.by_class[name].component, each.component)
        assert torch.equal(back.by_class[name].mean, each.mean)
    assert b"pickle" not in data
