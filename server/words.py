"""What a verdict means, in words for the page: its grades, its signs and their limits."""

from flask import Blueprint

from predict.signs import GRADE_WORDS, SIGN_WORDS, SIGNS
from predict.verdict import describe_limits

words = Blueprint("words", __name__)


@words.get("/api/words")
def show_words():
    """Each grade in a line, and in another one more; each sign's name, meaning and limits."""
    grades = {grade: {"means": said, "more": more} for grade, (said, more) in GRADE_WORDS.items()}
    signs = {
        sign: {"name": name, "means": SIGN_WORDS[sign], "limits": describe_limits(sign)}
        for sign, name in SIGNS.items()
    }
    return {"grades": grades, "signs": signs}
