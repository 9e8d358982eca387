"""What labeling and classification can be told."""

import dataclasses
from typing import Literal

from c2am_dist.config.parts import EncoderName
from c2am_dist.config.tree import require

LabelMethod = Literal["auto", "c2am", "cam", "bridging", "ddt", "psol", "sipe", "saliency"]
CueRefinement = Literal["none", "crf", "guided"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig:
    """Write pseudo boxes and background cues for every image of a set."""

    checkpoint: str = ""
    """URI of a checkpoint folder, or of a run (its final, else its latest checkpoint). With
    ``encoder`` a torchvision-format file, or a torchvision weights name (``IMAGENET1K_V2``)."""
    input: tuple[str, ...] = ()
    """Shards to label: one or more URIs."""
    output: str = ""
    """Folder URI for the label files. The same command again goes on where a job was cut off."""
    method: LabelMethod = "auto"
    """What labels: ``auto`` is the checkpoint's own method, of a classifier ``cam``. ``ddt`` takes
    the encoder of any checkpoint, and reads the shards twice."""
    encoder: EncoderName | None = None
    """Architecture of a plain torchvision file or weights name; a checkpoint knows its own."""
    class_names: str = ""
    """What a plain classifier's outputs are: URI of a text file, a class a line in their order, or
    ``labels`` for the sorted labels of the input (ImageNet's order). If unset, of a weights name
    what torchvision calls them."""
    classes: Literal["true", "predicted"] = "true"
    """cam, bridging and sipe: show the class that the shards' column ``label`` names (of images of
    several classes, those in ``labels``), or the predicted ones."""
    sipe_maps: Literal["specific", "general"] = "specific"
    """sipe: label by the image-specific maps (IS-CAM), or by the class activation maps."""
    ddt_scope: Literal["class", "set"] = "class"
    """ddt: find what the images of each class (column ``label``) have in common, or all images."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes, relative to ``size_px``, whose maps are summed (METHODS: 0.5 1 1.5 2 for cues)."""
    flip: bool = False
    """Add the maps of the mirrored image."""
    size_px: int | None = None
    """Side in pixels of the square the encoder sees at scale 1; the training crop if unset."""
    threshold: float | Literal["auto", "otsu", "evaluation"] = "auto"
    """Share of the map's maximum above which a cell is foreground: a number in [0, 1), the
    unsupervised ``otsu`` rule, or the one an ``evaluation`` stored in the checkpoint.
    ``auto`` takes the stored one where there is one, else ``otsu``."""
    max_boxes: int = 1
    """Boxes an image, the largest contour first."""
    write_maps: Literal["none", "map", "image"] = "map"
    """Store the activation map as 16-bit PNG at the map's size, at the image's, or not."""
    write_cues: Literal["none", "map", "image"] = "none"
    """Store the background cue as 8-bit PNG (255 = background), likewise."""
    refine_cues: CueRefinement = "none"
    """With ``write_cues image``: refine each cue along the image's edges, by a dense CRF (about a
    second of a CPU an image; needs the extra ``crf``) or by a guided filter."""
    cue_threshold: float | Literal["otsu"] = 0.3
    """With ``refine_cues crf``: share of the map's maximum above which a pixel is foreground before
    the CRF, in [0, 1). 0.3 is published; ``otsu`` finds one for each image, for maps whose
    background is not near 0 yet."""
    write_class_maps: Literal["none", "map", "image"] = "none"
    """cam, bridging and sipe: store the map of each of the image's classes as 16-bit PNG at the
    map's size, at the image's, or not."""
    write_decomposition: bool = False
    """cam and bridging: store the factors of the class activation map, the normalised norm of
    the features and their similarity to the class's weight, as 16-bit PNG at the map's size."""
    batch_size: int = 32
    """Images a forward pass."""
    num_actors: int | None = None
    """Model actors; one per GPU, or one per CPU where there is none, if unset. Without GPUs
    an actor is one thread, so this is how many CPUs label."""
    use_gpu: bool | None = None
    """Give each actor a GPU, or a share of one; if unset, whenever the cluster has one."""
    precision: Literal["bf16", "float32"] = "float32"
    """Autocast type of the forward pass."""
    max_megapixels: float = 100.0
    """Larger images are decoded at a reduced scale where JPEG allows it, else an error row."""
    max_error_fraction: float = 0.01
    """Exit with status 1 when more than this share of the images could not be labeled."""

    def __post_init__(self) -> None:
        require(
            bool(self.scales) and all(0 < s <= 4 for s in self.scales),
            "scales",
            "numbers in (0, 4]",
            self.scales,
        )
        if isinstance(self.threshold, float):
            require(0 <= self.threshold < 1, "threshold", "in [0, 1)", self.threshold)
        if isinstance(self.cue_threshold, float):
            require(0 <= self.cue_threshold < 1, "cue_threshold", "in [0, 1)", self.cue_threshold)
        for name in ("max_boxes", "batch_size"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        require(
            0 <= self.max_error_fraction <= 1,
            "max_error_fraction",
            "in [0, 1]",
            self.max_error_fraction,
        )

    @property
    def sizes_px(self) -> tuple[int, ...]:
        """Sides of the squares the encoder sees, one a scale, of a config whose size is known."""
        assert self.size_px is not None
        return tuple(max(32, round(self.size_px * scale)) for scale in self.scales)

    @property
    def merges_at_image(self) -> bool:
        """Whether maps of several views are merged at the image's size, for what is stored so."""
        has_several = len(self.scales) > 1 or self.flip
        return has_several and "image" in (self.write_maps, self.write_cues, self.write_class_maps)

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        for name in ("checkpoint", "input", "output"):
            require(bool(getattr(self, name)), name, f"given (--{name} URI)", "")

    def check_method(self, method: str) -> None:
        """Raises ValueError naming the first field that asks for what a method cannot do."""
        if method in ("ddt", "psol") or self.write_decomposition:
            who = method if method in ("ddt", "psol") else "write_decomposition"
            require(len(self.scales) == 1, "scales", f"one number for {who}", self.scales)
            require(not self.flip, "flip", f"off for {who}", self.flip)
        is_classifier = method in ("cam", "bridging")
        require(
            is_classifier or not self.write_decomposition,
            "write_decomposition",
            f"off for {method}: only cam and bridging have factors",
            self.write_decomposition,
        )
        has_classes = is_classifier or method == "sipe"
        require(
            has_classes or self.write_class_maps == "none",
            "write_class_maps",
            f"none for {method}: only cam, bridging and sipe have maps of classes",
            self.write_class_maps,
        )
        require(
            self.refine_cues == "none" or self.write_cues == "image",
            "refine_cues",
            "none without write_cues image: cues are refined at the image's size",
            self.refine_cues,
        )
        if method == "psol":
            for name, expected in (("threshold", "auto"), ("write_cues", "none"), ("max_boxes", 1)):
                is_kept = getattr(self, name) == expected
                what = f"{expected} for psol, which gives one box and no map"
                require(is_kept, name, what, getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyConfig:
    """Write the five likeliest classes of every image of a set."""

    checkpoint: str = ""
    """URI of a classifier's checkpoint folder or run. With ``architecture`` a torchvision-format
    file, or a torchvision weights name (``IMAGENET1K_V1``)."""
    input: tuple[str, ...] = ()
    """Shards to classify: one or more URIs."""
    output: str = ""
    """Folder URI for the predictions. The same command again goes on where a job was cut off."""
    architecture: str | None = None
    """Any of torchvision's classifiers by its name, such as ``efficientnet_b7``, whose file or
    weights ``checkpoint`` names; a checkpoint of this package knows its own."""
    class_names: str = ""
    """What the outputs of a torchvision classifier are: URI of a text file, a class a line in
    their order, or ``labels`` for the sorted labels of the input (ImageNet's order). If unset, of a
    weights name what torchvision calls them."""
    crops: Literal["single", "ten"] = "single"
    """Classify the middle of the image, or the mean of ten crops' probabilities: corners, middle,
    and the same mirrored."""
    resize_px: int | None = None
    """Side in pixels of the square that is cropped; as it was trained, or as torchvision says, if
    unset."""
    crop_px: int | None = None
    """Side in pixels of a crop, likewise."""
    resize: Literal["auto", "squeeze", "middle"] = "auto"
    """Squeeze the image into the square, or cut it from the middle as torchvision does; ``auto``
    does as the classifier was trained."""
    batch_size: int = 32
    """Images a forward pass; ten times as many crops."""
    num_actors: int | None = None
    """Model actors; as for labeling."""
    use_gpu: bool | None = None
    """Give each actor a GPU, or a share of one; if unset, whenever the cluster has one."""
    precision: Literal["bf16", "float32"] = "float32"
    """Autocast type of the forward pass."""
    max_megapixels: float = 100.0
    """Larger images are decoded at a reduced scale where JPEG allows it, else an error row."""
    max_error_fraction: float = 0.01
    """Exit with status 1 when more than this share of the images could not be classified."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_megapixels"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("resize_px", "crop_px"):
            value = getattr(self, name)
            require(value is None or value >= 32, name, ">= 32", value)
        require(
            0 <= self.max_error_fraction <= 1,
            "max_error_fraction",
            "in [0, 1]",
            self.max_error_fraction,
        )

    def check_complete(self) -> None:
        """Raises ValueError naming the first field that has no default and was not given."""
        for name in ("checkpoint", "input", "output"):
            require(bool(getattr(self, name)), name, f"given (--{name} URI)", "")
