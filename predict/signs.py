"""The grades and the signs of a verdict by name, and what they mean, for tables and pages that
measure nothing."""

OK, CHECK, FAILED = GRADES = ("ok", "check", "failed")
FACES = ("left", "right"), ("back", "front"), ("bottom", "top")  # low and high end of a RAS+ axis
# Every sign, in plain words with its unit, in the order of a table's columns
SIGNS = {
    "volume_ml": "volume as found (mL)",
    "longest_mm": "longest axis (mm)",
    "flatness": "longest axis / shortest axis",
    "agreement": "views agree (Dice)",
    "agreement_base": "views agree, base third (Dice)",
    "agreement_middle": "views agree, middle third (Dice)",
    "agreement_upper": "views agree, upper third (Dice)",
    "border_mm": "blur of the border (mm)",
    "scattered": "left out as scattered (share)",
    **{f"cut_{face}_mm2": f"cut at the {face} face (mm²)" for axis in FACES for face in axis},
    "faces_air": "border against air (share)",
    "near_bone": "border with bone beside it (share)",
    "bone_inside": "as dense as bone (share)",
    "fat_inside": "fat or air inside (share)",
    "median_hu": "median (HU)",
    "tail_mm": "tail down the canal (mm)",
    "upright": "head up (1) or down (-1)",
}
# What a grade says, in a line and for whoever asks for more
GRADE_WORDS = {
    OK: ("Nothing speaks against this mask.", "No sign is beyond its limits."),
    CHECK: (
        "Look closely before you use it.",
        "A sign is beyond the limit where masks begin to be worth a look. Many of them are right.",
    ),
    FAILED: (
        "Do not use this mask.",
        "A sign is where no mask of a head has it, or nothing was found.",
    ),
}
_THIRD = "The same in one third of the mask's height: a fault in a small part shows there first."
_CUT = "Area of the mask at this face of the scan: the brain may go on where the scan ends."
SIGN_WORDS = {  # what each sign means, in a line
    "volume_ml": "Skulls of adults hold some 1100 to 1700 mL, those of infants 600 mL and more.",
    "longest_mm": "Inside, a skull is 13 to 19 cm long. More points to a wrong spacing.",
    "flatness": "How many times as long as thin the mask is: 1.2 to 1.6 in heads.",
    "agreement": "The network looks from three sides. 1 means that all see the same brain.",
    **{f"agreement_{third}": _THIRD for third in ("base", "middle", "upper")},
    "border_mm": "Over how many mm the network wavers between inside and outside.",
    "scattered": "Share of what looked like brain, but lay apart from it.",
    **{f"cut_{face}_mm2": _CUT for axis in FACES for face in axis},
    "faces_air": "Share of the border that lies against air, where the skull should be.",
    "near_bone": "Share of the border with bone within 4 mm, as around every brain.",
    "bone_inside": "Share of the mask that is as dense as bone.",
    "fat_inside": "Share of the mask that is fat or air.",
    "median_hu": "Brain has 20 to 45 HU, more with contrast: other values are another organ's.",
    "tail_mm": "How far the mask runs down what looks like the spinal canal.",
    "upright": "Whether the body lies below the brain, as it does unless the header is wrong.",
}
