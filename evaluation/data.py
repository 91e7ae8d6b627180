"""What a data set's name on the command line means."""

from evaluation.splits import LabelledData


def load_data(name: str) -> LabelledData:
    """The data set that --data names.

        DIR                      an image folder: <class>/<image>, or so below train, val, test
        check_set                the pictures that ship with the project
        fashion-mnist[:DIR]      the files of Debian's dataset-fashion-mnist, or of its origin
        torchvision:Food101:DIR  a class of torchvision.datasets whose files lie below DIR
        hf:NAME_OR_DIR           a data set of Hugging Face's `datasets`

    Raises:
        EvaluationError: there is none; it says how to get it.
    """
    raise NotImplementedError
