"""The classes of each label space, by name. Imports nothing, since settings are read with it."""

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")

# FedCVD's labels (arXiv 2411.07050), by number; LBFB is a block of the left bundle or of one of its fascicles.
FEDCVD20 = (
    "NORM",
    "STACH",
    "SBRAD",
    "SARRH",
    "PAC",
    "AFIB",
    "AFLT",
    "SVTAC",
    "PVC",
    "1AVB",
    "2AVB",
    "3AVB",
    "LBFB",
    "RBBB",
    "LAE",
    "LVH",
    "RVH",
    "AMI",
    "IMI",
    "ASMI",
)
SPACES = {"superclasses": SUPERCLASSES, "fedcvd20": FEDCVD20}
DEFAULT_SPACE = "superclasses"
