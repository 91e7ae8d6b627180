"""What a data set's name on the command line means."""

from pathlib import Path

from evaluation.errors import EvaluationError
from evaluation.splits import LabelledData
from online_synclr.paths import CHECK_SET_DIR

CHECK_SET = "check_set"


def load_data(name: str) -> LabelledData:
    """The data set that --data names.

        DIR                      an image folder: <class>/<image>, or so below train, val, test
        check_set                the pictures that ship with the project
        fashion-mnist[:DIR]      the files of Debian's dataset-fashion-mnist, or of its origin
        torchvision:Food101:DIR  a class of torchvision.datasets whose files lie below DIR
        hf:NAME_OR_DIR           a data set of Hugging Face's `datasets`; columns that cannot be
                                 guessed are named: hf:NAME_OR_DIR:IMAGE_COLUMN:LABEL_COLUMN

    A folder of one of these names is ./check_set.

    Raises:
        EvaluationError: there is none; it says how to get it.
    """
    kind, _, rest = name.partition(":")
    if kind == "torchvision":
        from evaluation.data_sources.torchvision_sets import load_torchvision

        class_name, _, folder = rest.partition(":")
        return load_torchvision(class_name, _folder(folder))
    if kind == "hf":
        from evaluation.data_sources.hugging_face import load_hugging_face

        return load_hugging_face(rest)
    if kind == "fashion-mnist":
        from evaluation.data_sources.fashion_mnist import DEBIAN_DIR, load_fashion_mnist

        return load_fashion_mnist(_folder(rest) if rest else DEBIAN_DIR)
    from evaluation.data_sources.image_folder import load_image_folder

    if name == CHECK_SET:
        return load_image_folder(CHECK_SET_DIR, CHECK_SET)
    if not name:
        raise EvaluationError("--data is empty; name a folder of images, or check_set.")
    return load_image_folder(_folder(name))


def _folder(text: str) -> Path:
    return Path(text).expanduser()
