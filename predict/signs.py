"""The grades and the signs of a verdict by name, for tables and pages that measure nothing."""

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
