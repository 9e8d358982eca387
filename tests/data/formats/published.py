"""CUB-200-2011 and ILSVRC2012 in miniature: the published folders, odd cases included."""

from pathlib import Path

from tests.data.formats.layouts import xml
from tests.files import lay_out
from tests.images import encoded, noise

CUB_ALBATROSS = "001.Black_footed_Albatross/Black_Footed_Albatross_0001_796111"
CUB_GRAY = "001.Black_footed_Albatross/Black_Footed_Albatross_0002_55"
CUB_UNBOXED = "002.Laysan_Albatross/Laysan_Albatross_0003_1033"
CUB_ABSENT = "002.Laysan_Albatross/Laysan_Albatross_0002_1027"
FISH, DOG = "n01440764", "n02105855"


def cub(root: Path) -> Path:
    """Four images, of which one is not there and one has no box; two of three classes occur."""
    image = encoded(noise((40, 30)))
    base = "CUB_200_2011"
    return lay_out(
        root,
        {
            f"{base}/README": "",
            f"{base}/images.txt": f"1 {CUB_ALBATROSS}.jpg\n2 {CUB_GRAY}.jpg\n"
            f"3 {CUB_ABSENT}.jpg\n4 {CUB_UNBOXED}.jpg\n",
            f"{base}/classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n"
            "3 003.Sooty_Albatross\n",
            f"{base}/image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
            f"{base}/train_test_split.txt": "1 0\n2 1\n3 1\n4 0\n",
            # The second reaches beyond its image on all sides but the left.
            f"{base}/bounding_boxes.txt": "1 6.0 2.0 25.0 14.0\n2 3.0 -2.0 37.5 44.0\n"
            "3 1.0 1.0 5.0 5.0\n",
            f"{base}/parts/parts.txt": "1 back\n",
            f"{base}/parts/part_locs.txt": "1 1 0.0 0.0 0\n",
            f"{base}/attributes/image_attribute_labels.txt": "1 1 0 3 27.7080\n",
            f"{base}/images/{CUB_ALBATROSS}.jpg": image,
            f"{base}/images/{CUB_GRAY}.jpg": encoded(noise((40, 30), "L")),
            f"{base}/images/{CUB_UNBOXED}.jpg": image,
            "attributes.txt": "1 has_bill_shape::curved_(up_or_down)\n",
            f"segmentations/{CUB_ALBATROSS}.png": encoded(noise((40, 30), "L"), "PNG"),
        },
    )


def ilsvrc(root: Path) -> Path:
    """Kaggle's tree: class folders and XML for training, a flat folder for validation."""
    data, notes = "ILSVRC/Data/CLS-LOC", "ILSVRC/Annotations/CLS-LOC"
    lists = "ILSVRC/ImageSets/CLS-LOC"
    image = encoded(noise((40, 30)))
    several = xml((FISH, 0, 2, 40, 20), (FISH, 30, 25, 12, 5), (FISH, 5, 5, 5, 9))
    return lay_out(
        root,
        {
            f"{data}/train/{FISH}/{FISH}_18.JPEG": image,
            f"{data}/train/{FISH}/{FISH}_36.JPEG": encoded(noise((40, 30), "L")),
            f"{data}/train/{FISH}/{FISH}_37.JPEG": image,
            f"{data}/train/{DOG}/{DOG}_2933.JPEG": encoded(noise((40, 30)), "PNG"),  # so it is
            f"{data}/train/{DOG}/{DOG}_7.JPEG": encoded(noise((40, 30), "CMYK")),
            f"{notes}/train/{FISH}/{FISH}_18.xml": several,
            f"{notes}/train/{FISH}/{FISH}_37.xml": "<annotation><object>",  # cut off
            f"{notes}/train/{FISH}/{FISH}_99.xml": xml((FISH, 1, 1, 2, 2)),  # of no image
            f"{notes}/train/{DOG}/{DOG}_2933.xml": xml((DOG, 1, 1, 40, 30)),
            f"{notes}/train/{DOG}/{DOG}_7.xml": xml((DOG, 30, 20, 60, 50), (DOG, 41, 1, 50, 9)),
            f"{data}/val/ILSVRC2012_val_00000001.JPEG": image,
            f"{data}/val/ILSVRC2012_val_00000002.JPEG": image,
            f"{notes}/val/ILSVRC2012_val_00000001.xml": xml((DOG, 3, 4, 13, 24), (DOG, 1, 1, 9, 9)),
            f"{lists}/train_cls.txt": f"{FISH}/{FISH}_18 1\n{FISH}/{FISH}_1000 2\n"
            "n07753592/n07753592_1 3\n",  # of a class that is not there at all
            f"{lists}/train_loc.txt": f"{FISH}/{FISH}_18 1\n{FISH}/{FISH}_1000 2\n",
            f"{lists}/val.txt": "ILSVRC2012_val_00000001 1\nILSVRC2012_val_00000003 3\n",
            f"{lists}/test.txt": "ILSVRC2012_test_00000001 1\n",
            "LOC_synset_mapping.txt": f"{FISH} tench, Tinca tinca\n{DOG} Shetland sheepdog\n",
            "LOC_val_solution.csv": "ImageId,PredictionString\n"
            f"ILSVRC2012_val_00000002,{FISH} 1 2 30 24 {FISH} 5 6 9 9 \n"
            f"ILSVRC2012_val_00000001,{DOG} 3 4 13 24 {DOG} 1 1 9 9 \n",
        },
    )
