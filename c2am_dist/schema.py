"""Columns and types of the files this project writes.

Boxes are ``x0 y0 x1 y1`` in pixels of the stored image turned upright (EXIF applied),
half-open: x1 and y1 are the first column and row outside. See docs/data.md.
"""

import pyarrow as pa

BOX = pa.list_(pa.int32(), 4)

SHARD = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # the file's bytes, untouched
        pa.field("width", pa.int32(), nullable=False),  # upright
        pa.field("height", pa.int32(), nullable=False),
        pa.field("label", pa.string()),  # the image's class, where it has one
        pa.field("labels", pa.list_(pa.string())),  # all its classes, sorted; null: unknown
        pa.field("boxes", pa.list_(BOX)),  # null: unknown; empty: known to hold none
        pa.field("box_labels", pa.list_(pa.string())),  # one class a box
        pa.field("mask", pa.binary()),  # PNG: class ids, 255 = ignore
        pa.field("split", pa.string()),
    ]
)
"""Image shards (jobs/prepare.py). Readers need image_id and image; other columns may lack."""

ERRORS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
    ]
)
"""errors.parquet: what prepare could not read."""

CLASS_MAP = pa.struct(
    [
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("map", pa.binary(), nullable=False),  # 16-bit PNG, the class bright
    ]
)

PSEUDO_BOX = pa.struct(
    [
        pa.field("x0", pa.int32(), nullable=False),
        pa.field("y0", pa.int32(), nullable=False),
        pa.field("x1", pa.int32(), nullable=False),
        pa.field("y1", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # [0, 1]
    ]
)

LABELS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # file name of the shard it came from
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("pseudo_boxes", pa.list_(PSEUDO_BOX)),  # largest first; null on error
        pa.field("foreground_fraction", pa.float32()),  # share of cells above the threshold
        pa.field("confidence", pa.float32()),  # mean |2P - 1| of the map, [0, 1]
        pa.field("threshold", pa.float32()),  # share of the map's maximum, [0, 1)
        pa.field("threshold_source", pa.string()),  # given, otsu or evaluation
        pa.field("polarity", pa.string()),  # what raw P highlights: foreground or background
        pa.field("polarity_margin", pa.float32()),  # share of votes beyond one half, [0, 0.5]
        pa.field("class_name", pa.string()),  # whose map it is; null where methods know no classes
        pa.field("activation_map", pa.binary()),  # 16-bit PNG, foreground bright
        pa.field("class_maps", pa.list_(CLASS_MAP)),  # one for each of the image's classes
        pa.field("background_cue", pa.binary()),  # 8-bit PNG, 255 = background
        pa.field("norm_map", pa.binary()),  # 16-bit PNG, normalised norm of the features
        pa.field("similarity_map", pa.binary()),  # 16-bit PNG, (S + 1) / 2 of their cosine S
        pa.field("checkpoint_sha256", pa.string(), nullable=False),
        pa.field("config_sha256", pa.string(), nullable=False),
        pa.field("package_version", pa.string(), nullable=False),
        pa.field("error", pa.string()),  # null when the image was labeled
    ]
)
"""Labels (jobs/label.py): exactly one row an input image. The files' metadata name the method."""

LATER_LABEL_COLUMNS = ("class_name", "class_maps", "norm_map", "similarity_map")
"""Of LABELS, those that label files of version 0.1 may lack: readers do without."""

PSEUDO_MASKS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # file name of the shard it came from
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("pseudo_mask", pa.binary()),  # PNG of ids 0 to K in VOC's colours; null on error
        pa.field("classes", pa.list_(pa.string())),  # whose maps competed, in the order of ids
        pa.field("background", pa.string()),  # what competed with them: cue or threshold
        pa.field("threshold", pa.float32()),  # the constant background; null with cues
        pa.field("refinement", pa.string()),  # of the mask: none, crf or guided
        pa.field("maps_sha256", pa.string(), nullable=False),  # of the checkpoint behind the maps,
        pa.field("cues_sha256", pa.string()),  # and the cues; of folders, of names and sizes
        pa.field("config_sha256", pa.string(), nullable=False),
        pa.field("package_version", pa.string(), nullable=False),
        pa.field("error", pa.string()),  # null when there is a mask
    ]
)
"""Pseudo masks (jobs/refine.py): exactly one row an input image. The files' metadata hold the
label map, which says what the ids mean."""

PREDICTIONS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # file name of the shard it came from
        pa.field("classes", pa.list_(pa.string())),  # the five likeliest, best first; null on error
        pa.field("probabilities", pa.list_(pa.float32())),  # one a class, [0, 1]
        pa.field("label", pa.string()),  # the shard's, where it has one
        pa.field(
            "classifier", pa.string(), nullable=False
        ),  # architecture, as torchvision spells it
        pa.field("checkpoint_sha256", pa.string(), nullable=False),  # of the file of weights
        pa.field("config_sha256", pa.string(), nullable=False),
        pa.field("package_version", pa.string(), nullable=False),
        pa.field("error", pa.string()),  # null when the image was classified
    ]
)
"""Predictions of a classifier: exactly one row an input image. Where there are fewer than five
classes, all of them; they are called as the label column of the shards calls them."""
